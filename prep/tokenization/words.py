"""Texts that come as words, each with a tag: their tokens, and for the first token of each word its tag.

`tokenizers` encodes lists of words by itself and is the reference. It takes each word alone, so a fast engine encodes
the distinct words of a chunk as texts; they are put together here and checked against the reference like everything
else that is fast.

While rows are sorted, the mark of a token, which stands for its tag (`prep.labels.tags`), travels with its id in one
integer.

Shapes: N rows, V words, T tokens.
"""

from dataclasses import dataclass
from itertools import compress, pairwise
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.errors import InputError

from .engines import ParityError, TokenizersEngine, assemble_rows, join_rows, split_rows
from .parity import ParityCheck

Marked = tuple[Array, Array, Array]
"""(T,) uint32 ids, rows end to end; (N,) int64 lengths; (T,) int64 marks: the word's at its first token, else 0."""

KEPT_WORDS = 50
"""Words of a row that the reference is given for each token it may have: more than that no truncation leaves."""


@dataclass(frozen=True)
class Words:
    """Rows of words.

    Attributes:
        distinct: each word there is once.
        numbers: (V,) the words of all rows, end to end: positions in `distinct`.
        counts: (N,) words of each row.
        marks: (V,) a number above 0 for each word that has a tag, else 0.
    """

    distinct: list[str]
    numbers: Array
    counts: Array
    marks: Array

    @property
    def begins(self) -> Array:
        """(N+1,) row i is numbers[begins[i]:begins[i+1]]."""
        return np.append(0, np.cumsum(self.counts))

    def lists(self) -> list[list[str]]:
        """The words of each row."""
        words = list(map(self.distinct.__getitem__, self.numbers.tolist()))
        return [words[begin:end] for begin, end in pairwise(self.begins.tolist())]

    def kept(self, rows: Array) -> "Words":
        """The rows for which `rows` (N,) is true."""
        each = np.repeat(rows, self.counts)
        numbers = self.numbers[each]
        used = np.bincount(numbers, minlength=len(self.distinct)) > 0
        distinct = list(compress(self.distinct, used.tolist()))
        return Words(distinct, (np.cumsum(used) - 1)[numbers], self.counts[rows], self.marks[each])


def pack(ids: Array, marks: Array, wide: type[Any]) -> Array:
    """A token's id and its mark in one integer, (T,) of the type `wide`, half of whose bits an id takes."""
    packed: Array = ids.astype(wide) | (marks.astype(wide) << wide(4 * wide().itemsize))
    return packed


def unpack(packed: Array) -> tuple[Array, Array]:
    """The reverse of `pack`: (T,) ids, uint16 or uint32, and (T,) marks."""
    half = np.uint16 if packed.itemsize == 4 else np.uint32
    return packed.astype(half), packed >> packed.dtype.type(4 * packed.itemsize)


class WordEncoder:
    """A tokenizer that turns lists of words into rows.

    Args:
        reference: `tokenizers`.
        check: a fast engine for words; None for the reference itself.
    """

    def __init__(self, reference: TokenizersEngine, check: ParityCheck | None) -> None:
        self.rules, self.reference, self.check = reference.rules, reference, check
        try:
            self.before, self.after = reference.special_ids()
        except ValueError as error:
            raise InputError(f"the tokenizer does not take words: {error}; pass another --tokenizer") from None

    def encode(self, words: Words) -> Marked:
        """Encode rows of words.

        Raises:
            ParityError: a fast engine was wrong, or failed.
        """
        if self.check is None:
            return self.by_tokenizers(words.lists(), words.marks)
        found = self.assemble(self.check.encode(words.distinct, bare=True), words)
        self._compare(self.check, words, found)
        return found

    def assemble(self, encoded: tuple[Array, Array], words: Words) -> Marked:
        """Put encoded words together to rows, truncate them, put special tokens around.

        Args:
            encoded: ids and lengths of the distinct words.
            words: the rows.
        """
        ids, sizes = encoded
        counts = sizes[words.numbers]  # (V,) tokens of each word
        word = np.repeat(np.arange(len(counts)), counts)  # the word of each token, before truncation
        within = np.arange(len(word)) - (np.cumsum(counts) - counts)[word]
        tokens = ids[(np.cumsum(sizes) - sizes)[words.numbers[word]] + within]
        rows = np.append(0, np.cumsum(counts))[words.begins]  # (N+1,) where rows begin
        kept = np.minimum(np.diff(rows), self.rules.max_length - len(self.before) - len(self.after))
        begins = rows[1:] - kept if self.rules.truncation_side == "left" else rows[:-1]
        first = within == 0
        first[begins[kept > 0]] = True  # also of a word whose beginning is cut off
        marks = np.where(first, words.marks[word], 0)
        flat, lengths = assemble_rows([self.before, (tokens, begins, kept), self.after])
        unmarked = [[0] * len(special) for special in (self.before, self.after)]
        flat_marks, _ = assemble_rows([unmarked[0], (marks, begins, kept), unmarked[1]], np.int64)
        return flat, lengths, flat_marks

    def by_tokenizers(self, rows: list[list[str]], marks: Array) -> Marked:
        """The reference: the words of each row, and the mark of each word."""
        found: list[Array] = []
        found_marks: list[Array] = []
        begins = np.append(0, np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows))))
        encode = self.reference.backend.encode_batch  # the fast one forgets words
        encodings = self.reference.encodings(encode, rows, is_pretokenized=True)
        for begin, encoding in zip(begins.tolist(), encodings, strict=False):
            found.append(np.array(encoding.ids, np.uint32))
            found_marks.append(_first_tokens(encoding.word_ids, marks[begin:]))
        return *join_rows(found), np.concatenate([np.zeros(0, np.int64), *found_marks])

    def _compare(self, check: ParityCheck, words: Words, found: Marked) -> None:
        """Encode some of the rows again; the longest and some with non-ASCII words are among them."""
        ids, lengths, marks = found
        rows, begins = words.lists(), words.begins
        most, left = self.rules.max_length * KEPT_WORDS, self.rules.truncation_side == "left"
        part = slice(-most, None) if left else slice(most)

        def again(chosen: list[int]) -> Marked:
            own = [words.marks[begins[row] : begins[row + 1]][part] for row in chosen]
            return self.by_tokenizers([rows[row][part] for row in chosen], np.concatenate([words.marks[:0], *own]))

        texts = list(map(" ".join, rows))
        chosen, wanted = check.compare(texts, ids, lengths, again)
        ends = np.cumsum(lengths)
        for row, expected in zip(chosen, split_rows(wanted[2], wanted[1]), strict=True):
            if not np.array_equal(marks[ends[row] - lengths[row] : ends[row]], expected):
                name = check.engine.name
                raise ParityError(f"{name} and tokenizers disagree where the words of {texts[row][:200]!r} begin")


def _first_tokens(word_ids: list[Any], marks: Array) -> Array:
    """(tokens,) the mark of each word at its first token, 0 elsewhere; `word_ids` are None at special tokens."""
    found, before = np.zeros(len(word_ids), np.int64), None
    for position, word in enumerate(word_ids):
        if word is not None and word != before:
            found[position] = marks[word]
        before = word
    return found
