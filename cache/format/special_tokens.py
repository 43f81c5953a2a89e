"""The special tokens of a tokenizer and its mask token, read from its files alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

CONFIGS = ("special_tokens_map.json", "tokenizer_config.json")
"""The files in which a tokenizer names its special tokens; the later one counts."""
MASKS = ("[MASK]", "<mask>")
"""What the mask token is called where no file says so."""


@dataclass(frozen=True)
class Specials:
    """The id of the mask token, and all special ids, that one included, ascending."""

    mask_id: int
    ids: tuple[int, ...]


def read_specials(files: Mapping[str, bytes], name: str) -> Specials:
    """Find the special tokens of a tokenizer in its files: tokenizer.json, and what there is of `CONFIGS`.

    Raises:
        InputError: it has no mask token, or its files do not parse.
    """
    try:
        raw = json.loads(files["tokenizer.json"])
        named = _named(files)
        numbers = {**_vocabulary(raw["model"]["vocab"]), **{token["content"]: token["id"] for token in _added(raw)}}
        special = {token["content"] for token in _added(raw) if token.get("special")}
        wanted = (named["mask_token"],) if "mask_token" in named else MASKS
        masks = [numbers[token] for token in wanted if token in numbers]
        ids = {int(numbers[token]) for token in special | set(named.values()) if token in numbers}
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise InputError(f"the files of the tokenizer {name!r} do not say its special tokens ({error!r})") from None
    if not masks:
        raise InputError(
            f"the tokenizer {name!r} has no mask token, which --task mlm puts in place of masked tokens; build the "
            "cache with the tokenizer of a masked language model, such as --tokenizer bert-base-uncased"
        )
    return Specials(int(masks[0]), tuple(sorted({*ids, int(masks[0])})))


def _added(raw: dict[str, Any]) -> list[dict[str, Any]]:
    return raw.get("added_tokens") or []


def _vocabulary(vocabulary: Any) -> dict[str, int]:
    """Token to id: of most models an object, of Unigram a list of tokens and scores."""
    if isinstance(vocabulary, dict):
        return vocabulary
    return {token: number for number, (token, _) in enumerate(vocabulary)}


def _named(files: Mapping[str, bytes]) -> dict[str, str]:
    """The tokens that have a role, such as `mask_token`, by its name."""
    roles: dict[str, str] = {}
    for file in CONFIGS:
        for role, token in json.loads(files.get(file, b"{}")).items():
            text = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(text, str):
                roles[role] = text
    return roles
