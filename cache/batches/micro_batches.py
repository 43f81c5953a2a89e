"""From a plan to what one rank computes: its micro-batches, a stretch of steps at a time, without a loop over rows.

With R ranks and A accumulation steps, rank r at micro-step a takes every (R*A)-th row of a planned batch from position
a*R + r. Rows of a planned batch ascend in length, so all ranks get rows of almost the same lengths, and step k trains
on the same rows for any R and A.

All ranks have the same number of micro-batches, so that none waits for the others' gradients for ever. Where a small
batch leaves a rank nothing at a micro-step at which others have rows, it computes the batch's longest row as well, and
counts it for nothing: a filler.
"""

from dataclasses import dataclass

import numpy as np

from ..common.arrays import Array
from ..plans.strategies import EpochPlan


@dataclass(frozen=True)
class Layout:
    """How planned batches are shared out and padded.

    Attributes:
        rank: this process's number, 0..world_size-1.
        world_size: R.
        accumulation: A.
        max_length: of the cache, tokens.
        fixed: pad every batch to `max_length`; otherwise to its longest row.
        multiple: round widths up to a multiple of so many tokens, as far as `max_length`.
    """

    rank: int
    world_size: int
    accumulation: int
    max_length: int
    fixed: bool
    multiple: int


@dataclass(frozen=True)
class MicroBatches:
    """Consecutive micro-batches of one rank: N rows in M micro-batches, fillers included, end to end.

    Attributes:
        rows: (N,) int64 row numbers, ascending within a micro-batch.
        lengths: (N,) tokens of each row.
        offsets: (M+1,) micro-batch i is rows[offsets[i]:offsets[i+1]].
        widths: (M,) columns of each, tokens.
        steps: (M,) the optimizer step each belongs to.
        step_rows: (M,) rows of that step over all ranks and micro-steps.
        targets: (M,) labels that the mean loss of each is over: its rows, or its labelled tokens; 0 in a filler.
        step_targets: (M,) the same of that step over all ranks and micro-steps.
        last: (M,) bool, whether it is its step's last.
        filler: (M,) bool, whether its only row is another rank's.
    """

    rows: Array
    lengths: Array
    offsets: Array
    widths: Array
    steps: Array
    step_rows: Array
    targets: Array
    step_targets: Array
    last: Array
    filler: Array

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def uniform(self) -> Array:
        """(M,) bool, whether every row fills the width: no padding, no mask."""
        filled: Array = self.lengths[self.offsets[:-1]] == self.widths
        return filled

    @property
    def real_tokens(self) -> Array:
        """(M,) int64, sum of the lengths; 0 in a filler."""
        return np.add.reduceat(self.lengths, self.offsets[:-1], dtype=np.int64) * ~self.filler


def micro_batches(
    plan: EpochPlan, lengths: Array, begin: int, end: int, layout: Layout, label_counts: Array | None = None
) -> MicroBatches:
    """A rank's micro-batches of the steps `begin` to `end`, but for micro-steps that leave every rank without rows.

    Args:
        plan: the epoch.
        lengths: (rows of the split,) tokens of each.
        begin, end: a range of steps.
        layout: ranks, accumulation, padding.
        label_counts: (rows of the split,) labelled tokens of each; None where each row has one label.
    """
    first, stop = int(plan.batch_offsets[begin]), int(plan.batch_offsets[end])
    rows = plan.rows[first:stop].astype(np.int64)
    sizes = np.diff(plan.batch_offsets[begin : end + 1])
    step_targets = _sums(rows, plan.batch_offsets[begin:end] - first, label_counts, sizes)
    key = np.repeat(np.arange(len(sizes)), sizes)  # the step each row belongs to
    fillers = np.zeros(0, np.int64)
    if layout.world_size * layout.accumulation > 1:
        rows, key, fillers = _share(rows, key, sizes, layout)
    counts = np.bincount(key, minlength=len(sizes) * layout.accumulation)
    filled = np.flatnonzero(counts)
    filler = np.zeros(len(counts), bool)
    filler[fillers] = True
    offsets = np.append(0, np.cumsum(counts[filled]))
    own = lengths[rows]
    longest = own[offsets[1:] - 1]
    steps = filled // layout.accumulation
    return MicroBatches(
        rows=rows,
        lengths=own,
        offsets=offsets,
        widths=_widths(longest, layout),
        steps=steps + begin,
        step_rows=sizes[steps],
        targets=_sums(rows, offsets[:-1], label_counts, counts[filled]) * ~filler[filled],
        step_targets=step_targets[steps],
        last=np.append(steps[1:] != steps[:-1], np.ones(min(len(steps), 1), bool)),
        filler=filler[filled],
    )


def _sums(rows: Array, begins: Array, label_counts: Array | None, sizes: Array) -> Array:
    """Labels of each stretch of `rows` that starts at one of `begins` and has `sizes` rows."""
    sums: Array = sizes if label_counts is None else np.add.reduceat(label_counts[rows], begins)
    return sums


def _share(rows: Array, step: Array, sizes: Array, layout: Layout) -> tuple[Array, Array, Array]:
    """This rank's rows, micro-batch after micro-batch, the micro-batch each belongs to, and those that are fillers."""
    ranks, ends = layout.world_size, np.cumsum(sizes)
    position = np.arange(len(rows)) - np.repeat(ends - sizes, sizes)
    place = position % (ranks * layout.accumulation)
    mine = place % ranks == layout.rank
    # A batch with less rows than places ends amid a micro-step, in which the ranks behind its last row have nothing.
    short = np.flatnonzero((sizes < ranks * layout.accumulation) & ((sizes - 1) % ranks < layout.rank))
    fillers = short * layout.accumulation + (sizes[short] - 1) // ranks
    key = np.append((step * layout.accumulation + place // ranks)[mine], fillers)
    order = np.argsort(key, kind="stable")
    return np.append(rows[mine], rows[ends[short] - 1])[order], key[order], fillers


def _widths(longest: Array, layout: Layout) -> Array:
    if layout.fixed:
        return np.full(len(longest), layout.max_length)
    rounded = -(-longest // layout.multiple) * layout.multiple
    widths: Array = np.maximum(longest, np.minimum(rounded, layout.max_length))
    return widths
