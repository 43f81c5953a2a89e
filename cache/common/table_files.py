"""What both commands know of files of rows: the formats that endings stand for, and the way out of another encoding."""

import codecs
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..console.text import counted
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


@dataclass(frozen=True)
class Cells:
    """How csv and text files are cut into cells.

    Attributes:
        delimiter: what separates cells; None = what the names of files say.
        quotes: whether quotes around a cell may hold delimiters and line breaks; where not, they are part of the text.
            None = they may, but it is an error where they are likely part of the text: where cells between tabs hold
            both, or a text follows the quote that ends a cell of several lines.
    """

    delimiter: str | None = None
    quotes: bool | None = None

    @classmethod
    def typed(cls, delimiter: str | None, quotes: bool | None) -> Self:
        """From what was typed: a tab as \\t.

        Raises:
            InputError: nothing can be separated by the delimiter.
        """
        mark = "\t" if delimiter == "\\t" else delimiter
        if mark is not None and (len(mark) != 1 or not mark.isascii() or mark in '"\r\n'):
            raise InputError(f"--delimiter {delimiter!r} is not one character such as ';' (a tab is '\\t')")
        return cls(mark, quotes)

    @property
    def flag(self) -> str:
        """The first flag that was typed, where one was."""
        return "--delimiter" if self.delimiter else "--quotes" if self.quotes else "--no-quotes"

    @property
    def identity(self) -> dict[str, Any]:
        """What a cache's manifest says of them: nothing of what is as the names of files say."""
        return {name: value for name, value in vars(self).items() if value is not None}


BY_NAME = Cells()
"""As the names of files say."""


TEXT_QUOTES = "where quotes are part of the text, pass --no-quotes"
"""What to do where quotes do not hold cells together."""


def ragged_remedy(delimiter: str, quotes: bool | None, names: Sequence[str]) -> str:
    """What to do about a row that has more or fewer cells than the header, whose cells are `names`."""
    if len(names) == 1 and (mark := other_delimiter(names[0])):
        return f"are its cells separated by something else than {delimiter!r}? Pass --delimiter {mark}"
    if quotes is False:
        return "replace delimiters and line breaks within texts, or quote such texts and leave out --no-quotes"
    return f"put quotes around text that holds {delimiter!r} or line breaks; {TEXT_QUOTES}"


def quotes_in_doubt(delimiter: str, quotes: bool | None) -> bool:
    """Whether it is to be seen from the cells if quotes are part of the text: in files with tabs, unless it is said."""
    return quotes is None and delimiter == "\t"


def holds_rows(cell: str) -> bool:
    """Whether a cell between tabs is likely several rows: all between two quotes that are part of texts."""
    return "\t" in cell and "\n" in cell


def holds_rows_error(path: object, row: int, column: str, cell: str) -> InputError:
    """The error for such a cell of a row, counted from 0."""
    return InputError(
        f"{path}: row {row:,} (counted from 0) holds tabs and {counted(cell.count(chr(10)), 'line break')} in "
        f"{column!r}, {cell[:40]!r}…, which are between two quotes; {TEXT_QUOTES}; where they are part of this cell, "
        "pass --quotes"
    )


def text_behind_quote(path: object, lines: Sequence[str], last: int) -> str:
    """What to say of a row in which a text follows the quote that ends a cell, which readers take for the rest of it:
    two quotes that are part of texts make one cell of the lines between them. Empty for a row of one line, but where
    quotes within its cells are written with backslashes. `last` is the number of the row's last line, from 1."""
    first = last - len(lines) + 1
    as_it_is = "where the row is right so, pass --quotes"
    if any('\\"' in line for line in lines):
        return (
            f'{path}: quotes in the row that begins on line {first:,} are written as \\", expected ""; where they are '
            f'so throughout: sed \'s/\\\\"/""/g\' FILE > OTHER; {as_it_is}'
        )
    if len(lines) > 1:
        return (
            f"{path}: lines {first:,} to {last:,} are one row, for a quote begins a cell and the next one is in the "
            f"middle of a text; {TEXT_QUOTES}; {as_it_is}"
        )
    return ""


_OTHER_DELIMITERS = {";": "';'", "\t": "'\\t'", "|": "'|'"}
"""What may separate cells in place of commas, and how it is typed."""

MAX_NAME = 60
"""Characters of a column's name, beyond which it looks like a text."""


def other_delimiter(name: str) -> str:
    """What seems to separate the cells of a file whose only column has this name, as it is typed; empty if nothing."""
    return next((typed for mark, typed in _OTHER_DELIMITERS.items() if mark in name), "")


def utf8_remedy(begin: bytes, name: str | None) -> str:
    """What to do about text that is not UTF-8: its first bytes tell UTF-16, its file is None for standard input."""
    encoding = "utf-16" if begin[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "cp1252"
    files = "" if name is None else f" {shlex.quote(name)} > {shlex.quote(f'utf8-{name}')}"
    return f"convert it first, for example: iconv -f {encoding} -t utf-8{files}"
