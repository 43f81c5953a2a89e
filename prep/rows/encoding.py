"""Encode a source: the ids of its rows as sorted runs, their labels, split by split."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.common.arrays import Array
from cache.common.progress import ConsoleProgress
from cache.common.text import listed
from cache.errors import InputError, StorageError
from cache.format.tasks import MLM, TOKENS, Task

from ..columns import PAIR, TEXT, Mask, checked_texts, kept
from ..labels.class_labels import Coded, code_batch, find_task, resolve_classes, resolve_numbers
from ..labels.class_names import confusable
from ..labels.tags import TaggedWords, Tags, tagged_words
from ..sources.corpus import Source
from ..sources.missing import FilledRows
from ..tokenization.engines import RowError
from ..tokenization.tokenizer import Encoder
from ..tokenization.words import WordEncoder, pack
from .external_sort import SortedRunStore, sort_rows
from .selection import Selection, choose_rows

if TYPE_CHECKING:
    import pyarrow as pa

RUNS_SHARE = 16
"""Ids of a split may take 1/16 of a build's memory; the engine's caches, a shard and the text under way take more."""


@dataclass
class EncodedSplit:
    """One split of the cache while its rows are encoded, and afterwards.

    Attributes:
        origin: the source split that its rows come from.
        mask: (source rows,) True for its rows; None = all of them.
        store: ids as sorted runs; where tokens have labels, ids and marks, see `prep.tokenization.words`.
        labels: (source rows,) or (source rows, classes), the label of each row of `origin`; None where tokens have
            labels, or nothing has.
        first_lengths: (source rows,) tokens of token type 0, likewise; None without pairs.
        numbers: (source rows,) their numbers with those that were left out; None where none can be.

    The rows of `origin` are counted without those that were left out.
    """

    origin: str
    mask: Mask | None
    store: SortedRunStore
    labels: Array | None = None
    first_lengths: Array | None = None
    numbers: Array | None = None
    pieces: list[tuple[Array, Array]] = field(default_factory=list)
    """Of `first_lengths`: (n,) source rows and (n,) lengths each, until all are there."""


@dataclass(frozen=True)
class Chunk:
    """A record batch of the source split `split`; `first_row` is its first row's number in there."""

    batch: "pa.RecordBatch"
    split: str
    first_row: int


@dataclass(frozen=True)
class Encoded:
    """All rows of a source, encoded.

    Attributes:
        task: what the labels mean.
        splits: name in the cache to the split.
        marked: where tokens have labels, the label of each mark; else None.
        left_out: source split to how many of its rows were left out, of those of which some were.
    """

    task: Task
    splits: dict[str, EncodedSplit]
    marked: Array | None = None
    left_out: dict[str, int] = field(default_factory=dict)


