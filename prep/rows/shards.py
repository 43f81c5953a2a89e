"""Write the shards of a split: each is a task that puts together its rows from the sorted runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.common.arrays import Array
from cache.common.folder import Folder
from cache.console.progress import ConsoleProgress
from cache.format.manifest import ShardInfo, SplitInfo
from cache.format.tasks import Task
from cache.writing.writer import ShardColumns, write_shard

from ..tokenization.words import unpack
from .assembly import Encoded, EncodedSplit
from .executors import Executor
from .external_sort import ShardRows, cut_shards, length_order, total_counts
from .parts import Report

ROW_BYTES = 16
"""Bytes of a row in a shard without its ids, label and first length: offset, source row."""


@dataclass(frozen=True)
class ShardFormat:
    """What the shards of a cache have in common.

    Attributes:
        folder: of the cache that is being built.
        task: what the labels mean.
        id_type: of what the sorted runs hold.
        marked: where tokens have labels, the label of each mark; else None.
    """

    folder: Path
    task: Task
    id_type: type
    marked: Array | None


@dataclass(frozen=True)
class ShardPart:
    """A shard to write: split, number, rows, and the columns of them that are not ids."""

    split: str
    number: int
    rows: ShardRows
    source_rows: Array
    labels: Array | None
    first_lengths: Array | None


def write_part(form: ShardFormat, part: ShardPart, report: Report) -> ShardInfo:
    """Put together a shard and write it; one that a task before left unfinished is replaced.

    Raises:
        StorageError: a file cannot be read or written.
    """
    ids, labels = part.rows.read(form.id_type), part.labels
    if form.marked is not None:
        ids, marks = unpack(ids)
        labels = form.marked[marks]
    columns = ShardColumns(ids, part.rows.lengths, part.source_rows, labels, part.first_lengths)
    with Folder.open(form.folder) as folder:
        info = write_shard(folder, part.split, part.number, columns, form.task)
    report(info.bytes, 0)
    return info


def write_splits(
    folder: Folder, encoded: Encoded, shard_bytes: int, executor: Executor, console: ConsoleProgress
) -> dict[str, SplitInfo]:
    """Write the shards of all splits; returns what the manifest says of each.

    A shard has `shard_bytes` at most, if one row fits.

    Raises:
        StorageError: a shard cannot be written.
    """
    form = ShardFormat(folder.checked_path(), encoded.task, encoded.id_type, encoded.marked)
    total = sum(int(split.lengths.sum(dtype=np.int64)) for split in encoded.splits.values())
    infos = {}
    with console.bar("writing", total * np.dtype(form.id_type).itemsize, "B") as bar:
        for name, split in encoded.splits.items():
            counts = total_counts(split.runs)
            parts = _parts(name, split, counts, form, shard_bytes)
            shards = executor.run(write_part, form, parts, lambda size, _: bar.update(size))
            infos[name] = _split_info(counts, tuple(shards))
            with folder.folder(name, make=True) as written:
                for leftover in written.leftovers():  # of tasks that were killed
                    written.remove(leftover)
    return infos


def _parts(name: str, split: EncodedSplit, counts: Array, form: ShardFormat, shard_bytes: int) -> Iterator[ShardPart]:
    """The shards of a split, in order."""
    order, labels, width = length_order(split.lengths), split.labels, np.dtype(form.id_type).itemsize
    row_bytes = ROW_BYTES + (0 if labels is None else labels[:1].nbytes) + (4 if form.task.pair else 0)
    for number, rows in enumerate(cut_shards(split.runs, counts, width, shard_bytes, row_bytes)):
        own = order[rows.first_row : rows.first_row + len(rows.lengths)]
        yield ShardPart(
            name,
            number,
            rows,
            source_rows=own if split.rows is None else split.rows[own],
            labels=None if labels is None else labels[own],
            first_lengths=None if split.first_lengths is None else split.first_lengths[own],
        )


def _split_info(counts: Array, shards: tuple[ShardInfo, ...]) -> SplitInfo:
    lengths = np.flatnonzero(counts)
    return SplitInfo(
        rows=int(counts.sum()),
        tokens=int(counts @ np.arange(len(counts))),
        shortest=int(lengths[0]) if len(lengths) else 0,
        longest=int(lengths[-1]) if len(lengths) else 0,
        length_histogram=tuple(counts.tolist()),
        shards=shards,
    )
