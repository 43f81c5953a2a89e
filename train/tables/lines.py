"""Plain lines of text, one text or pair of texts each: arguments, standard input, a file."""

import sys
from pathlib import Path

from cache.common.table_files import utf8_remedy
from cache.errors import InputError


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


def read_texts(data: bytes, path: Path | None) -> list[str]:
    """The texts in some bytes, one per line; they are those of a file, or of standard input where `path` is None.

    Raises:
        InputError: not UTF-8, with the byte's position; or there is no line.
    """
    source = path or "stdin"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8: byte {data[error.start]:#04x} at position {error.start:,}; "
            f"{utf8_remedy(data, path.name if path else None)}"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError(f"{source} holds no text, expected one per line")
    return lines


def read_stdin() -> list[str]:
    """The texts on standard input, one per line.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_texts(sys.stdin.buffer.read(), None)
    except OSError as error:
        raise InputError(f"stdin cannot be read ({error.strerror}); pass texts or --file FILE") from None


def read_file(path: Path) -> list[str]:
    """The texts in a file, one per line.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_texts(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"--file {path} cannot be read ({error.strerror})") from None
