"""The cost of a plan: tokens computed, padding among them, and how well ranks that share its batches are used."""

from dataclasses import dataclass

import numpy as np

from ..common.arrays import Array
from .shares import ATTENTION_LENGTH, divide_by, row_costs
from .strategies import EpochPlan


@dataclass(frozen=True)
class PlanCost:
    """The cost of one epoch.

    Attributes:
        batches: M.
        real_tokens: sum of the rows' lengths.
        padded_tokens: sum over batches of rows x width.
        uniform_batches: batches in which every row has the batch's width: no padding, no mask.
    """

    batches: int
    real_tokens: int
    padded_tokens: int
    uniform_batches: int

    @property
    def overhead(self) -> float:
        """Padding overhead, padded / real - 1."""
        return self.padded_tokens / self.real_tokens - 1 if self.real_tokens else 0.0


@dataclass(frozen=True)
class RankUse:
    """How much of their time ranks compute while they share the batches of an epoch.

    Attributes:
        busy: mean / max cost over the ranks, steps weighted by their time; 1: no rank ever waits for another.
        useful: the same, with only what the rows cost without padding on the upper side.
    """

    busy: float
    useful: float


def plan_cost(plan: EpochPlan, lengths: Array) -> PlanCost:
    """The cost of `plan` over rows of `lengths` tokens (N,)."""
    shortest = lengths[plan.rows[plan.batch_offsets[:-1]]]
    return PlanCost(
        batches=len(plan),
        real_tokens=int(lengths.sum(dtype=np.int64)),
        padded_tokens=plan.padded_tokens,
        uniform_batches=int(np.count_nonzero(shortest == plan.widths)),
    )


def packed_cost(cost: PlanCost) -> PlanCost:
    """The cost of the same plan with packed batches."""
    return PlanCost(cost.batches, cost.real_tokens, cost.real_tokens, cost.batches)


def rank_use(
    plan: EpochPlan,
    lengths: Array,
    ranks: int,
    *,
    packed: bool = False,
    fixed_width: int | None = None,
    attention_length: int = ATTENTION_LENGTH,
) -> RankUse:
    """How well `ranks` are used that share batches as `Split.batches` does; of a long epoch some steps spread evenly.

    Args:
        lengths: (N,) tokens of each row.
        packed: rows are not padded.
        fixed_width: what all rows are padded to; None: each rank pads to its own longest row.
        attention_length: see `BatchOptions`.
    """
    chosen = np.arange(0, len(plan), max(1, len(plan.rows) // MOST_ROWS, len(plan) * ranks // MOST_PARTS))
    if not len(chosen):
        return RankUse(1.0, 1.0)
    sizes = plan.sizes[chosen]
    ends = np.cumsum(sizes)
    positions = np.repeat(plan.batch_offsets[chosen] - ends + sizes, sizes) + np.arange(ends[-1])
    needed = row_costs(lengths[plan.rows[positions]], attention_length)
    costs = needed
    if fixed_width is not None and not packed:
        costs = row_costs(np.full(len(needed), fixed_width), attention_length)
    part = np.repeat(np.arange(len(sizes)), sizes) * ranks + divide_by(packed)(costs, sizes, ranks)
    if packed:
        of_parts = np.bincount(part, costs, len(sizes) * ranks)
    else:
        longest = np.zeros(len(sizes) * ranks, np.int64)
        longest[part] = costs  # rows ascend, so the last one that is written is a part's longest
        of_parts = np.bincount(part, minlength=len(longest)) * longest
    slowest = ranks * of_parts.reshape(-1, ranks).max(axis=1).sum()
    return RankUse(float(of_parts.sum() / slowest), float(needed.sum() / slowest))


MOST_ROWS = 1 << 18
MOST_PARTS = 1 << 21
"""Up to about so many rows are shared out, into so many parts, to see how well ranks are used."""


def round_up(widths: Array, multiple: int, max_length: int) -> Array:
    """Widths (M,) rounded up to a multiple, which suits tensor cores, but not past `max_length`."""
    multiple = min(multiple, max_length)  # a larger one gives `max_length` too
    rounded: Array = np.minimum(-(-widths // multiple) * multiple, max_length)
    return rounded


def heaviest_step(plan: EpochPlan) -> int:
    """The step with the most padded tokens, which needs the most memory."""
    return int(np.argmax(plan.sizes * plan.widths.astype(np.int64)))
