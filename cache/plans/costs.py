"""The cost of a plan: tokens computed, padding among them, and how long ranks wait for each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..common.arrays import Array
from .strategies import EpochPlan


@dataclass(frozen=True)
class PlanCost:
    """The cost of one epoch.

    Attributes:
        batches: M.
        real_tokens: sum of the rows' lengths.
        padded_tokens: sum over batches of rows x width.
        uniform_batches: batches in which every row has the batch's width: no padding, no mask.
        utilization: rank count to mean / max padded tokens per rank over the steps; 1 means no rank ever waits.
    """

    batches: int
    real_tokens: int
    padded_tokens: int
    uniform_batches: int
    utilization: dict[int, float]

    @property
    def overhead(self) -> float:
        """Padding overhead, padded / real - 1."""
        return self.padded_tokens / self.real_tokens - 1 if self.real_tokens else 0.0


def plan_cost(plan: EpochPlan, lengths: Array, ranks: Sequence[int] = (1, 8, 64), own_width: bool = True) -> PlanCost:
    """The cost of `plan` over rows of `lengths` tokens (N,), at each of some rank counts.

    `own_width` says that each rank pads to its own longest row, as with every strategy but `fixed`.
    """
    shortest = lengths[plan.rows[plan.batch_offsets[:-1]]] if len(plan) else plan.widths
    return PlanCost(
        batches=len(plan),
        real_tokens=int(lengths.sum(dtype=np.int64)),
        padded_tokens=plan.padded_tokens,
        uniform_batches=int(np.count_nonzero(shortest == plan.widths)),
        utilization={count: _utilization(plan, lengths, count, own_width) for count in ranks},
    )


def packed_cost(plan: EpochPlan, lengths: Array, ranks: Sequence[int] = (1, 8, 64)) -> PlanCost:
    """As `plan_cost`, of packed batches: what a rank computes is the tokens of its rows."""
    real = int(lengths.sum(dtype=np.int64))
    utilization = {count: _packed_utilization(plan, lengths, count) for count in ranks}
    return PlanCost(len(plan), real, real, len(plan), utilization)


def round_up(widths: Array, multiple: int, max_length: int) -> Array:
    """Widths (M,) rounded up to a multiple, which suits tensor cores, but not past `max_length`."""
    rounded = -(-widths // multiple) * multiple
    found: Array = np.maximum(widths, np.minimum(rounded, max_length))
    return found


def round_widths(plan: EpochPlan, multiple: int, max_length: int) -> EpochPlan:
    """The plan with its widths rounded up; see `round_up`."""
    return replace(plan, widths=round_up(plan.widths, multiple, max_length))


def step_tokens(plan: EpochPlan, lengths: Array | None = None) -> Array:
    """(steps,) int64, tokens computed in each step: padded, or packed where `lengths` of all rows are given."""
    if lengths is None:
        padded: Array = plan.sizes * plan.widths.astype(np.int64)
        return padded
    packed: Array = np.add.reduceat(lengths[plan.rows.astype(np.int64)], plan.batch_offsets[:-1], dtype=np.int64)
    return packed


def heaviest_step(plan: EpochPlan) -> int:
    """The step with the most padded tokens, which needs the most memory."""
    return int(np.argmax(step_tokens(plan)))


def _utilization(plan: EpochPlan, lengths: Array, ranks: int, own_width: bool) -> float:
    """Rank r takes every `ranks`-th row of a batch from position r."""
    first, sizes = plan.batch_offsets[:-1], plan.sizes
    if not len(plan):
        return 1.0
    total = np.zeros(len(plan), np.int64)
    slowest = np.zeros(len(plan), np.int64)
    for rank in range(ranks):
        rows = np.maximum(0, (sizes - rank + ranks - 1) // ranks)
        last = first + rank + (rows - 1) * ranks
        widths = lengths[plan.rows[np.where(rows > 0, last, 0)]] if own_width else plan.widths
        cost = rows * widths
        total += cost
        slowest = np.maximum(slowest, cost)
    return float(total.sum() / (ranks * slowest.sum()))


def _packed_utilization(plan: EpochPlan, lengths: Array, ranks: int) -> float:
    """As `_utilization`, of packed batches; some batches at a time, so that memory stays small."""
    total = slowest = 0
    for begin in range(0, len(plan), BATCHES_AT_A_TIME):
        offsets = plan.batch_offsets[begin : begin + BATCHES_AT_A_TIME + 1]
        sizes = np.diff(offsets)
        tokens = lengths[plan.rows[int(offsets[0]) : int(offsets[-1])]]
        batch = np.repeat(np.arange(len(sizes)), sizes)
        rank = (np.arange(len(tokens)) - (offsets[:-1] - offsets[0])[batch]) % ranks
        costs = np.bincount(batch * ranks + rank, tokens, len(sizes) * ranks).reshape(-1, ranks)
        total, slowest = total + int(costs.sum()), slowest + int(costs.max(axis=1).sum())
    return total / (ranks * slowest) if slowest else 1.0


BATCHES_AT_A_TIME = 1 << 16
