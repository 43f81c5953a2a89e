"""What both commands know of files of rows: the formats that endings stand for, and the way out of another encoding."""

import shlex

from ..errors import InputError

CSV, TSV, JSON, PARQUET = "csv", "tsv", "json", "parquet"

FORMATS = {
    ".csv": CSV,
    ".tsv": TSV,
    ".tab": TSV,
    ".jsonl": JSON,
    ".ndjson": JSON,
    ".json": JSON,
    ".parquet": PARQUET,
}
"""Endings and their formats; JSON is an object per line."""

DELIMITERS = {CSV: ",", TSV: "\t"}
"""What separates the cells."""

_OTHER_DELIMITERS = {";": "';'", "\t": "'\\t'", "|": "'|'"}
"""What may separate cells in place of commas, and how it is typed."""

MAX_NAME = 60
"""Characters of a column's name, beyond which it looks like a text."""


def parse_delimiter(typed: str) -> str:
    """What separates a file's cells, from what was typed: a tab as \\t.

    Raises:
        InputError: nothing can be separated by it.
    """
    mark = "\t" if typed == "\\t" else typed
    if len(mark) != 1 or not mark.isascii() or mark in '"\r\n':
        raise InputError(f"--delimiter {typed!r} is not one character such as ';' (a tab is '\\t')")
    return mark


def other_delimiter(name: str) -> str:
    """What seems to separate the cells of a file whose only column has this name, as it is typed; empty if nothing."""
    return next((typed for mark, typed in _OTHER_DELIMITERS.items() if mark in name), "")


UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def utf8_remedy(begin: bytes, name: str | None) -> str:
    """What to do about text that is not UTF-8.

    Args:
        begin: its first bytes, which tell UTF-16.
        name: its file; None for standard input.
    """
    encoding = "utf-16" if begin[:2] in UTF16_MARKS else "latin1"
    files = "" if name is None else f" {shlex.quote(name)} > {shlex.quote(f'utf8-{name}')}"
    return f"convert it first, for example: iconv -f {encoding} -t utf-8{files}"
