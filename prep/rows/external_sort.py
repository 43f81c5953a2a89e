"""From texts in any order to rows in ascending length, in bounded memory.

Each chunk of encoded rows is sorted by itself into a *sorted run*. The sorted runs are then merged length by length, by
copying blocks of rows of one length: no comparison of single rows, no copy of the corpus in memory. Sorted runs that
do not fit in memory are kept in a file until then.

Both steps are stable, so that rows of one length stay in source order.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.common.files import storage_errors


@dataclass(frozen=True)
class SortedRun:
    """Some rows of a split, sorted by length.

    Attributes:
        ids: (tokens,) rows end to end.
        counts: (longest+1,) int64, rows of each length.
        source_rows: (rows,) int64.
    """

    ids: "Array | Spilled"
    counts: Array
    source_rows: Array

    @property
    def row_starts(self) -> Array:
        """(longest+1,) the first row of each length."""
        return np.cumsum(self.counts) - self.counts

    @property
    def token_starts(self) -> Array:
        """(longest+1,) the first token of each length."""
        tokens = self.counts * np.arange(len(self.counts))
        return np.cumsum(tokens) - tokens


def sort_rows(ids: Array, lengths: Array, source_rows: Array) -> SortedRun:
    """Sort encoded rows by length.

    Args:
        ids: (tokens,) rows end to end, of the type to store.
        lengths: (rows,) tokens of each.
        source_rows: (rows,) each row's number in the source.
    """
    longest = int(lengths.max(initial=0))
    order = np.argsort(lengths.astype(np.uint16 if longest < 1 << 16 else np.int64), kind="stable")
    ends = np.cumsum(lengths)
    bounds = zip((ends - lengths)[order].tolist(), ends[order].tolist(), strict=True)
    # One slice per row: ten times faster than an index of every token, which is four times as large as the tokens.
    rows = [ids[:0], *(ids[begin:end] for begin, end in bounds)]
    return SortedRun(np.concatenate(rows), np.bincount(lengths, minlength=1), source_rows[order])


class SpillFile:
    """A file that ids are appended to and read back from; the caller who named it removes it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.size = 0

    def append(self, ids: Array) -> "Spilled":
        """Write ids at the end."""
        data = np.ascontiguousarray(ids).data.cast("B")
        begin = self.size
        while len(data):
            written = os.pwrite(self.handle, data, self.size)
            data, self.size = data[written:], self.size + written
        return Spilled(self, begin, len(ids), ids.dtype)

    def __del__(self) -> None:
        os.close(self.handle)


@dataclass(frozen=True)
class Spilled:
    """Ids in a file: slices of them are read when asked for. (A memory map would count as memory in use.)

    Attributes:
        file: where they are.
        begin: position of the first one, bytes.
        size: how many.
        dtype: of each.
    """

    file: SpillFile
    begin: int
    size: int
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> Array:
        start, stop, _ = part.indices(self.size)
        width = self.dtype.itemsize
        return np.frombuffer(os.pread(self.file.handle, (stop - start) * width, self.begin + start * width), self.dtype)


@dataclass
class SortedRunStore:
    """The sorted runs of one split; ids beyond `limit_bytes` are kept in a file.

    Attributes:
        path: of that file; the caller removes it.
        limit_bytes: ids to keep in memory.
        sorted_runs: in source order.
        tokens: in all of them.
    """

    path: Path
    limit_bytes: int
    sorted_runs: list[SortedRun] = field(default_factory=list)
    held_bytes: int = 0
    tokens: int = 0
    file: SpillFile | None = None

    def add(self, run: SortedRun) -> None:
        """Add the next sorted run.

        Raises:
            StorageError: its ids cannot be written.
        """
        size = run.ids[:].nbytes
        self.tokens += len(run.ids)
        if self.held_bytes + size > self.limit_bytes and size:
            with storage_errors(self.path):
                self.file = self.file or SpillFile(self.path)
                run = replace(run, ids=self.file.append(run.ids[:]))
        else:
            self.held_bytes += size
        self.sorted_runs.append(run)

    @property
    def counts(self) -> Array:
        """(longest+1,) rows of each length over all sorted runs."""
        total = np.zeros(max((len(run.counts) for run in self.sorted_runs), default=1), np.int64)
        for run in self.sorted_runs:
            total[: len(run.counts)] += run.counts
        return total


