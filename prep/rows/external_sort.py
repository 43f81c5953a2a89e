"""From texts in any order to rows in ascending length, in bounded memory.

Each chunk of encoded rows is sorted by itself into a *sorted run*. How many rows of each length the sorted runs have
says where in the sorted split every row goes: no comparison of single rows, no copy of the corpus in memory. So each
shard is put together by itself, from one slice of each sorted run, by any process that can read them. Sorted runs that
do not fit in memory are kept in a file until then.

Both steps are stable, so that rows of one length stay in source order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.common.files import storage_errors
from cache.errors import StorageError


@dataclass(frozen=True)
class SortedRun:
    """Some rows of a split, sorted by length.

    Attributes:
        ids: (tokens,) rows end to end.
        counts: (longest+1,) int64, rows of each length.
    """

    ids: "Array | Spilled"
    counts: Array


def sort_rows(ids: Array, lengths: Array) -> SortedRun:
    """Sort encoded rows by length.

    Args:
        ids: (tokens,) rows end to end, of the type to store.
        lengths: (rows,) tokens of each.
    """
    order = length_order(lengths)
    ends = np.cumsum(lengths)
    bounds = zip((ends - lengths)[order].tolist(), ends[order].tolist(), strict=True)
    # One slice per row: ten times faster than an index of every token, which is four times as large as the tokens.
    rows = [ids[:0], *(ids[begin:end] for begin, end in bounds)]
    return SortedRun(np.concatenate(rows), np.bincount(lengths, minlength=1))


def length_order(lengths: Array) -> Array:
    """(rows,) the rows in ascending length (rows,), those of one length in their order."""
    longest = int(lengths.max(initial=0))
    order: Array = np.argsort(lengths.astype(np.uint16 if longest < 1 << 16 else np.int64), kind="stable")
    return order


@dataclass(frozen=True)
class Spilled:
    """Ids in a file: slices of them are read when asked for. (A memory map would count as memory in use.)

    Attributes:
        path: of the file.
        begin: position of the first one, bytes.
        size: how many.
        dtype: of each.
    """

    path: Path
    begin: int
    size: int
    dtype: np.dtype[Any]

    def __getitem__(self, part: slice) -> Array:
        start, stop, _ = part.indices(self.size)
        width = self.dtype.itemsize
        with storage_errors(self.path, "read"):
            ids: Array = np.fromfile(self.path, self.dtype, stop - start, offset=self.begin + start * width)
        if len(ids) < stop - start:
            raise StorageError(f"{self.path} has become shorter than it was written; build again")
        return ids


@dataclass
class SortedRunStore:
    """The sorted runs of one split; ids beyond `limit_bytes` are kept in a file.

    Attributes:
        path: of that file; the caller removes it.
        limit_bytes: ids to keep in memory.
        sorted_runs: in source order.
    """

    path: Path
    limit_bytes: int
    sorted_runs: list[SortedRun] = field(default_factory=list)
    held_bytes: int = 0

    def add(self, run: SortedRun) -> None:
        """Add the next sorted run.

        Raises:
            StorageError: its ids cannot be written.
        """
        size = run.ids[:].nbytes
        if self.held_bytes + size > self.limit_bytes:
            run = self._spilled(run)
        else:
            self.held_bytes += size
        self.sorted_runs.append(run)

    def settle(self) -> None:
        """Let other processes read them, from the file: as a single one, where they are all in memory. There is
        nothing more to add.

        Raises:
            StorageError: they cannot be written.
        """
        runs = self.sorted_runs
        if runs and not any(isinstance(run.ids, Spilled) for run in runs):
            counts = total_counts(runs)
            [whole] = cut_shards(runs, counts, 1, 1 << 62, 0)
            runs = [SortedRun(whole.read(runs[0].ids[:0].dtype), counts)]
        self.sorted_runs = [run if isinstance(run.ids, Spilled) else self._spilled(run) for run in runs]

    def _spilled(self, run: SortedRun) -> SortedRun:
        """The run, its ids appended to the file, which is closed: network file systems then show it to others."""
        ids = run.ids[:]
        with storage_errors(self.path):
            self.path.parent.mkdir(exist_ok=True)  # alone: the folder of a build that has ended is not made anew
            self.path.touch(0o600)
            with self.path.open("ab") as file:
                begin = file.tell()
                file.write(np.ascontiguousarray(ids).data)
        return SortedRun(Spilled(self.path, begin, len(ids), ids.dtype), run.counts)


def total_counts(sorted_runs: Sequence[SortedRun]) -> Array:
    """(longest+1,) rows of each length over all sorted runs."""
    total = np.zeros(max((len(run.counts) for run in sorted_runs), default=1), np.int64)
    for run in sorted_runs:
        total[: len(run.counts)] += run.counts
    return total


# --- shards


@dataclass(frozen=True)
class RunSlice:
    """The rows of a sorted run that belong to a shard; they lie together in it.

    Attributes:
        ids: of the sorted run.
        begin: its first token that is wanted.
        tokens: (lengths,) how many tokens of each length of the shard.
        places: (lengths,) the token of the shard that the first of them becomes.
    """

    ids: Array | Spilled
    begin: int
    tokens: Array
    places: Array


@dataclass(frozen=True)
class ShardRows:
    """The rows of a shard, and where their ids are.

    Attributes:
        first_row: its first row's position in the sorted split.
        lengths: (rows,) ascending.
        slices: of the sorted runs, in source order.
    """

    first_row: int
    lengths: Array
    slices: list[RunSlice]

    def read(self, dtype: Any) -> Array:
        """(tokens,) the ids, rows end to end.

        Raises:
            StorageError: a file of sorted runs cannot be read.
        """
        ids = np.empty(int(self.lengths.sum()), dtype)
        for part in self.slices:
            sizes = part.tokens.tolist()
            held = part.ids[part.begin : part.begin + sum(sizes)]
            token = 0
            for size, place in zip(sizes, part.places.tolist(), strict=True):
                ids[place : place + size] = held[token : token + size]
                token += size
        return ids


def cut_shards(
    sorted_runs: Sequence[SortedRun], counts: Array, item_bytes: int, limit_bytes: int, row_bytes: int
) -> Iterator[ShardRows]:
    """Divide the rows of sorted runs among shards, each of as many rows as fit, but one at least.

    Args:
        sorted_runs: in source order.
        counts: (longest+1,) rows of each length over all of them.
        item_bytes: bytes of an id.
        limit_bytes: of one shard.
        row_bytes: bytes per row in a shard beside its ids.
    """
    held = np.zeros((len(sorted_runs), len(counts)), np.int64)  # rows of each length in each sorted run
    for row, run in zip(held, sorted_runs, strict=True):
        row[: len(run.counts)] = run.counts
    done = np.zeros_like(counts)
    begins = np.zeros(len(sorted_runs), np.int64)  # in each sorted run, the first token not yet taken
    for part in _shard_counts(counts, item_bytes, limit_bytes, row_bytes):
        low, high = np.flatnonzero(part)[[0, -1]]
        span, lengths = slice(low, high + 1), np.arange(low, high + 1)
        rows, start, stop = held[:, span], done[span], (done + part)[span]
        before = np.cumsum(rows, axis=0) - rows  # rows of each length in the sorted runs before
        tokens = (np.clip(stop - before, 0, rows) - np.clip(start - before, 0, rows)) * lengths
        places = np.cumsum(part[span] * lengths) - part[span] * lengths + np.maximum(before - start, 0) * lengths
        slices = []
        for number in np.flatnonzero(tokens.any(axis=1)).tolist():
            there = np.flatnonzero(tokens[number])
            slices.append(
                RunSlice(sorted_runs[number].ids, int(begins[number]), tokens[number, there], places[number, there])
            )
        yield ShardRows(int(done.sum()), np.repeat(lengths, part[span]), slices)
        begins += tokens.sum(axis=1)
        done += part


def _shard_counts(counts: Array, item_bytes: int, limit_bytes: int, row_bytes: int) -> Iterator[Array]:
    """(longest+1,) the rows of each length of each shard, in order: as many rows as fit."""
    part, room = np.zeros_like(counts), limit_bytes
    for length, count in enumerate(counts.tolist()):
        size = length * item_bytes + row_bytes
        while count:
            if room < size and part.any():
                yield part
                part, room = np.zeros_like(counts), limit_bytes
            fitting = min(count, max(1, room // size))
            part[length] += fitting
            count, room = count - fitting, room - fitting * size
    if part.any():
        yield part
