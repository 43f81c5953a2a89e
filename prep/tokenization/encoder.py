"""A tokenizer run over batches of texts, pairs of texts or lists of words."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.common.panics import panics_as_errors
from cache.errors import InputError
from cache.format.checksummed_json import Json

from .chunks import ChunkEncoder
from .engines import Rules, TokenizersEngine, fast_engine
from .pairs import PairEncoder
from .parity import ParityCheck
from .tokenizer_files import TOKENIZER_JSON, TokenizerFiles
from .words import WordEncoder

MAX_VOCAB = 1 << 22
"""Ids are below it, four times those of the largest vocabularies in use: fast engines keep tables of that size."""


class Encoder:
    """A tokenizer that turns texts into ids: special tokens added, truncated, never padded.

    Attributes:
        vocab_size: ids are below it.
        pad_id: the padding token's id.
        special_tokens: those that every row has.
        padding_side, truncation_side: "right" or "left".
        max_length: tokens of the longest row.
        check: a fast engine, and what proves it right; None with `tokenizers` itself.
        pairs: the encoder of pairs of texts; None where texts come alone.
        words: the encoder of lists of words; None where texts are text.
        chunks: the encoder of long texts in several rows; None where they are truncated.
    """

    def __init__(
        self,
        files: TokenizerFiles,
        max_length: int,
        engine: str = "auto",
        pair: bool = False,
        words: bool = False,
        chunked: bool = False,
    ) -> None:
        """
        Raises:
            InputError: tokenizer.json does not parse, there is no padding token, `max_length` has no room for text,
                or the engine or the way to cut long texts does not take this tokenizer.
        """
        from tokenizers import Tokenizer

        self.files = files
        text = files.files[TOKENIZER_JSON].decode()
        try:
            with panics_as_errors():
                backend: Any = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise InputError(f"the tokenizer.json of {files.name!r} cannot be read: {error}") from error
        config = files.config
        self.max_length = max_length
        self.padding_side = _side(config, "padding_side")
        self.truncation_side = _side(config, "truncation_side")
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        if self.vocab_size > MAX_VOCAB:
            raise InputError(
                f"the tokenizer {files.name!r} has a token with the id {self.vocab_size - 1:,}, expected ids below "
                f"{MAX_VOCAB:,}; number its tokens from 0 on, or pass another --tokenizer"
            )
        self.pad_id = _pad_id(files, backend)
        self.special_tokens: int = backend.num_special_tokens_to_add(pair)
        least = self.special_tokens + (2 if pair else 1)
        if max_length < least:
            raise InputError(
                f"--max-length {max_length} leaves no room for {'two texts' if pair else 'text'}: the tokenizer adds "
                f"{self.special_tokens} special tokens; pass at least {least}"
            )
        self.pair, self.takes_words, self.chunked = pair, words, chunked
        self.reference = TokenizersEngine(Rules(text, max_length, self.truncation_side), backend)
        try:
            with panics_as_errors():
                self.use(engine)
        except RuntimeError as error:
            raise InputError(f"the tokenizer {files.name!r} fails on a text of one letter: {error}") from error

    def use(self, engine: str) -> None:
        """Choose the engine, one of `prep.choices.ENGINES`."""
        fast = fast_engine(engine, self.reference.rules)
        self.check = None if fast is None else ParityCheck(fast, self.reference)
        self.pairs = PairEncoder(self.reference, self.check) if self.pair else None
        self.words = WordEncoder(self.reference, self.check) if self.takes_words else None
        self.chunks = ChunkEncoder(self.reference, self.check) if self.chunked else None
        self.checking: Future[None] | None = None

    def encode(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Encode texts.

        Returns:
            (tokens,) uint32 ids, rows end to end; (rows,) int64 lengths.

        A fast engine's rows are checked in the background; `settle` waits for that.

        Raises:
            ParityError: a fast engine failed, or was wrong in what was encoded before.
            RowError: `tokenizers` fails on a text.
        """
        if self.check is None:
            return self.reference.encode(texts)
        ids, lengths = self.check.encode(texts)
        self.settle()
        thread = ThreadPoolExecutor(1)
        self.checking = thread.submit(self.check.check, texts, ids, lengths)
        thread.shutdown(wait=False)
        return ids, lengths

    def settle(self) -> None:
        """Wait until everything that was encoded is checked.

        Raises:
            ParityError: a fast engine was wrong.
        """
        if self.checking is not None:
            self.checking.result()

    def release(self) -> None:
        """Let go of the engine, whose caches take hundreds of megabytes; there is nothing more to encode."""
        self.check = self.checking = self.pairs = self.words = self.chunks = None

    @property
    def id_type(self) -> type[Any]:
        """What ids are stored in; those of words, packed with a mark each, in twice as many bits."""
        if self.vocab_size <= 1 << 16:
            return np.uint32 if self.takes_words else np.uint16
        return np.uint64 if self.takes_words else np.uint32

    @property
    def engine(self) -> str:
        """Name of the library that encodes."""
        return self.check.engine.name if self.check else self.reference.name

    @property
    def rows_checked(self) -> int:
        """On how many rows a fast engine was checked."""
        return self.check.rows if self.check else 0

    def facts(self) -> Json:
        """Engine and version, for the manifest."""
        return {"engine": self.engine, "version": version(self.engine)}

    def __reduce__(self) -> Any:
        """An encoder is pickled as its settings. A process that is given several of one kind makes one of them."""
        return _encoder, (self.files, self.max_length, self.engine, self.pair, self.takes_words, self.chunked)


_last: tuple[tuple[Any, ...], Encoder] | None = None


def _encoder(*settings: Any) -> Encoder:
    """An encoder with these settings: the last one, where it has them."""
    global _last
    if _last is None or _last[0] != settings:
        _last = settings, Encoder(*settings)
    return _last[1]


def _pad_id(files: TokenizerFiles, backend: Any) -> int:
    token = files.config.get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    ids = [backend.token_to_id(candidate) for candidate in ([str(token)] if token else ["[PAD]", "<pad>"])]
    found = [number for number in ids if number is not None]
    if not found:
        has = f"has the padding token {token!r}, which its vocabulary lacks" if token else "has no padding token"
        raise InputError(
            f"the tokenizer {files.name!r} {has}, and batches need one; "
            'set "pad_token" in its tokenizer_config.json to a token of the vocabulary, or pass another --tokenizer'
        )
    return int(found[0])


def _side(config: Json, key: str) -> str:
    return "left" if config.get(key) == "left" else "right"
