"""Checks of arguments that are given from Python, before anything is done with them."""

from collections.abc import Mapping
from typing import Any, get_args, get_origin

import numpy as np

from ..errors import InputError


def checked(given: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, numpy's numbers among them as Python's own; `kinds` annotates those that are looked at: with a
    type, or several in a union.

    Raises:
        InputError: some are of another type; all of them are named.
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
    wrong = [
        f"{name} is {value!r:.80}, expected {kinds[name].__name__ if isinstance(kinds[name], type) else kinds[name]}"
        for name, value in plain.items()
        if name in kinds and not _fits(value, kinds[name])
    ]
    if wrong:
        raise InputError("; ".join(wrong))
    return plain


def _fits(value: object, kind: Any) -> bool:
    kinds = [get_origin(part) or part for part in get_args(kind) or (kind,)]
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds)) or (isinstance(value, int) and float in kinds)
