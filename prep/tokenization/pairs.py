"""Two texts in one row: the tokenizer's pair template, and truncation that takes from the longer text first.

`tokenizers` does both by itself and is the reference. A fast engine encodes the two texts alone; they are put together
here, a whole chunk at once, and checked against the reference like everything else that is fast.

Shapes: N pairs, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.common.pairs import longest_first, truncated_pair
from cache.errors import InputError

from .engines import ParityError, TokenizersEngine, assemble_rows, join_rows
from .parity import ParityCheck

Rows = tuple[Array, Array, Array]
"""(T,) uint32 ids, rows end to end; (N,) int64 lengths; (N,) int64 tokens of token type 0, which come first."""


@dataclass(frozen=True)
class Template:
    """The special tokens around a pair, and how many of those between the texts are of token type 0.

    Where the tokenizer has one type for everything, `typed` is False.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    between_first: int
    typed: bool

    @property
    def specials(self) -> int:
        """Special tokens of a row."""
        return len(self.before) + len(self.between) + len(self.after)


def pair_template(backend: Any) -> Template:
    """The template of a tokenizer without truncation.

    Raises:
        InputError: it puts the second text first, or has token types other than zeros followed by ones.
    """
    encoding = backend.encode("a", "b")
    positions, types = encoding.sequence_ids, encoding.type_ids
    ends = [len(positions) - 1 - positions[::-1].index(text) for text in (0, 1) if text in positions]
    starts = [positions.index(text) for text in (0, 1) if text in positions]
    if len(starts) < 2 or ends[0] > starts[1] or types != sorted(types) or not {0, 1}.issuperset(types):
        raise InputError(
            "the tokenizer's template for pairs is not one that a cache can hold: the first text, then the second, "
            "with token types 0, then 1; pass another --tokenizer"
        )
    ids = encoding.ids
    between = slice(ends[0] + 1, starts[1])
    typed = 1 in types
    between_first = types[between].count(0) if typed else 0
    return Template(ids[: starts[0]], ids[between], ids[ends[1] + 1 :], between_first, typed)


def assemble(
    firsts: tuple[Array, Array], seconds: tuple[Array, Array], template: Template, most: int, left: bool
) -> Rows:
    """Put encoded texts together.

    Args:
        firsts, seconds: (T,) ids and (N,) lengths of the texts alone.
        template: the special tokens.
        most: tokens of both texts together at most.
        left: whether truncation drops tokens on the left.
    """
    counts = longest_first(firsts[1], seconds[1], most)
    texts = []
    for (ids, lengths), count in zip((firsts, seconds), counts, strict=True):
        begins = np.cumsum(lengths) - lengths
        texts.append((ids, begins + lengths - count if left else begins, count))
    ids, lengths = assemble_rows([template.before, texts[0], template.between, texts[1], template.after])
    zeros = counts[0] + len(template.before) + template.between_first
    return ids, lengths, zeros if template.typed else lengths.copy()


class PairEncoder:
    """A tokenizer that turns pairs of texts into rows.

    Args:
        reference: `tokenizers`, which from now on truncates nothing; its `max_length` counts the special tokens.
        check: a fast engine for the single texts; None for the reference itself.

    Raises:
        InputError: the tokenizer's template is not one that a cache can hold.
    """

    def __init__(self, reference: TokenizersEngine, check: ParityCheck | None) -> None:
        self.rules, self.reference, self.check = reference.rules, reference, check
        reference.backend.no_truncation()
        self.template = pair_template(reference.backend)
        self.most = self.rules.max_length - self.template.specials

    def encode(self, firsts: Sequence[str], seconds: Sequence[str]) -> Rows:
        """Encode pairs.

        Raises:
            ParityError: a fast engine was wrong, or failed.
        """
        check = self.check
        if check is None:
            return self.by_tokenizers(firsts, seconds)
        encoded = [check.encode(texts, bare=True) for texts in (firsts, seconds)]
        left = self.rules.truncation_side == "left"
        ids, lengths, zeros = assemble(encoded[0], encoded[1], self.template, self.most, left)

        def again(chosen: list[int]) -> Rows:
            return self.by_tokenizers(*([check.kept(texts[row]) for row in chosen] for texts in (firsts, seconds)))

        pairs = list(map(" | ".join, zip(firsts, seconds, strict=True)))
        chosen, wanted = check.compare(pairs, ids, lengths, again)
        if not np.array_equal(zeros[chosen], wanted[2]):
            raise ParityError(f"{check.engine.name} and tokenizers disagree where the first text of a pair ends")
        return ids, lengths, zeros

    def by_tokenizers(self, firsts: Sequence[str], seconds: Sequence[str]) -> Rows:
        """The reference."""
        rows: list[Array] = []
        zeros: list[int] = []
        pairs = list(zip(firsts, seconds, strict=True))
        for encoding in self.reference.encodings(self.reference.backend.encode_batch_fast, pairs):
            ids, types = truncated_pair(encoding, self.rules.max_length, self.rules.truncation_side == "left")
            rows.append(ids)
            zeros.append(int((types == 0).sum()))
        return *join_rows(rows), np.array(zeros, np.int64)
