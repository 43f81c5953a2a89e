"""Fast engines are checked on every build: each chunk that one of them encodes, on some of its own rows.

A single difference from `tokenizers` sends the whole build back to `tokenizers`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.common.panics import panics_as_errors

from .engines import FastEngine, ParityError, TokenizersEngine, split_rows

LONG_TOKEN = 1000
"""Characters that no token has on average."""


class ParityCheck:
    """A fast engine, some of whose rows of every chunk are encoded again with `tokenizers`: the longest, some with
    non-ASCII text, a random sample.

    Attributes:
        most: characters that a row of the max length has room for.
        rows: how many rows were checked so far.
    """

    FIRST = (16, 176, 320)
    """Rows checked of the first chunk: longest, non-ASCII, at random; what one lacks, the sample makes up for."""
    LATER = (4, 12, 16)
    """Likewise of each later chunk."""

    def __init__(self, engine: FastEngine, reference: TokenizersEngine) -> None:
        self.engine, self.reference = engine, reference
        self.max_length = reference.rules.max_length
        self.most = self.max_length * LONG_TOKEN
        self.rows = 0
        self.chunks = 0

    def encode(self, texts: Sequence[str], bare: bool = False) -> tuple[Array, Array]:
        """What the engine gives, yet to be checked; see `TokenizersEngine.encode`.

        Raises:
            ParityError: it fails, but for a lack of memory, or gives other rows than texts.
        """
        try:
            with panics_as_errors():
                ids, lengths = self.engine.encode(texts, bare)
        except MemoryError:
            raise
        except Exception as error:
            raise ParityError(f"{self.engine.name} failed: {error}") from error
        if len(lengths) != len(texts) or int(lengths.sum()) != len(ids):
            raise ParityError(f"{self.engine.name} gave {len(lengths):,} rows for {len(texts):,} texts")
        return ids, lengths

    def check(self, texts: Sequence[str], ids: Array, lengths: Array, bare: bool = False) -> None:
        """Check a chunk that `encode` gave.

        Raises:
            ParityError: a row differs.
        """

        def again(chosen: list[int]) -> tuple[Array, Array]:
            return self.reference.encode([self.kept(texts[row], bare) for row in chosen], bare)

        self.compare(texts, ids, lengths, again)

    def compare(
        self, texts: Sequence[str], ids: Array, lengths: Array, again: Callable[[list[int]], tuple[Array, ...]]
    ) -> tuple[list[int], Any]:
        """Compare some rows of a chunk with what `tokenizers` makes of them.

        Args:
            texts: of each row.
            ids, lengths: (T,) of the engine, rows end to end, and (N,).
            again: called with numbers of rows; gives the same of `tokenizers`, and perhaps more.

        Returns:
            The rows that were compared, and what `again` gave for them.

        Raises:
            ParityError: a row differs.
        """
        chosen = self.choose(texts)
        self.rows, self.chunks = self.rows + len(chosen), self.chunks + 1
        wanted = again(chosen)
        begins = np.cumsum(lengths) - lengths
        for row, expected in zip(chosen, split_rows(*wanted[:2]), strict=True):
            found = ids[begins[row] : begins[row] + lengths[row]]
            if len(texts[row]) > self.most:  # see `kept`
                found, expected = found[: self.max_length], expected[: self.max_length]
            if not np.array_equal(found, expected):
                raise ParityError.differing(self.engine.name, texts[row], found.tolist(), expected.tolist())
        return chosen, wanted

    def kept(self, text: str, bare: bool = False) -> str:
        """Of a text of megabytes the side that is not truncated, for the reference would take minutes over all of it.

        Where that makes a difference, it is taken for the engine's: the build is then slow, but right.
        """
        left = not bare and self.reference.rules.truncation_side == "left"
        return text[-self.most :] if left else text[: self.most]

    def choose(self, texts: Sequence[str]) -> list[int]:
        """The rows of the next chunk to check."""
        longest, foreign, sample = self.LATER if self.rows >= sum(self.FIRST) else self.FIRST
        total = longest + foreign + sample
        random = np.random.default_rng(self.chunks).permutation(len(texts)).tolist()
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        longest_rows = np.argsort(-sizes, kind="stable")[:longest].tolist()
        foreign_rows = [row for row in random if not texts[row].isascii()][:foreign]
        return list(dict.fromkeys([*longest_rows, *foreign_rows, *random[:total]]))[:total]
