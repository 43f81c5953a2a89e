"""Texts that come as words, each with a tag: their tokens, and for the first token of each word its tag.

`tokenizers` encodes lists of words by itself and is the reference. It takes each word alone, so a fast engine encodes
the distinct words of a chunk as texts; they are put together here and checked against the reference like everything
else that is fast.

While rows are sorted, the mark of a token, which stands for its tag (see `prep.tagged`), travels with its id in one
integer.

Shapes: N rows, V words, T tokens.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.plans import Ints

from .engines import Engine, ParityCheck, ParityError, Rules, TokenizersEngine, special_ids, split_rows

Words = Sequence[Sequence[str]]
"""The words of each row."""
Marked = tuple[Ints, Ints, Ints]
"""(T,) uint32 ids, rows end to end; (N,) int64 lengths; (T,) int64 marks: the word's at its first token, else 0."""

KEPT_WORDS = 50
"""Words of a row that the reference is given for each token it may have: more than that no truncation leaves."""


def pack(ids: Ints, marks: Ints, vocab_size: int) -> Ints:
    """A token's id and its mark in one integer, (T,) uint32, or uint64 where ids take more than 16 bits."""
    wide = packed_type(vocab_size)
    packed: Ints = ids.astype(wide) | (marks.astype(wide) << wide(4 * wide().itemsize))
    return packed


def packed_type(vocab_size: int) -> type[Any]:
    """The type that `pack` gives."""
    return np.uint32 if vocab_size <= 1 << 16 else np.uint64


def unpack(packed: Ints) -> tuple[Ints, Ints]:
    """The reverse of `pack`: (T,) ids, uint16 or uint32, and (T,) marks."""
    half = np.uint16 if packed.itemsize == 4 else np.uint32
    return packed.astype(half), packed >> packed.dtype.type(4 * packed.itemsize)


