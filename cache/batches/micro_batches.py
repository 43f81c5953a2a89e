"""Micro-batches of one rank from a plan, a chunk of steps at a time, without a loop over rows.

With R ranks and A accumulation steps, a planned batch is divided into R x A parts of about the same cost
(`cache.plans.shares`); rank r computes part a*R + r at micro-step a. Step k trains on the same rows for any R and A.

All ranks have the same number of micro-batches, so that none waits for the others' gradients forever. Where a small
batch leaves a rank nothing at a micro-step at which others have rows, it computes the batch's shortest row as well, and
counts it for nothing: a dummy batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..common.arrays import Array
from ..plans.costs import round_up
from ..plans.shares import ATTENTION_LENGTH, divide_by, row_costs
from ..plans.strategies import EpochPlan


@dataclass(frozen=True)
class Sharing:
    """How planned batches are shared out and padded.

    Attributes:
        max_length: of the cache, tokens.
        rank: this process's number, 0..world_size-1.
        world_size: R.
        accumulation_steps: A.
        fixed: pad every batch to `max_length`; otherwise to its longest row.
        multiple: round widths up to a multiple of so many tokens, as far as `max_length`.
        packed: rows lie end to end, so that a part costs the sum of its rows and not its width for each of them.
        equal_rows: divide a batch into parts of equally many rows, whatever they cost.
        attention_length: see `cache.plans.shares.ATTENTION_LENGTH`.
    """

    max_length: int
    rank: int = 0
    world_size: int = 1
    accumulation_steps: int = 1
    fixed: bool = False
    multiple: int = 1
    packed: bool = False
    equal_rows: bool = False
    attention_length: int = ATTENTION_LENGTH

    def widths(self, longest: Array) -> Array:
        """Columns of batches whose longest row has so many tokens."""
        if self.fixed:
            return np.full(len(longest), self.max_length)
        return round_up(longest, self.multiple, self.max_length)


class MicroBatch(NamedTuple):
    """A micro-batch without its tensors: fields of `cache.batches.batch.Batch`, which describes them, in its order."""

    rows: Array
    step: int
    step_rows: int
    targets: int
    step_targets: int
    last: bool
    real_tokens: int


@dataclass(frozen=True)
class MicroBatches:
    """Consecutive micro-batches of one rank: N rows in M micro-batches, dummy batches included, end to end.

    Attributes:
        rows: (N,) int64 row numbers, ascending within a micro-batch.
        lengths: (N,) tokens of each row.
        offsets: (M+1,) micro-batch i is rows[offsets[i]:offsets[i+1]].
        widths: (M,) columns of each, tokens.
        steps: (M,) the optimizer step each belongs to.
        step_rows: (M,) rows of that step over all ranks and micro-steps.
        targets: (M,) labels that the mean loss of each is over: its rows, or its labelled tokens; 0 in a dummy batch.
        step_targets: (M,) the same of that step over all ranks and micro-steps.
        last: (M,) bool, whether it is its step's last.
        dummy: (M,) bool, whether its only row is another rank's.
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
    dummy: Array

    def __iter__(self) -> Iterator[MicroBatch]:
        spans = zip(pairwise(self.offsets.tolist()), self.dummy.tolist(), strict=True)
        rows = (self.rows[first : first if dummy else stop] for (first, stop), dummy in spans)
        columns = (self.steps, self.step_rows, self.targets, self.step_targets, self.last, self.real_tokens)
        return map(MicroBatch, rows, *(column.tolist() for column in columns))

    @property
    def uniform(self) -> Array:
        """(M,) bool, whether every row fills the width: no padding, no mask."""
        filled: Array = self.lengths[self.offsets[:-1]] == self.widths
        return filled

    @property
    def padded_tokens(self) -> Array:
        """(M,) int64, rows x width."""
        return np.diff(self.offsets) * self.widths.astype(np.int64)

    @property
    def real_tokens(self) -> Array:
        """(M,) int64, sum of the lengths; 0 in a dummy batch."""
        return np.add.reduceat(self.lengths, self.offsets[:-1], dtype=np.int64) * ~self.dummy


def micro_batches(
    plan: EpochPlan, lengths: Array, begin: int, end: int, sharing: Sharing, label_counts: Array | None = None
) -> MicroBatches:
    """A rank's micro-batches of the steps `begin` to `end`, of which there are some, without micro-steps at which no
    rank has rows. `lengths` and `label_counts` are those of all rows of the split; None where each row has one label.
    """
    first, stop = int(plan.batch_offsets[begin]), int(plan.batch_offsets[end])
    rows = plan.rows[first:stop].astype(np.int64)
    sizes = np.diff(plan.batch_offsets[begin : end + 1])
    needed = -(-int(sizes.max()) // sharing.world_size)  # micro-steps in which each row is a part of its own
    sharing = replace(sharing, accumulation_steps=min(sharing.accumulation_steps, needed))
    step_targets = _sums(rows, plan.batch_offsets[begin:end] - first, label_counts, sizes)
    key = np.repeat(np.arange(len(sizes)), sizes)  # the step each row belongs to
    dummies = np.zeros(0, np.int64)
    if sharing.world_size * sharing.accumulation_steps > 1:
        rows, key, dummies = _share(rows, key, sizes, lengths[rows], sharing)
    counts = np.bincount(key, minlength=len(sizes) * sharing.accumulation_steps)
    filled = np.flatnonzero(counts)
    dummy = np.zeros(len(counts), bool)
    dummy[dummies] = True
    offsets = np.append(0, np.cumsum(counts[filled]))
    own = lengths[rows]
    steps = filled // sharing.accumulation_steps
    return MicroBatches(
        rows=rows,
        lengths=own,
        offsets=offsets,
        widths=sharing.widths(own[offsets[1:] - 1]),
        steps=steps + begin,
        step_rows=sizes[steps],
        targets=_sums(rows, offsets[:-1], label_counts, counts[filled]) * ~dummy[filled],
        step_targets=step_targets[steps],
        last=np.append(steps[1:] != steps[:-1], True),
        dummy=dummy[filled],
    )


def _sums(rows: Array, begins: Array, label_counts: Array | None, sizes: Array) -> Array:
    """Labels of each slice of `rows` that starts at one of `begins` and has `sizes` rows."""
    return sizes if label_counts is None else np.add.reduceat(label_counts[rows], begins)


def _share(rows: Array, step: Array, sizes: Array, lengths: Array, sharing: Sharing) -> tuple[Array, Array, Array]:
    """This rank's rows in the order of micro-batches, the micro-batch of each, and which micro-batches are dummies."""
    ranks, steps, ends = sharing.world_size, sharing.accumulation_steps, np.cumsum(sizes)
    costs = row_costs(lengths if sharing.packed else sharing.widths(lengths), sharing.attention_length)
    part = divide_by(sharing.packed, sharing.equal_rows)(costs, sizes, ranks * steps)
    mine = part % ranks == sharing.rank
    # A batch with fewer rows than parts ends amid a micro-step, in which the ranks behind its last part have nothing.
    short = np.flatnonzero((sizes < ranks * steps) & ((sizes - 1) % ranks < sharing.rank))
    dummies = short * steps + (sizes[short] - 1) // ranks
    key = np.append((step * steps + part // ranks)[mine], dummies)
    order = np.argsort(key, kind="stable")
    return np.append(rows[mine], rows[(ends - sizes)[short]])[order], key[order], dummies
