"""Encode a part of a source split: the ids of its rows as sorted runs, and their labels as they come."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from secrets import token_hex

import numpy as np
import pyarrow as pa

from cache.common.arrays import Array
from cache.errors import InputError

from ..columns import PAIR, TEXT, BadDataError, Mask, checked_texts, in_split, kept, row_of
from ..corpus.missing import FilledRows
from ..labels.class_labels import Coded, code_batch
from ..labels.tags import tagged_words
from ..tokenization.encoder import Encoder
from ..tokenization.engines import RowError
from ..tokenization.words import Words, pack
from .external_sort import SortedRunStore, sort_rows
from .parts import Part, Report, Shared

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
        filled: (rows and those left out,) True for its rows; None where none can be left out.
        rows_checked: on how many rows a fast engine was checked.
    """

    rows: int
    splits: dict[str, EncodedRows]
    coded: list[Coded]
    filled: Mask | None
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
    for batch in part.read():
        with in_split(part.split, rows):
            content = _content(batch, shared)
            if shared.labelled:
                coded.append(code_batch(batch))
            tokens = 0
            for name, split in splits.items():
                mask = part.masks[name]
                own = None if mask is None else mask[rows : rows + batch.num_rows]
                tokens += _encode(content, own, rows, encoder, split)
        if shared.max_tokens is not None and "train" in splits and splits["train"].lengths:
            _check_budget(int(splits["train"].lengths[-1].max()), shared.max_tokens, encoder.max_length)
        rows += batch.num_rows
        report(batch.nbytes, tokens)
    encoder.settle()
    for split in splits.values() if not shared.in_place else ():
        split.store.settle()
    filled = part.stream.filled if isinstance(part.stream, FilledRows) else None
    return EncodedPart(rows, splits, coded, filled, encoder.rows_checked - checked)


def _check_budget(longest: int, max_tokens: int, max_length: int) -> None:
    """Refuse rows of so many tokens that no batch of the plan has room for them: rather now than after hours."""
    if longest > max_tokens:
        raise InputError(
            f"--max-tokens {max_tokens:,} is less than a row of split 'train', {longest:,} tokens; pass --max-tokens "
            f"{max_length} or more, which is the max length, or --max-length {max_tokens}"
        )


def _content(batch: pa.RecordBatch, shared: Shared) -> list[pa.Array] | Words:
    """What is encoded of a batch: its words, or its columns of text."""
    if shared.encoder.words:
        return tagged_words(batch, shared.tags)
    return [checked_texts(batch.column(name)) for name in ((TEXT, PAIR) if shared.encoder.pairs else (TEXT,))]


def _encode(
    content: list[pa.Array] | Words, mask: Mask | None, first_row: int, encoder: Encoder, split: EncodedRows
) -> int:
    """Encode the rows of a batch that belong to a split of the cache, as one sorted run; returns how many tokens.

    Args:
        content: of all rows of the batch.
        mask: (rows,) those that belong to the split; None = all.
        first_row: number of the batch's first row in the part.
    """
    if mask is not None:
        content = content.kept(mask) if isinstance(content, Words) else [kept(texts, mask) for texts in content]
    count = len(content.counts) if isinstance(content, Words) else len(content[0])
    rows = np.arange(count) if mask is None else np.flatnonzero(mask)
    if not count:
        return 0
    marks = first_lengths = None
    with _naming_rows(encoder, rows):
        if isinstance(content, Words):
            assert encoder.words
            ids, lengths, marks = encoder.words.encode(content)
        elif encoder.pairs:
            ids, lengths, first_lengths = encoder.pairs.encode(*(texts.to_pylist() for texts in content))
        elif encoder.chunks:
            ids, lengths, texts = encoder.chunks.encode(content[0].to_pylist())
            rows = rows[texts]
        else:
            ids, lengths = encoder.encode(content[0].to_pylist())
    check_tokens(ids, lengths, encoder.vocab_size, rows)
    packed = ids.astype(encoder.id_type) if marks is None else pack(ids, marks, encoder.id_type)
    split.add(packed, lengths, None if mask is None and not encoder.chunks else rows + first_row, first_lengths)
    return len(ids)


@contextlib.contextmanager
def _naming_rows(encoder: Encoder, rows: Array) -> Iterator[None]:
    """Say which of some rows it is that `tokenizers` fails on."""
    try:
        yield
    except RowError as error:
        if encoder.check is not None:  # the row is one of those checked; the build tries again without a fast engine
            raise
        raise BadDataError(
            f"cannot be tokenized: {error.reason}; shorten or remove the row, or pass another --tokenizer",
            int(rows[error.row]),
        ) from error


def check_tokens(ids: Array, lengths: Array, vocab_size: int, rows: Array) -> None:
    """Raise a `BadDataError` that names the first of some rows with no tokens, or with one not of the vocabulary.

    Args:
        ids: (T,) of the rows, end to end.
        lengths: (N,) tokens of each.
        vocab_size: ids are below it.
        rows: (N,) their numbers.
    """
    if ids.size and int(ids.max()) >= vocab_size:
        row = int(rows[row_of(lengths, int(np.argmax(ids >= vocab_size)))])
        raise BadDataError(
            f"has the id {ids.max():,}, but the tokenizer has only {vocab_size:,} tokens; correct the post_processor "
            "of its tokenizer.json, or pass another --tokenizer",
            row,
        )
    if not lengths.all():
        raise BadDataError(
            "has no tokens: its text is empty, and the tokenizer adds no special tokens; remove the row",
            int(rows[np.argmin(lengths)]),
        )