class WordEncoder:
    """A tokenizer that turns lists of words into rows.

    Args:
        rules: as for texts.
        engine: who encodes words.
        check: counts the rows that were encoded again by `tokenizers`; None where that is the engine.
    """

    def __init__(self, rules: Rules, engine: Engine, check: ParityCheck | None) -> None:
        self.rules, self.engine, self.check = rules, engine, check
        self.reference = TokenizersEngine(rules)
        try:
            self.before, self.after = special_ids(self.reference.backend)
        except ValueError as error:
            raise InputError(f"the tokenizer does not take words: {error}; pass another --tokenizer") from None
        self.reference.backend.enable_truncation(rules.max_length, direction=rules.truncation_side)

    def encode(self, rows: Words, marks: Ints) -> Marked:
        """Encode rows of words.

        Args:
            rows: the words of each row, V together.
            marks: (V,) a number above 0 for each word.

        Raises:
            ParityError: a fast engine was wrong, or failed.
        """
        if self.check is None:
            return self.by_tokenizers(rows, marks)
        numbers: dict[str, int] = {}
        words = np.array([numbers.setdefault(word, len(numbers)) for word in chain.from_iterable(rows)], np.int64)
        try:
            encoded = self.engine.encode_bare(list(numbers))
            if len(encoded[1]) != len(numbers) or int(encoded[1].sum()) != len(encoded[0]):
                raise ValueError("gave other rows than words")
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            raise ParityError(f"{self.engine.name} failed: {error}") from error
        found = self.assemble(encoded, words, np.fromiter(map(len, rows), np.int64, len(rows)), marks)
        self._compare(rows, marks, found)
        return found

    def assemble(self, encoded: tuple[Ints, Ints], words: Ints, counts: Ints, marks: Ints) -> Marked:
        """Put encoded words together to rows, truncate them, put special tokens around.

        Args:
            encoded: (tokens,) ids and (distinct words,) lengths of the distinct words.
            words: (V,) which of those each word is.
            counts: (N,) words of each row.
            marks: (V,) of each word.
        """
        ids, sizes = encoded
        own = sizes[words]  # (V,) tokens of each word
        ends = np.append(0, np.cumsum(own))
        rows = ends[np.append(0, np.cumsum(counts))]  # (N+1,) where rows begin, before truncation
        kept = np.minimum(np.diff(rows), self.rules.max_length - len(self.before) - len(self.after))
        begins = rows[1:] - kept if self.rules.truncation_side == "left" else rows[:-1]
        starts = np.cumsum(kept) - kept
        places = np.arange(int(kept.sum())) + np.repeat(begins - starts, kept)  # of the tokens that stay, in all
        word = np.searchsorted(ends, places, side="right") - 1  # the word of each; empty ones are passed over
        new = np.ones(len(word), bool)
        new[1:] = word[1:] != word[:-1]
        lengths = kept + len(self.before) + len(self.after)
        out = np.cumsum(lengths) - lengths
        flat, flat_marks = np.zeros(int(lengths.sum()), np.uint32), np.zeros(int(lengths.sum()), np.int64)
        inner = np.arange(len(places)) + np.repeat(out + len(self.before) - starts, kept)
        flat[inner] = ids[(np.cumsum(sizes) - sizes)[words[word]] + places - ends[word]]
        flat_marks[inner] = np.where(new, marks[word], 0)
        for offset, number in enumerate(self.before):
            flat[out + offset] = number
        for offset, number in enumerate(self.after):
            flat[out + len(self.before) + kept + offset] = number
        return flat, lengths, flat_marks

    def by_tokenizers(self, rows: Words, marks: Ints) -> Marked:
        """The reference."""
        found: list[Ints] = []
        found_marks: list[Ints] = []
        begins = np.append(0, np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows))))
        for start in range(0, len(rows), TokenizersEngine.ROWS):
            part = [list(words) for words in rows[start : start + TokenizersEngine.ROWS]]
            encodings = self.reference.backend.encode_batch(part, is_pretokenized=True)  # the fast one forgets words
            for begin, encoding in zip(begins[start:].tolist(), encodings, strict=False):
                found.append(np.array(encoding.ids, np.uint32))
                found_marks.append(_first_tokens(encoding.word_ids, marks[begin:]))
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        empty = np.zeros(0, np.uint32), np.zeros(0, np.int64)
        return np.concatenate([empty[0], *found]), lengths, np.concatenate([empty[1], *found_marks])

    def _compare(self, rows: Words, marks: Ints, found: Marked) -> None:
        """Encode some of the rows again; the longest and some with non-ASCII words are among them."""
        assert self.check is not None
        chosen = self.check.choose([" ".join(words) for words in rows])
        begins = np.append(0, np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows))))
        most, left = self.rules.max_length * KEPT_WORDS, self.rules.truncation_side == "left"
        again = [rows[row][-most:] if left else rows[row][:most] for row in chosen]
        firsts = [
            int(begins[row + 1]) - len(words) if left else int(begins[row])
            for row, words in zip(chosen, again, strict=True)
        ]
        own = [marks[first : first + len(words)] for first, words in zip(firsts, again, strict=True)]
        ids, lengths, wanted_marks = self.by_tokenizers(again, np.concatenate([marks[:0], *own]))
        pieces = zip(split_rows(ids, lengths), split_rows(wanted_marks, lengths), strict=True)
        places = np.append(0, np.cumsum(found[1]))
        for row, (wanted, wanted_mark) in zip(chosen, pieces, strict=True):
            mine, mark = (part[places[row] : places[row + 1]] for part in (found[0], found[2]))
            text, name = " ".join(rows[row]), self.engine.name
            if not np.array_equal(mine, wanted):
                raise ParityError.differing(name, text, mine.tolist(), wanted.tolist())
            if not np.array_equal(mark, wanted_mark):
                raise ParityError(f"{name} and tokenizers disagree where the words of {text[:200]!r} begin")


def _first_tokens(word_ids: list[Any], marks: Ints) -> Ints:
    """(tokens,) the mark of each word at its first token, 0 elsewhere; `word_ids` are None at special tokens."""
    found, before = np.zeros(len(word_ids), np.int64), None
    for place, word in enumerate(word_ids):
        if word is not None and word != before:
            found[place] = marks[word]
        before = word
    return found
