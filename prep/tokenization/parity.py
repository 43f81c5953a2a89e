"""Fast engines are checked on every build: each chunk that one of them encodes, on some of its own rows.

A single difference from `tokenizers` sends the whole build back to `tokenizers`.
"""

from collections.abc import Sequence

import numpy as np

from cache.common.arrays import Array

from .engines import ParityError, TokenizersEngine, split_rows

LONG_TOKEN = 1000
"""Characters that no token has on average."""


class ParityCheck:
    """Encodes some rows of every chunk again with `tokenizers`: its longest, some with non-ASCII text, a random sample.

    Attributes:
        most: characters that a row of the max length has room for.
        rows: how many rows were checked so far.
    """

    FIRST = (16, 176, 320)
    """Rows checked of the first chunk: longest, non-ASCII, at random; what one lacks, the sample makes up for."""
    LATER = (4, 12, 16)
    """Likewise of each later chunk."""

    def __init__(self, reference: TokenizersEngine) -> None:
        self.reference = reference
        self.most = reference.rules.max_length * LONG_TOKEN
        self.rows = 0
        self.chunks = 0

    def check(self, engine: str, texts: Sequence[str], ids: Array, lengths: Array, bare: bool = False) -> None:
        """Check a chunk; with `bare` rows without special tokens, not truncated.

        Raises:
            ParityError: a row differs.
        """
        if len(lengths) != len(texts) or int(lengths.sum()) != len(ids):
            raise ParityError(f"{engine} gave {len(lengths):,} rows for {len(texts):,} texts")
        chosen = self.choose(texts)
        begins = np.cumsum(lengths) - lengths
        encode = self.reference.encode_bare if bare else self.reference.encode
        heads = [texts[row][: self.most] if bare else self.kept(texts[row]) for row in chosen]
        for row, head, wanted in zip(chosen, heads, split_rows(*encode(heads)), strict=True):
            found = ids[begins[row] : begins[row] + lengths[row]]
            if bare and len(head) < len(texts[row]):  # of a text of megabytes what makes a row
                found, wanted = (part[: self.reference.rules.max_length] for part in (found, wanted))
            if not np.array_equal(found, wanted):
                raise ParityError.differing(engine, texts[row], found.tolist(), wanted.tolist())

    def kept(self, text: str) -> str:
        """Of a text of megabytes the side that is not truncated, for the reference would take minutes over all of it.

        Where that makes a difference, it is taken for the engine's: the build is then slow, but right.
        """
        return text[: self.most] if self.reference.rules.truncation_side == "right" else text[-self.most :]

    def choose(self, texts: Sequence[str]) -> list[int]:
        """The rows of the next chunk to check; they are counted."""
        chosen = self._choose(texts)
        self.chunks += 1
        self.rows += len(chosen)
        return chosen

    def _choose(self, texts: Sequence[str]) -> list[int]:
        longest, foreign, sample = self.LATER if self.rows >= sum(self.FIRST) else self.FIRST
        total = min(longest + foreign + sample, len(texts))
        random = np.random.default_rng(self.chunks).permutation(len(texts)).tolist()
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        chosen = dict.fromkeys(np.argsort(-sizes, kind="stable")[:longest].tolist())
        chosen.update(dict.fromkeys([row for row in random if not texts[row].isascii()][:foreign]))
        for row in random:
            if len(chosen) >= total:
                break
            chosen[row] = None
        return list(chosen)
