"""Engines that turn texts into ids: `tokenizers`, and nanotoken and gigatoken, which are 10 to 100 times faster.

The fast ones are young, so no build trusts them: see `parity`.
"""

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.common.panics import panics_as_errors
from cache.errors import InputError


class ParityError(Exception):
    """A fast engine failed, or gave other ids than `tokenizers`."""

    @classmethod
    def differing(cls, engine: str, text: str, found: list[int], expected: list[int]) -> "ParityError":
        """For `text` it gave `found` instead of `expected`."""
        at = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), -1)
        at = at if at >= 0 else min(len(found), len(expected))
        return cls(
            f"{engine} and tokenizers disagree at token {at} of the text {text[:200]!r}: "
            f"{found[at : at + 5]} instead of {expected[at : at + 5]}"
        )


class RowError(ParityError):
    """`tokenizers` itself fails on a row, whose position among those it was given is `row`."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"tokenizers fails on a row: {reason}")
        self.row, self.reason = row, reason

    def __reduce__(self) -> Any:
        return RowError, (self.row, self.reason)


@dataclass(frozen=True)
class Rules:
    """What an engine needs to know beside tokenizer.json.

    Attributes:
        tokenizer_json: its content.
        max_length: tokens of a row at most, special tokens included.
        truncation_side: "right" or "left", the side where tokens are dropped.
    """

    tokenizer_json: str
    max_length: int
    truncation_side: str


class TokenizersEngine:
    """Hugging Face `tokenizers`, the reference. As every engine it adds special tokens, truncates, and does not pad."""

    name = "tokenizers"
    ROWS = 1024
    """Rows encoded at once: nothing can be stopped in between."""

    def __init__(self, rules: Rules, backend: Any = None) -> None:
        """`backend` is the parsed tokenizer.json, where it has been parsed already."""
        from tokenizers import Tokenizer

        self.rules = rules
        self.backend = backend or Tokenizer.from_str(rules.tokenizer_json)
        self.backend.no_padding()
        self.truncate()

    def truncate(self) -> None:
        """Truncate as the rules say."""
        self.backend.enable_truncation(self.rules.max_length, direction=self.rules.truncation_side)

    def encode(self, texts: Sequence[str], bare: bool = False) -> tuple[Array, Array]:
        """Texts to (tokens,) uint32 ids, rows end to end, and (rows,) int64 lengths; `bare` ones without special
        tokens, not truncated."""
        if bare:
            self.backend.no_truncation()
        try:
            encodings = self.encodings(self.backend.encode_batch_fast, texts, add_special_tokens=not bare)
            return join_rows([np.array(encoding.ids, np.uint32) for encoding in encodings])
        finally:
            if bare:  # no change of it while another thread encodes
                self.truncate()

    def special_ids(self) -> tuple[list[int], list[int]]:
        """The special tokens that are put before and after a single text.

        Raises:
            ValueError: the tokenizer does not simply put some before and some after.
        """
        self.backend.no_truncation()
        bare, full = self.backend.encode("a", add_special_tokens=False).ids, self.backend.encode("a").ids
        self.truncate()
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        raise ValueError("its special tokens are not simply put around the text")

    def encodings(self, encode: Callable[..., Any], rows: Sequence[Any], **options: Any) -> Iterator[Any]:
        """What a function of the library that encodes batches gives for each row.

        Raises:
            RowError: it fails on a row, as where a regular expression takes too long.
        """
        for first in range(0, len(rows), self.ROWS):
            part = list(rows[first : first + self.ROWS])
            try:
                with panics_as_errors():
                    encodings = encode(part, **options)
            except Exception as error:
                failing = (row for row, text in enumerate(part) if not _encodes(encode, text, options))
                raise RowError(first + next(failing, 0), str(error)) from error
            yield from encodings


def _encodes(encode: Callable[..., Any], row: Any, options: dict[str, Any]) -> bool:
    try:
        with panics_as_errors():
            encode([row], **options)
    except Exception:  # noqa: BLE001  # the library raises bare ones
        return False
    return True


class NanotokenEngine:
    """nanotoken: WordPiece."""

    name = "nanotoken"

    def __init__(self, rules: Rules) -> None:
        import nanotoken

        nanotoken.set_cache_entries(1 << 19)  # some 65 MiB per thread instead of 130, no slower on the reviews
        self.rules = rules
        self.backend = nanotoken.Tokenizer.from_json(rules.tokenizer_json)

    def encode(self, texts: Sequence[str], bare: bool = False) -> tuple[Array, Array]:
        rows = self.backend.encode_batch(
            texts,
            add_special_tokens=not bare,
            max_length=None if bare else self.rules.max_length,
            truncation_side=self.rules.truncation_side,
        )
        return rows.ids, rows.lengths


class GigatokenEngine:
    """gigatoken: byte-level BPE, and SentencePiece BPE with byte fallback. It leaves special tokens to its caller.

    It and `tokenizers` go by different versions of Unicode, so texts with characters that one of them may not know
    (see `has_young_letters`) are left to `tokenizers`.
    """

    name = "gigatoken"
    ROWS = 4096
    """Rows encoded at once: they come padded to the longest."""

    def __init__(self, rules: Rules) -> None:
        import gigatoken

        self.rules = rules
        self.backend = gigatoken.Tokenizer.from_json(rules.tokenizer_json)
        self.careful = TokenizersEngine(rules)
        self.before, self.after = self.careful.special_ids()

    def encode(self, texts: Sequence[str], bare: bool = False) -> tuple[Array, Array]:
        rows: list[Array] = []
        for first in range(0, len(texts), self.ROWS):
            matrix, lengths = self.backend.encode_batch_padded(
                list(texts[first : first + self.ROWS]),
                0,  # what it pads with, which is left out below
                max_length=None if bare else self.rules.max_length,
                truncate=not bare,
                truncate_left=self.rules.truncation_side == "left",
                prefix=[] if bare else self.before,
                suffix=[] if bare else self.after,
            )
            rows += [row[:length] for row, length in zip(matrix, lengths, strict=True)]
        young = [row for row, text in enumerate(texts) if not text.isascii() and has_young_letters(text)]
        for row, ids in zip(young, split_rows(*self.careful.encode([texts[row] for row in young], bare)), strict=True):
            rows[row] = ids
        return join_rows(rows)


def join_rows(rows: Sequence[Array]) -> tuple[Array, Array]:
    """Rows of ids to (tokens,) uint32, rows end to end, and (rows,) int64 lengths."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.concatenate([np.zeros(0, np.uint32), *rows], dtype=np.uint32, casting="unsafe"), lengths


