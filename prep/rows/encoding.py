"""Encode a part of a source split: the ids of its rows as sorted runs, and their labels as they come."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.errors import InputError

from ..columns import PAIR, TEXT, checked_texts, kept
from ..corpus.missing import FilledRows
from ..labels.class_labels import Coded
from ..labels.tags import TaggedWords, tagged_words
from ..tokenization.encoder import Encoder
from ..tokenization.engines import RowError
from ..tokenization.words import WordEncoder, pack
from .external_sort import SortedRunStore, sort_rows
from .parts import Chunk, Part, Report, Shared

RUNS_SHARE = 16
"""Ids of a split may take 1/16 of a task's memory; the engine's caches, a shard and the text under way take more."""


@dataclass
class EncodedRows:
    """The rows of a part that belong to one split of the cache.

    Attributes:
        store: their ids as sorted runs; where tokens have labels, ids and marks, see `prep.tokenization.words`.
        rows: (chunk rows,) each, their numbers in the part, one after another where a text has several rows; none where
            all rows belong to the split, and each text is one.
        lengths: (chunk rows,) each, their tokens.
        first_lengths: likewise their tokens of token type 0, for pairs.
    """

    store: SortedRunStore
    rows: list[Array] = field(default_factory=list)
    lengths: list[Array] = field(default_factory=list)
    first_lengths: list[Array] = field(default_factory=list)

    def add(self, ids: Array, lengths: Array, rows: Array | None, first_lengths: Array | None = None) -> None:
        """Add encoded rows: (tokens,) ids, (rows,) lengths, numbers in the part and tokens of token type 0."""
        self.store.add(sort_rows(ids, lengths))
        if rows is not None:
            self.rows.append(rows)
        self.lengths.append(lengths.astype(np.min_scalar_type(int(lengths.max()))))
        if first_lengths is not None:
            self.first_lengths.append(first_lengths.astype(np.int32))


@dataclass
class EncodedPart:
    """A part, encoded.

    Attributes:
        rows: how many it has.
        splits: of the cache, the rows of it that each takes.
        coded: the labels of all rows; none where they are not wanted, or are those of words.
        left_out: rows without a text or label that are not among its rows.
        numbers: (rows,) each row's number with those that were left out; None where none can be.
        rows_checked: on how many rows a fast engine was checked.
    """

    rows: int
    splits: dict[str, EncodedRows]
    coded: list[Coded]
    left_out: int
    numbers: Array | None
    rows_checked: int


def encode_part(shared: Shared, part: Part, report: Report) -> EncodedPart:
    """Read a part and encode its rows.

    Raises:
        InputError: it cannot be read, or a text or label is missing or of a wrong kind.
        ParityError: a fast engine failed, or gave other ids than `tokenizers`.
        StorageError: ids cannot be written.
    """
    encoder, limit = shared.encoder, shared.memory_bytes // RUNS_SHARE
    checked = encoder.rows_checked
    splits = {name: EncodedRows(SortedRunStore(shared.spill / f"{name}-{token_hex(8)}", limit)) for name in part.masks}
    coded, rows = [], 0
    for chunk in part.chunks():
        if encoder.words:
            words = tagged_words(chunk.batch, chunk.split, chunk.first_row, shared.tags)
            tokens = [_encode_words(words, encoder, encoder.words, part, name, split) for name, split in splits.items()]
        else:
            coded += [chunk.coded()] if shared.labelled else []
            tokens = [_encode_texts(chunk, encoder, part, name, split) for name, split in splits.items()]
        if shared.max_tokens is not None and "train" in splits:
            _check_budget(splits["train"].lengths[-1:], shared.max_tokens, encoder.max_length)
        rows += chunk.batch.num_rows
        report(chunk.batch.nbytes, sum(tokens))
    encoder.settle()
    for split in splits.values() if not shared.in_place else ():
        split.store.settle()
    left_out, numbers = 0, None
    if isinstance(part.stream, FilledRows):
        left_out, numbers = part.stream.left_out, part.stream.numbers()
    return EncodedPart(rows, splits, coded, left_out, numbers, encoder.rows_checked - checked)


def _check_budget(lengths: list[Array], max_tokens: int, max_length: int) -> None:
    """Refuse rows of so many tokens that no batch of the plan has room for them: rather now than after hours."""
    longest = max((int(of_chunk.max(initial=0)) for of_chunk in lengths), default=0)
    if longest > max_tokens:
        raise InputError(
            f"--max-tokens {max_tokens:,} is less than a row of split 'train', {longest:,} tokens; pass --max-tokens "
            f"{max_length} or more, which is the max length, or --max-length {max_tokens}"
        )


def _encode_texts(chunk: Chunk, encoder: Encoder, part: Part, name: str, split: EncodedRows) -> int:
    """Encode the rows of a chunk that belong to a split of the cache, as one sorted run; returns how many tokens."""
    batch = chunk.batch
    rows = np.arange(chunk.first_row, chunk.first_row + batch.num_rows)
    columns = [
        checked_texts(batch.column(column), chunk.split, chunk.first_row)
        for column in ((TEXT, PAIR) if encoder.pairs else (TEXT,))
    ]
    if (mask := part.masks[name]) is not None:
        taken = mask[rows - part.first_row]
        columns, rows = [kept(texts, taken) for texts in columns], rows[taken]
    if not len(rows):
        return 0
    first_lengths = None
    with _naming_rows(encoder, rows, chunk.split):
        if encoder.pairs:
            ids, lengths, first_lengths = encoder.pairs.encode(columns[0].to_pylist(), columns[1].to_pylist())
        elif encoder.chunks:
            ids, lengths, texts = encoder.chunks.encode(columns[0].to_pylist())
            rows = rows[texts]
        else:
            ids, lengths = encoder.encode(columns[0].to_pylist())
    check_tokens(ids, lengths, encoder.vocab_size, rows, chunk.split)
    own = None if mask is None and not encoder.chunks else rows - part.first_row
    split.add(ids.astype(id_type(encoder.vocab_size)), lengths, own, first_lengths)
    return len(ids)


def _encode_words(
    words: TaggedWords, encoder: Encoder, by_words: WordEncoder, part: Part, name: str, split: EncodedRows
) -> int:
    """The same for rows of words: their ids and marks."""
    if (mask := part.masks[name]) is not None:
        words = words.kept(mask[words.rows - part.first_row])
    if not len(words.rows):
        return 0
    with _naming_rows(encoder, words.rows, words.split):
        ids, lengths, marks = by_words.encode(words.words)
    check_tokens(ids, lengths, encoder.vocab_size, words.rows, words.split)
    own = None if mask is None else words.rows - part.first_row
    split.add(pack(ids, marks, encoder.vocab_size), lengths, own)
    return len(ids)


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


def id_type(vocab_size: int) -> type[Any]:
    """The type that ids below `vocab_size` are stored in."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32
