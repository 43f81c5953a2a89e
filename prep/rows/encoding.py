"""A source's rows: which split each goes to, their ids sorted into runs, their labels."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.common.arrays import Array
from cache.common.progress import ConsoleProgress
from cache.errors import InputError, StorageError
from cache.format.tasks import MLM, TOKENS, Task

from ..columns import PAIR, TEXT, Mask, Stream, checked_texts, kept
from ..labels.class_labels import Coded, code_batch, find_task, resolve_classes, resolve_numbers
from ..labels.tags import TaggedWords, Tags, tagged_words
from ..sources.corpus import Source
from ..tokenization.tokenizer import Encoder
from ..tokenization.words import WordEncoder, pack
from .external_sort import RunStore, sort_run
from .selection import held_out, limit_rows

if TYPE_CHECKING:
    import pyarrow as pa

RUNS_SHARE = 16
"""Ids of a split may take 1/16 of a build's memory; the engine's caches, a shard and the text under way take more."""

KEPT_BYTES = 256 * 1024 * 1024
"""A split up to this size is kept in memory between choosing its rows and encoding them."""


@dataclass(frozen=True)
class Encoded:
    """All rows of a source, encoded.

    Attributes:
        task: what the labels mean.
        runs: split of the cache to its runs.
        labels: split of the cache to (source rows,) or (source rows, classes), the label of each row of the source
            split it comes from; empty where tokens have labels, or nothing has.
        first_lengths: split of the cache to (source rows,) tokens of token type 0, likewise; empty without pairs.
        marked: where tokens have labels, the label of each mark; the runs then hold ids and marks, see `words`.
    """

    task: Task
    runs: dict[str, RunStore]
    labels: dict[str, Array]
    first_lengths: dict[str, Array]
    marked: Array | None = None


def encode_source(
    source: Source,
    encoder: Encoder,
    task: str,
    holdout: float,
    limit: int | None,
    spill: Path,
    memory_bytes: int,
    console: ConsoleProgress,
) -> Encoded:
    """Read a source from end to end, once where no rows are chosen, and encode it.

    Args:
        source: what to read.
        encoder: the tokenizer.
        task: what the labels are, one of `cache.format.manifest.KINDS`, or "auto".
        holdout: fraction of split `train` that becomes `test`.
        limit: most rows of each source split.
        spill: folder for ids that do not fit in memory; the caller removes it.
        memory_bytes: about how much the build may take.
        console: for the progress bar.

    Raises:
        InputError: a text or label is missing or of a wrong kind, or there are no rows at all.
        StorageError: the disk has no room for the cache, by what its first piece takes; or it refuses.
    """
    runs: dict[str, RunStore] = {}
    pieces: dict[str, list[Coded]] = {}
    origin: dict[str, str] = {}
    firsts: dict[str, list[tuple[Array, Array]]] = {}
    rows: dict[str, int] = {}
    tags = Tags(source.label_names)
    read_bytes = 0
    with console.bar("tokenizing", source.size_bytes, "B") as bar:
        for split, stream in source.splits.items():
            batches, routes = _routes(split, stream, source, task, holdout, limit)
            for name in routes:
                runs[name] = RunStore(spill / name, memory_bytes // RUNS_SHARE)
                origin[name], firsts[name] = split, []
            pieces[split], first_row = [], 0
            for batch in batches:
                if encoder.words:
                    chunk = tagged_words(batch, split, first_row, tags)
                    for name, mask in routes.items():
                        _encode_words(chunk, mask, encoder.words, encoder.vocab_size, runs[name])
                else:
                    if task != MLM:
                        pieces[split].append(code_batch(batch, split, first_row))
                    for name, mask in routes.items():
                        coded = _encode(batch, split, first_row, mask, encoder, runs[name])
                        if encoder.pairs:
                            firsts[name].append(coded)
                first_row += batch.num_rows
                read_bytes += batch.nbytes
                if read_bytes == batch.nbytes:
                    _check_room(spill.parent, runs, read_bytes, source.size_bytes, memory_bytes)
                bar.update(batch.nbytes, _speed(runs, time.monotonic() - bar.began))
            rows[split] = first_row
    encoder.settle()
    if not any(store.runs for store in runs.values()):
        raise InputError(f"{source.where} holds no rows")
    if encoder.words:
        return _tagged(task, tags, runs, console)
    found, labels = _labels(task, pieces, source, console)
    own = {name: labels[split] for name, split in origin.items() if found.labelled}
    paired = origin.items() if encoder.pairs else ()
    return Encoded(found, runs, own, {name: _by_source_row(firsts[name], rows[split]) for name, split in paired})


def _tagged(asked: str, tags: Tags, runs: dict[str, RunStore], console: ConsoleProgress) -> Encoded:
    """What came of rows of words."""
    if asked == "auto":
        console.log(f"task {TOKENS}, found from the lists of words; --task settles it")
    names, marked = tags.table()
    if not names:
        raise InputError("the lists of words are all empty, so there is no tag to learn; see --text")
    if len(names) == 1:
        console.log(f"warning: all words have the tag {names[0]!r}: there is nothing to learn")
    return Encoded(Task(TOKENS, names), runs, {}, {}, marked)


def _speed(runs: dict[str, RunStore], seconds: float) -> str:
    return f"{sum(store.tokens for store in runs.values()) / max(seconds, 1e-9):,.0f} tokens/s"


def _labels(
    asked: str, pieces: dict[str, list[Coded]], source: Source, console: ConsoleProgress
) -> tuple[Task, dict[str, Array]]:
    """The task, and the labels of each source split."""
    if asked == MLM:
        return Task(MLM, (), source.pair), {}
    kind = find_task(asked, pieces, source.label_names)
    if asked == "auto" and kind != "classification":
        console.log(f"task {kind}, found from the labels; --task settles it")
    if kind == "regression":
        return Task(kind, (), source.pair), dict(resolve_numbers(pieces))
    names, labels = resolve_classes(pieces, source.label_names)
    for line in _oddities(names, labels):
        console.log(f"warning: {line}")
    return Task(kind, names, source.pair), labels


def _by_source_row(parts: list[tuple[Array, Array]], rows: int) -> Array:
    """Values of some source rows, as (rows,) int32."""
    column = np.zeros(rows, np.int32)
    for numbers, values in parts:
        column[numbers] = values
    return column


def _check_room(folder: Path, runs: dict[str, RunStore], read: int, total: int, memory_bytes: int) -> None:
    """Compare the free disk with what the whole source will take, going by its first piece."""
    made = sum(store.held_bytes + (store.file.size if store.file else 0) for store in runs.values())
    cache = made * max(total, read) / max(read, 1)
    spilled = cache if cache > memory_bytes // RUNS_SHARE else 0
    free = shutil.disk_usage(folder).free
    if cache + spilled > free:
        raise StorageError(
            f"{folder.parent}: about {(cache + spilled) / 1e6:,.0f} MB are needed, half of it for a while, and "
            f"{free / 1e6:,.0f} MB are free; make room, pass --out on another disk, or a smaller --max-length"
        )


def _routes(
    split: str, stream: Stream, source: Source, task: str, holdout: float, limit: int | None
) -> tuple[Iterator["pa.RecordBatch"], dict[str, Mask | None]]:
    """The batches of a source split, and for each split of the cache that comes from it the rows it takes.

    Choosing rows takes their labels beforehand, so the split is then read twice, or kept where it is small.
    """
    if not holdout and limit is None:
        return stream(), {split: None}
    kept: list[pa.RecordBatch] | None = []
    coded, rows, size, classed = [], 0, 0, task != MLM and not source.words
    for batch in stream():
        if classed:
            coded.append(code_batch(batch, split, rows))
        rows += batch.num_rows
        size += batch.nbytes
        if kept is not None:
            kept.append(batch)
            kept = kept if size <= KEPT_BYTES else None
    chosen = limit_rows(rows, limit)
    batches = iter(kept) if kept is not None else stream()
    if not holdout:
        return batches, {split: chosen}
    strata = _strata(split, coded, source, task) if classed else np.zeros(rows, np.int64)
    test = held_out(strata, chosen, holdout)
    train = chosen & ~test
    if rows and not (test.any() and train.any()):
        raise InputError(
            f"a holdout of {holdout} of {int(chosen.sum()):,} rows{', taken from each class,' * classed} "
            f"leaves no row to "
            f"{'train' if test.any() else 'test'}; pass --holdout 0 or another fraction"
        )
    return batches, {split: train, "test": test}


def _strata(split: str, coded: list[Coded], source: Source, task: str) -> Array:
    """(rows,) what a row is held out alongside of: its class, or all rows where each has not just one."""
    if find_task(task, {split: coded}, source.label_names) != "classification":
        return np.zeros(sum(piece.rows for piece in coded), np.int64)
    strata: Array = resolve_classes({split: coded}, source.label_names)[1][split]
    return strata


def _encode(
    batch: "pa.RecordBatch", split: str, first_row: int, mask: Mask | None, encoder: Encoder, store: RunStore
) -> tuple[Array, Array]:
    """Encode the rows of a batch that belong to a split, as one run.

    Returns:
        Their source rows, and in a cache of pairs their tokens of token type 0.
    """

    rows = np.arange(first_row, first_row + batch.num_rows)
    columns = [
        checked_texts(batch.column(name), split, first_row) for name in ((TEXT, PAIR) if encoder.pairs else (TEXT,))
    ]
    if mask is not None:
        part = mask[first_row : first_row + batch.num_rows]
        columns, rows = [kept(texts, part) for texts in columns], rows[part]
    if not len(rows):
        return rows, rows
    if encoder.pairs:
        ids, lengths, first_lengths = encoder.pairs.encode(columns[0].to_pylist(), columns[1].to_pylist())
    else:
        ids, lengths = encoder.encode(columns[0].to_pylist())
        first_lengths = lengths
    check_tokens(lengths, rows, split)
    store.add(sort_run(ids.astype(id_type(encoder.vocab_size)), lengths, rows))
    return rows, first_lengths


def _encode_words(
    chunk: TaggedWords, mask: Mask | None, encoder: WordEncoder, vocab_size: int, store: RunStore
) -> None:
    """Encode the rows of a chunk that belong to a split, as one run of ids and marks."""
    if mask is not None:
        chunk = chunk.kept(mask)
    if not len(chunk.rows):
        return
    ids, lengths, marks = encoder.encode(chunk.words)
    check_tokens(lengths, chunk.rows, chunk.split)
    store.add(sort_run(pack(ids, marks, vocab_size), lengths, chunk.rows))


def check_tokens(lengths: Array, rows: Array, split: str) -> None:
    """Raise an `InputError` that names the first of some source rows that has no tokens."""
    if not lengths.all():
        raise InputError(
            f"row {rows[np.argmin(lengths)]} of split {split!r} (counted from 0) has no tokens: its text is empty, and "
            "the tokenizer adds no special tokens; remove the row"
        )


def _oddities(names: tuple[str, ...], classes: dict[str, Array]) -> Iterator[str]:
    """What is allowed, but rarely meant."""
    rows, single = sum(map(len, classes.values())), all(column.ndim == 1 for column in classes.values())
    if len(names) == 1 and single:
        yield f"all rows have the label {names[0]!r}: there is nothing to learn"
    elif len(names) > max(100, rows // 2):
        yield f"{len(names):,} classes in {rows:,} rows; if that is not the label column, name it with --label"
    if len(classes.get("train", ())):
        train = classes["train"]
        counts = np.bincount(train, minlength=len(names)) if single else train.sum(axis=0, dtype=np.int64)
        absent = np.flatnonzero(counts == 0).tolist()
        if absent:
            more = f" and {len(absent) - 5:,} more" if len(absent) > 5 else ""
            yield f"no row of 'train' has the label {', '.join(repr(names[number]) for number in absent[:5])}{more}"


def id_type(vocab_size: int) -> type[Any]:
    """The type that ids below `vocab_size` are stored in."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32
