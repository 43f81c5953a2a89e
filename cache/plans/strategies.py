"""Plans: which rows make each batch of an epoch, in which order, padded to which width.

A plan is a pure function of (lengths, strategy, batch size or token budget, seed, epoch). It knows nothing of
devices, ranks or files. All randomness is taken as raw 64-bit words of a PCG64 generator, whose stream numpy
guarantees, and turned into slices and shuffles here: the same inputs give the same plan on any machine and
under any numpy release.

Shapes: N rows, M batches.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.arrays import Array
from ..errors import InputError
from .shrinking_list import slice_batches
from .spec import STRATEGIES, PlanSpec


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch.

    Attributes:
        rows: (N,) uint32 (int64 beyond 2**32 rows); the batches' rows end to end, ascending within a batch.
        batch_offsets: (M+1,) int64; batch b is rows[batch_offsets[b]:batch_offsets[b+1]].
        widths: (M,) int32; columns of each padded batch, tokens.
    """

    rows: Array
    batch_offsets: Array
    widths: Array

    def __len__(self) -> int:
        return len(self.widths)

    @property
    def sizes(self) -> Array:
        """(M,) int64, rows of each batch."""
        return np.diff(self.batch_offsets)

    @property
    def padded_tokens(self) -> int:
        """Sum over batches of rows x width."""
        return int(self.sizes @ self.widths.astype(np.int64))


def plan_epoch(lengths: Array, spec: PlanSpec, epoch: int, max_length: int) -> EpochPlan:
    """Plan one epoch.

    Args:
        lengths: (N,) integers, tokens of each row, ascending.
        spec: strategy, batch size and seed.
        epoch: 0 or more; every epoch is drawn afresh.
        max_length: the width of `fixed` batches, tokens.

    Raises:
        InputError: the epoch is negative, the lengths do not ascend or exceed `max_length`, or a row exceeds the token
            budget.
    """
    if epoch < 0:
        raise InputError(f"epoch {epoch} is negative")
    words, lengths = _words(spec, epoch), np.asarray(lengths)
    if len(lengths) == 0:
        return EpochPlan(np.zeros(0, np.uint32), np.zeros(1, np.int64), np.zeros(0, np.int32))
    if np.any(lengths[1:] < lengths[:-1]) or lengths[0] < 0 or lengths[-1] > max_length:
        raise InputError(f"the lengths of a plan's rows ascend from 0 or more to at most max_length, {max_length:,}")
    batch_size, max_tokens = spec.batch_size or 0, spec.max_tokens or 0
    if spec.strategy == "budget" and lengths[-1] > max_tokens:
        raise InputError(
            f"--max-tokens {max_tokens:,} is less than the longest row, {lengths[-1]:,} tokens; "
            f"pass --max-tokens {lengths[-1]} or more"
        )
    if spec.strategy in ("tight", "budget"):
        size = Budget(max_tokens) if spec.strategy == "budget" else Count(batch_size)
        rows, offsets = _by_length(lengths, size, words)
    else:
        offsets = np.append(np.arange(0, len(lengths), batch_size), len(lengths))
        if spec.strategy == "smart":
            positions = slice_batches(len(lengths), batch_size, draw_starts(len(lengths), batch_size, words))
            rows = _sort_within(_ties_shuffled(lengths, words)[positions], offsets)
        else:
            rows = _sort_within(_shuffled(len(lengths), words), offsets)
    if spec.strategy == "fixed":
        widths = np.full(len(offsets) - 1, max_length, np.int32)
    else:
        widths = lengths[rows[offsets[1:] - 1]].astype(np.int32)
    return EpochPlan(rows, offsets.astype(np.int64), widths)


# --- randomness

Words = Callable[[int], npt.NDArray[np.uint64]]
"""words(n) returns the next n raw 64-bit words of a random stream."""


def _words(spec: PlanSpec, epoch: int) -> Words:
    return np.random.PCG64(np.random.SeedSequence([spec.seed, epoch, STRATEGIES.index(spec.strategy)])).random_raw


def _below(words: npt.NDArray[np.uint64], high: Array) -> Array:
    """Each word as an integer uniform in 0..high-1 (53 bits of it)."""
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    drawn: Array = np.minimum((unit * high).astype(np.int64), high - 1)
    return drawn


def _shuffled(count: int, words: Words) -> Array:
    """0..count-1 in random order: sorted by random keys, each key carrying its number in the low bits.

    Sorting values rather than positions makes the result independent of the sorting algorithm.
    """
    bits = np.uint64(max(1, (count - 1).bit_length()))
    keys = words(count)
    keys >>= bits
    keys <<= bits
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    keys &= (np.uint64(1) << bits) - np.uint64(1)
    return keys.astype(_row_type(count))


def _row_type(count: int) -> type[Any]:
    return np.uint32 if count <= 1 << 32 else np.int64


def _groups(lengths: Array) -> Iterator[tuple[int, int]]:
    """First and end of each range of rows of equal length."""
    return pairwise([0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)])