def encode_source(
    source: Source,
    encoder: Encoder,
    selection: Selection,
    spill: Path,
    memory_bytes: int,
    console: ConsoleProgress,
) -> Encoded:
    """Read a source from end to end, once where no rows are chosen, and encode it.

    Args:
        source: what to read.
        encoder: the tokenizer.
        selection: the task, and which rows to take.
        spill: folder for ids that do not fit in memory; the caller removes it.
        memory_bytes: about how much the build may take.
        console: for the progress bar.

    Raises:
        InputError: a text or label is missing or of a wrong kind, or there are no rows at all.
        StorageError: the disk has no room for the cache, estimated from its first batch; or writing fails.
    """
    splits: dict[str, EncodedSplit] = {}
    coded: dict[str, list[Coded]] = {}
    tags = Tags(source.label_names)
    read_bytes = 0
    with console.bar("tokenizing", source.size_bytes, "B") as bar:
        for origin, stream in source.splits.items():
            batches, masks = choose_rows(origin, stream, source, selection)
            own = {
                name: EncodedSplit(origin, mask, SortedRunStore(spill / name, memory_bytes // RUNS_SHARE))
                for name, mask in masks.items()
            }
            splits |= own
            coded[origin] = []
            first_row = 0
            for batch in batches:
                chunk = Chunk(batch, origin, first_row)
                labels = _encode_chunk(chunk, encoder, list(own.values()), tags, selection.task != MLM)
                coded[origin] += labels
                first_row += batch.num_rows
                read_bytes += batch.nbytes
                if read_bytes == batch.nbytes:
                    _check_room(spill.parent, splits, read_bytes, source.size_bytes, memory_bytes)
                bar.update(batch.nbytes, _speed(splits, time.monotonic() - bar.began))
            for split in own.values():
                split.first_lengths = _by_source_row(split.pieces, first_row) if encoder.pairs else None
                split.pieces.clear()
                split.numbers = stream.numbers() if isinstance(stream, FilledRows) else None
    encoder.settle()
    left_out = {name: found for name, stream in source.splits.items() if (found := getattr(stream, "left_out", 0))}
    if not any(split.store.sorted_runs for split in splits.values()):
        raise InputError(f"{source.where} holds no rows{' with a text and a label' * bool(left_out)}")
    if encoder.words:
        return replace(_tagged(selection.task, tags, splits, console), left_out=left_out)
    task, labels_of = _labels(selection.task, coded, source, console)
    for split in splits.values():
        split.labels = labels_of.get(split.origin)
    return Encoded(task, splits, left_out=left_out)


def _encode_chunk(
    chunk: Chunk, encoder: Encoder, splits: list[EncodedSplit], tags: Tags, labelled: bool
) -> list[Coded]:
    """Encode a batch into the splits that its rows belong to.

    Returns:
        Its labels; none where they are not wanted, or are those of words.
    """
    if encoder.words:
        words = tagged_words(chunk.batch, chunk.split, chunk.first_row, tags)
        for split in splits:
            _encode_words(words, encoder, encoder.words, split)
        return []
    labels = [code_batch(chunk.batch, chunk.split, chunk.first_row)] if labelled else []
    for split in splits:
        _encode_texts(chunk, encoder, split)
    return labels


def _tagged(asked: str, tags: Tags, splits: dict[str, EncodedSplit], console: ConsoleProgress) -> Encoded:
    """The task and the labels of the marks, for rows of words."""
    if asked == "auto":
        console.log(f"task {TOKENS}, found from the lists of words; --task settles it")
    names, marked = tags.table()
    if not names:
        raise InputError("the lists of words are all empty, so there is no tag to learn; see --text")
    for line in confusable(names) if tags.known is None else ():
        console.log(f"warning: {line}")
    if len(names) == 1:
        console.log(f"warning: all words have the tag {names[0]!r}: there is nothing to learn")
    return Encoded(Task(TOKENS, names), splits, marked)


def _speed(splits: dict[str, EncodedSplit], seconds: float) -> str:
    return f"{sum(split.store.tokens for split in splits.values()) / max(seconds, 1e-9):,.0f} tokens/s"


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
    for line in (*_oddities(names, labels), *(confusable(names) if source.label_names is None else ())):
        console.log(f"warning: {line}")
    return Task(kind, names, source.pair), labels


def _by_source_row(parts: list[tuple[Array, Array]], rows: int) -> Array:
    """Values of some source rows, as (rows,) int32."""
    column = np.zeros(rows, np.int32)
    for numbers, values in parts:
        column[numbers] = values
    return column


def _check_room(folder: Path, splits: dict[str, EncodedSplit], read: int, total: int, memory_bytes: int) -> None:
    """Compare the free disk space with what the whole source will take, estimated from its first batch."""
    stores = [split.store for split in splits.values()]
    made = sum(store.held_bytes + (store.file.size if store.file else 0) for store in stores)
    cache = made * max(total, read) / max(read, 1)
    spilled = cache if cache > memory_bytes // RUNS_SHARE else 0
    free = shutil.disk_usage(folder).free
    if cache + spilled > free:
        raise StorageError(
            f"{folder.parent}: about {(cache + spilled) / 1e6:,.0f} MB are needed, half of it for a while, and "
            f"{free / 1e6:,.0f} MB are free; make room, pass --out on another disk, or a smaller --max-length"
        )


def _encode_texts(chunk: Chunk, encoder: Encoder, split: EncodedSplit) -> None:
    """Encode the rows of a chunk that belong to a split, as one sorted run."""
    batch, first_row = chunk.batch, chunk.first_row
    rows = np.arange(first_row, first_row + batch.num_rows)
    names = (TEXT, PAIR) if encoder.pairs else (TEXT,)
    columns = [checked_texts(batch.column(name), chunk.split, first_row) for name in names]
    if split.mask is not None:
        part = split.mask[first_row : first_row + batch.num_rows]
        columns, rows = [kept(texts, part) for texts in columns], rows[part]
    if not len(rows):
        return
    with _naming_rows(encoder, rows, chunk.split):
        if encoder.pairs:
            ids, lengths, first_lengths = encoder.pairs.encode(columns[0].to_pylist(), columns[1].to_pylist())
            split.pieces.append((rows, first_lengths))
        else:
            ids, lengths = encoder.encode(columns[0].to_pylist())
    check_tokens(ids, lengths, encoder.vocab_size, rows, chunk.split)
    split.store.add(sort_rows(ids.astype(id_type(encoder.vocab_size)), lengths, rows))


def _encode_words(words: TaggedWords, encoder: Encoder, by_words: WordEncoder, split: EncodedSplit) -> None:
    """Encode the rows of a chunk that belong to a split, as one sorted run of ids and marks."""
    if split.mask is not None:
        words = words.kept(split.mask)
    if not len(words.rows):
        return
    with _naming_rows(encoder, words.rows, words.split):
        ids, lengths, marks = by_words.encode(words.words)
    check_tokens(ids, lengths, encoder.vocab_size, words.rows, words.split)
    split.store.add(sort_rows(pack(ids, marks, encoder.vocab_size), lengths, words.rows))


@contextlib.contextmanager
def _naming_rows(encoder: Encoder, rows: Array, split: str) -> Iterator[None]:
    """Say which of some source rows it is that `tokenizers` fails on."""
    try:
        yield
    except RowError as error:
        if encoder.check is not None:  # the row is one of those checked; the build tries again without a fast engine
            raise
        raise InputError(
            f"row {rows[error.row]} of split {split!r} (counted from 0) cannot be tokenized: {error.reason}; shorten "
            "or remove the row, or pass another --tokenizer"
        ) from error


def check_tokens(ids: Array, lengths: Array, vocab_size: int, rows: Array, split: str) -> None:
    """Raise an `InputError` that names the first of some source rows with no tokens, or with one not of the vocabulary.

    Args:
        ids: (T,) of the rows, end to end.
        lengths: (N,) tokens of each.
        vocab_size: ids are below it.
        rows: (N,) their numbers.
        split: named in errors.
    """
    if ids.size and int(ids.max()) >= vocab_size:
        row = np.searchsorted(np.cumsum(lengths), np.argmax(ids >= vocab_size), side="right")
        raise InputError(
            f"row {rows[row]} of split {split!r} (counted from 0) has the id {ids.max():,}, but the tokenizer has only "
            f"{vocab_size:,} tokens; correct the post_processor of its tokenizer.json, or pass another --tokenizer"
        )
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
            yield f"no row of 'train' has the label {listed([repr(names[number]) for number in absent], 5)}"


def id_type(vocab_size: int) -> type[Any]:
    """The type that ids below `vocab_size` are stored in."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32
