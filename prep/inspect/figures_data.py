"""The numbers behind the figures of a cache, summarized so that any number of rows can be drawn.

Shapes: N rows, M batches, B bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache import Split
from cache.common.arrays import Array
from cache.format.manifest import SplitInfo
from cache.plans.strategies import EpochPlan

from .summary import TokenRow, table_specs, token_row

BINS = 200
"""Most bins of a curve of lengths."""

FIRST_BATCHES = 24
"""Batches that are drawn row by row."""

MOST_LIMITS = 6
"""Smaller max lengths that are compared."""

MOST_STEPS = 16
"""Rows drawn of one batch; a larger batch is drawn by groups of rows."""


@dataclass(frozen=True)
class LengthCurve:
    """Row lengths along N rows in some order, in B bins of neighbors.

    Attributes:
        position: (B,) the middle of each bin, in 0..rows.
        quantiles: (5, B) lowest, quarter, median, three quarters and highest of each bin's lengths.
        rows: N.
        jump: mean difference in length from one row to the next, tokens.
    """

    position: Array
    quantiles: Array
    rows: int
    jump: float


@dataclass(frozen=True)
class DrawnBatch:
    """One batch: `rows` rows padded to `width`; `lengths` ascend, each the mean of an equal part of the rows."""

    rows: int
    width: int
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class PlanView(TokenRow):
    """One plan's first epoch: its line of the token table, and its first batches."""

    first: tuple[DrawnBatch, ...] = ()

    @property
    def name(self) -> str:
        """Its strategy and batch size."""
        size = f"{self.spec.batch_size:,} rows" if self.spec.batch_size else f"{self.spec.max_tokens:,} tokens"
        return f"{self.spec.strategy}, {size}"


@dataclass(frozen=True)
class Truncation:
    """The effect of a smaller max length: rows cut, tokens left."""

    max_length: int
    rows_cut: int
    tokens: int


def plan_views(split: Split) -> list[PlanView]:
    """Every plan of the token table, in its order: fixed, dynamic, smart, tight, and what else is stored."""
    stored, views = split.stored_plans(), []
    for spec in table_specs(split):
        plan = split.plan(spec, 0)  # held meanwhile, so that it is drawn once
        views.append(PlanView(**vars(token_row(split, spec, stored)), first=_first_batches(plan, split.lengths)))
    return views


def _first_batches(plan: EpochPlan, lengths: Array) -> tuple[DrawnBatch, ...]:
    batches = []
    for index in range(min(FIRST_BATCHES, len(plan))):
        rows = plan.rows[plan.batch_offsets[index] : plan.batch_offsets[index + 1]]
        groups = np.array_split(lengths[rows], min(len(rows), MOST_STEPS))
        means = tuple(float(group.mean()) for group in groups)
        batches.append(DrawnBatch(len(rows), int(plan.widths[index]), means))
    return tuple(batches)


def length_curve(lengths: Array, bins: int = BINS) -> LengthCurve:
    """Summarize the (N,) lengths of rows in some order, N at least 1, in at most `bins` bins."""
    edges = np.linspace(0, len(lengths), min(bins, len(lengths)) + 1).astype(np.int64)
    parts = np.split(lengths, edges[1:-1])
    quantiles = np.array([np.quantile(part, (0, 0.25, 0.5, 0.75, 1)) for part in parts])  # (B, 5)
    jump = float(np.abs(np.diff(lengths)).mean()) if len(lengths) > 1 else 0.0
    return LengthCurve((edges[:-1] + edges[1:]) / 2, quantiles.T, len(lengths), jump)


def rows_at_limit(info: SplitInfo, max_length: int) -> int:
    """Rows of the max length: cut there, or exactly as long."""
    return info.length_histogram[max_length] if len(info.length_histogram) > max_length else 0


def truncations(info: SplitInfo, max_length: int, limits: Sequence[int]) -> list[Truncation]:
    """The effect of each of some max lengths, 1 to the cache's own, on the rows as they are in the cache."""
    counts = np.zeros(max_length + 1, np.int64)
    counts[: len(info.length_histogram)] = info.length_histogram
    longer = info.rows - np.cumsum(counts)  # longer[n]: rows of more than n tokens
    kept = np.cumsum(longer)  # a row keeps its token n, counted from 0, where it is longer than n
    return [Truncation(limit, int(longer[limit]), int(kept[limit - 1])) for limit in limits]


def smaller_limits(max_length: int, longest: int) -> list[int]:
    """Max lengths to compare with: the largest of 2, 3, 4, 6, 8, 12, 16, … that would cut something."""
    candidates = [base << shift for shift in range(20) for base in (2, 3)]
    return sorted(limit for limit in candidates if limit < min(max_length, longest))[-MOST_LIMITS:]