def split_rows(ids: Array, lengths: Array) -> list[Array]:
    """The reverse of `join_rows`."""
    return np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []


Slices = tuple[Array, Array, Array]
"""Values (T,), of which some are for each row: (N,) where they begin, and (N,) how many they are."""


def assemble_rows(pieces: Sequence[list[int] | Slices], dtype: Any = np.uint32) -> tuple[Array, Array]:
    """Rows of special tokens, the same in each, and slices of values: end to end, and (N,) how long they are."""
    rows = next(len(piece[1]) for piece in pieces if isinstance(piece, tuple))
    lengths, columns = np.zeros(rows, np.int64), []
    for piece in pieces:
        if isinstance(piece, tuple):
            values, begins, counts = piece
            bounds = zip(begins.tolist(), (begins + counts).tolist(), strict=True)
            columns.append([values[begin:end] for begin, end in bounds])  # indices would take more than the values
            lengths += counts
        else:
            columns.append([np.array(piece, dtype)] * rows)
            lengths += len(piece)
    parts = chain.from_iterable(zip(*columns, strict=True))
    return np.concatenate([np.zeros(0, dtype), *parts], dtype=dtype, casting="unsafe"), lengths


_OLD = re.compile("[\u0000-\u021f\u2010-\u2046\u3041-\u3094\u4e00-\u9fa5\uac00-\ud7a3]+")
"""The bulk of most texts, all of it in Unicode 3.2."""


def has_young_letters(text: str) -> bool:
    """Whether `text` has letters, digits or marks that came to Unicode after version 3.2 (2002), or may have.

    Tables of different age agree on all characters but these: what one calls a letter is nothing yet to the other.
    Symbols such as emoji do not matter, for tokenizers treat an unknown character as a symbol.
    """
    return any(map(_is_young, set(_OLD.sub("", text))))


@functools.cache
def _is_young(character: str) -> bool:
    old = unicodedata.ucd_3_2_0.category(character) != "Cn"
    return not old and unicodedata.category(character)[0] not in "SP"


FastEngine = NanotokenEngine | GigatokenEngine
FAST: dict[str, tuple[str, Callable[[Rules], FastEngine]]] = {
    "nanotoken": ("WordPiece", NanotokenEngine),
    "gigatoken": ("BPE", GigatokenEngine),
}
"""Fast engines: the tokenizer model each is for, and how to make it."""


def fast_engine(name: str, rules: Rules) -> FastEngine | None:
    """The engine asked for; for "auto" the one that is installed and takes this tokenizer. None for `tokenizers`.

    Raises:
        InputError: the engine asked for is not installed, or does not take this tokenizer.
    """
    model = str((json.loads(rules.tokenizer_json).get("model") or {}).get("type"))
    engine = next((fast for fast, (kind, _) in FAST.items() if kind == model), "") if name == "auto" else name
    if engine not in FAST:
        return None
    try:
        with panics_as_errors():
            return FAST[engine][1](rules)
    except ImportError:
        if name != "auto":
            raise InputError(f"--engine {engine} is not installed: pip install {engine}") from None
    except Exception as error:  # each library has errors of its own for what it does not take
        if name != "auto":
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(
                f"--engine {engine} does not take this {model} tokenizer: {reason}; pass --engine tokenizers"
            ) from error
    return None
