"""Plain lines of text, one text or pair of texts each: arguments, standard input, a file."""

import contextlib
import sys
from pathlib import Path

from cache.errors import InputError

from .parsing import Lines


def split_pair(text: str) -> tuple[str, str]:
    """The two texts on a line.

    Raises:
        InputError: the line does not hold exactly one tab.
    """
    parts = text.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"the text {text[:60]!r} holds {len(parts) - 1} tabs, but the model takes pairs; put one tab between the "
            "first and the second text"
        )
    return parts[0], parts[1]


def read_texts(path: Path | None) -> list[str]:
    """The texts in a file, or on standard input where there is no path, one per line.

    Raises:
        InputError: it cannot be read, is not UTF-8, or holds no line.
    """
    source = "stdin" if path is None else f"--file {path}"
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path is None else path.open("rb") as file:
            texts = [line.rstrip("\r\n") for line in Lines(path, file)]
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror})") from None
    if not texts:
        raise InputError(f"{source} holds no text, expected one per line")
    return texts