def _group_shuffled(start: int, end: int, rows: int, words: Words) -> Array:
    """start..end-1 in random order, in the type of a plan of so many rows."""
    shuffled = _shuffled(end - start, words).astype(_row_type(rows), copy=False)
    shuffled += _row_type(rows)(start)
    return shuffled


def _ties_shuffled(lengths: Array, words: Words) -> Array:
    """0..N-1 in ascending length, rows of one length in random order.

    Many corpora come sorted by label, and a truncated one has thousands of rows of the greatest length: in source
    order, contiguous slices of those would be batches of a single class.
    """
    return np.concatenate([_group_shuffled(start, end, len(lengths), words) for start, end in _groups(lengths)])


# --- smart: the tutorials' way


def draw_starts(rows: int, batch_size: int, words: Words) -> Array:
    """(M,) int64: for each batch the start of its slice, uniform over the positions where it fits in what remains."""
    remaining = rows - batch_size * np.arange(-(-rows // batch_size), dtype=np.int64)
    positions = remaining - np.minimum(batch_size, remaining) + 1
    return _below(words(len(positions)), positions)


# --- tight and budget: uniform batches first


@dataclass(frozen=True)
class Count:
    """Batches of a fixed number of rows."""

    rows: int

    def rows_at(self, length: int) -> int:
        """Rows of a batch in which every row has `length` tokens."""
        return self.rows

    def cut(self, lengths: Array, phase: float) -> Array:
        """Offsets that cut rows of ascending `lengths` into batches, the first shortened to a `phase` in (0, 1]."""
        first = ceil(phase * self.rows)
        return np.append([0], np.append(np.arange(first, len(lengths), self.rows), len(lengths)))


@dataclass(frozen=True)
class Budget:
    """Batches of at most so many padded tokens."""

    tokens: int

    def rows_at(self, length: int) -> int:
        return self.tokens // max(length, 1)

    def cut(self, lengths: Array, phase: float) -> Array:
        offsets, tokens = [0], max(int(phase * self.tokens), int(lengths[0]))
        while offsets[-1] < len(lengths):
            offsets.append(self._close(lengths, offsets[-1], tokens))
            tokens = self.tokens
        return np.array(offsets)

    @staticmethod
    def _close(lengths: Array, start: int, tokens: int) -> int:
        """The largest end for which (end - start) x lengths[end - 1], which grows with end, stays in the budget."""
        ends = range(start + 2, min(len(lengths), start + tokens // max(int(lengths[start]), 1)) + 1)
        return start + 1 + bisect_right(ends, tokens, key=lambda end: (end - start) * int(lengths[end - 1]))


def _by_length(lengths: Array, size: Count | Budget, words: Words) -> tuple[Array, Array]:
    """Shuffle within each length and cut full, uniform batches; cut the rest in length order; shuffle all batches."""
    uniform: list[Array] = []
    sizes: list[Array] = []
    rest: list[Array] = []
    for start, end in _groups(lengths):
        group = _group_shuffled(start, end, len(lengths), words)
        per_batch = size.rows_at(int(lengths[start]))
        batches = len(group) // per_batch
        full = group[: batches * per_batch].reshape(batches, per_batch)
        full.sort(axis=1)
        uniform.append(full.ravel())
        sizes.append(np.full(batches, per_batch))
        rest.append(group[batches * per_batch :])
    left = np.concatenate(rest)
    if len(left):
        offsets = size.cut(lengths[left], 1.0 - _unit(words))
        uniform.append(_sort_within(left, offsets))
        sizes.append(np.diff(offsets))
    rows, counts = np.concatenate(uniform), np.concatenate(sizes)
    order = _shuffled(len(counts), words)
    return _arrange(rows, counts, order)


def _unit(words: Words) -> float:
    return float((words(1)[0] >> np.uint64(11)) * 2.0**-53)


def _sort_within(rows: Array, offsets: Array) -> Array:
    """Sort the rows of each batch."""
    size = int(offsets[1])
    if np.array_equal(offsets, np.append(np.arange(0, len(rows), size), len(rows))):  # but for the last, of one size
        whole = len(rows) // size * size
        return np.concatenate([np.sort(rows[:whole].reshape(-1, size), axis=1).ravel(), np.sort(rows[whole:])])
    batch = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint32), np.diff(offsets))
    return rows[np.lexsort((rows, batch))]


def _arrange(rows: Array, counts: Array, order: Array) -> tuple[Array, Array]:
    """The batches in a new order, some at a time, so that positions need little memory."""
    starts = np.cumsum(counts) - counts
    offsets = np.append(0, np.cumsum(counts[order]))
    result = np.empty_like(rows)
    for i in range(0, len(order), _PIECE):
        part = order[i : i + _PIECE]
        begin, end = offsets[i], offsets[min(i + _PIECE, len(order))]
        shift = np.repeat(starts[part] - offsets[i : i + len(part)], counts[part])
        result[begin:end] = rows[shift + np.arange(begin, end)]
    return result, offsets


_PIECE = 1 << 16