@dataclass(frozen=True)
class ShardRows:
    """Rows of one shard, ready to be written: (tokens,) ids, (rows,) lengths, (rows,) source rows."""

    ids: Array
    lengths: Array
    source_rows: Array


def merge(
    sorted_runs: list[SortedRun], counts: Array, dtype: type, limit_bytes: int, row_bytes: int
) -> Iterator[ShardRows]:
    """Merge sorted runs into shards. All use the same memory: a shard is valid until the next one is asked for.

    Args:
        sorted_runs: in source order.
        counts: (longest+1,) rows of each length over all of them.
        dtype: of the ids.
        limit_bytes: of one shard; a shard has at least one row.
        row_bytes: bytes per row in a shard beside its ids.
    """
    blocks = LengthBlocks(sorted_runs)
    total, longest = int(counts @ np.arange(len(counts))), len(counts) - 1
    buffer: Array = np.empty(min(total, max(longest, limit_bytes // np.dtype(dtype).itemsize)), dtype)
    for lengths in _shard_lengths(counts, np.dtype(dtype).itemsize, limit_bytes, row_bytes):
        tokens = int(lengths.sum())
        ids, source_rows = buffer[:tokens], np.empty(len(lengths), np.int64)
        row = token = 0
        while row < len(lengths):
            part_ids, part_rows = blocks.take(len(lengths) - row)
            ids[token : token + len(part_ids)] = part_ids
            source_rows[row : row + len(part_rows)] = part_rows
            row, token = row + len(part_rows), token + len(part_ids)
        yield ShardRows(ids, lengths, source_rows)


def _shard_lengths(counts: Array, item_bytes: int, limit_bytes: int, row_bytes: int) -> Iterator[Array]:
    """The lengths of the rows of each shard, in order: as many rows as fit."""
    part, room = np.zeros_like(counts), limit_bytes
    for length, count in enumerate(counts.tolist()):
        size = length * item_bytes + row_bytes
        while count:
            if room < size and part.any():
                yield np.repeat(np.arange(len(part)), part)
                part, room = np.zeros_like(counts), limit_bytes
            fitting = min(count, max(1, room // size))
            part[length] += fitting
            count, room = count - fitting, room - fitting * size
    if part.any():
        yield np.repeat(np.arange(len(part)), part)


class LengthBlocks:
    """Blocks of rows of one length, shortest first, sorted runs in order, taken piece by piece."""

    def __init__(self, sorted_runs: list[SortedRun]) -> None:
        self.source = self._all(sorted_runs)
        self.ids: Array = np.zeros(0)
        self.rows: Array = np.zeros(0)
        self.length = 0

    @staticmethod
    def _all(sorted_runs: list[SortedRun]) -> Iterator[tuple[Array, Array, int]]:
        starts = [(run.row_starts, run.token_starts) for run in sorted_runs]
        for length in range(max((len(run.counts) for run in sorted_runs), default=0)):
            for run, (row_starts, token_starts) in zip(sorted_runs, starts, strict=True):
                count = int(run.counts[length]) if length < len(run.counts) else 0
                if count:
                    row, token = int(row_starts[length]), int(token_starts[length])
                    yield run.ids[token : token + count * length], run.source_rows[row : row + count], length

    def take(self, most: int) -> tuple[Array, Array]:
        """The ids and source rows of at most `most` rows of the next block."""
        if not len(self.rows):
            self.ids, self.rows, self.length = next(self.source)
        ids, rows = self.ids[: most * self.length], self.rows[:most]
        self.ids, self.rows = self.ids[most * self.length :], self.rows[most:]
        return ids, rows
