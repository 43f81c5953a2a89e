"""Lines, JSON and csv by Python's own parsers, from rows of a bounded length: a file may come from a stranger."""

import csv
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cache.common.table_files import (
    TEXT_QUOTES,
    holds_rows,
    holds_rows_error,
    quotes_in_doubt,
    ragged_remedy,
    text_behind_quote,
    utf8_remedy,
)
from cache.errors import InputError

MAX_ROW_BYTES = 16 << 20
"""Bytes of the longest row that is read from csv, JSON and text."""

Row = dict[str, Any]


class Lines:
    """The lines of a file of UTF-8 text, or of standard input, which has no path; none is longer than a row may be.

    Attributes:
        size: bytes that were read so far, unpacked.
    """

    def __init__(self, path: Path | None, file: BinaryIO) -> None:
        self.path, self.file, self.size = path, file, 0

    def __iter__(self) -> Iterator[str]:
        source = self.path or "stdin"
        for number in itertools.count(1):
            try:
                line = self.file.readline(MAX_ROW_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"{source}: line {number:,} cannot be read ({error}); restore the file") from None
            if not line:
                return
            self.size += len(line)
            if len(line) > MAX_ROW_BYTES:
                raise _too_long(source, number)
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                remedy = utf8_remedy(line if number == 1 else b"", None if self.path is None else self.path.name)
                raise InputError(
                    f"{source}: line {number:,} is not UTF-8 (byte {line[error.start]:#04x} at position "
                    f"{error.start:,} of it); {remedy}"
                ) from None


def _too_long(source: Path | str, line: int) -> InputError:
    return InputError(
        f"{source}: the row at line {line:,} is longer than {MAX_ROW_BYTES:,} bytes; close the quote or end the line "
        "that is missing"
    )


def json_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    """The objects of a file of JSON lines.

    Raises:
        InputError: a line holds something else.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            remedy = f"; convert a list: jq -c '.[]' {path.name} > rows.jsonl" if line.lstrip()[:1] == "[" else ""
            raise InputError(f"{path}: line {number:,}: {error}; expected one JSON object per line{remedy}") from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}: line {number:,} holds {row!r:.60}, expected one JSON object per line; convert a list: "
                f"jq -c '.[]' {path.name} > rows.jsonl"
            )
        yield row


def csv_rows(path: Path, lines: Iterable[str], delimiter: str, quotes: bool | None = None) -> Iterator[Row]:
    """The rows of a csv file below its header; `quotes` as in `Cells`.

    Raises:
        InputError: a row is too long or has another number of cells than the header, a quote is not closed, or a cell
            is likely several rows.
    """
    held: list[str] = []  # the lines of the row that is being parsed

    def feed() -> Iterator[str]:
        size = 0
        for number, line in enumerate(lines, 1):
            size = size + len(line) if held else len(line)
            if size > MAX_ROW_BYTES:
                raise _too_long(path, number)
            held.append(line)
            yield line

    csv.field_size_limit(MAX_ROW_BYTES)
    quoting: Any = csv.QUOTE_NONE if quotes is False else csv.QUOTE_MINIMAL
    reader = csv.reader(feed(), delimiter=delimiter, quoting=quoting)
    doubtful = quotes_in_doubt(delimiter, quotes)
    names: list[str] = []
    last: list[str] = []
    try:
        for number, cells in enumerate(filter(None, reader), -1):
            last = list(itertools.dropwhile(str.isspace, held))  # without blank lines before the row
            held.clear()
            if quotes is None:
                _check_quotes(path, last, reader.line_num, delimiter)
            if not names:
                names = check_header(path, cells)
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{path}: row {number:,} (counted from 0, ends on line {reader.line_num:,}) has {len(cells)} "
                    f"cells, the header {len(names)}; {ragged_remedy(delimiter, quotes, names)}"
                )
            row = dict(zip(names, cells, strict=True))
            for name, cell in row.items() if doubtful else ():
                if holds_rows(cell):
                    raise holds_rows_error(path, number, name, cell)
            yield row
        list(csv.reader(last, delimiter=delimiter, quoting=quoting, strict=True))  # finds a quote that is never closed
    except csv.Error as error:
        if not held and "end of data" not in str(error):
            return  # stray quotes in the last row, as forgiven in the others
        raise InputError(
            f"{path}: line {reader.line_num:,}: {error}; put texts in quotes, and double those in it; {TEXT_QUOTES}"
        ) from None


def _check_quotes(path: Path, lines: list[str], last: int, delimiter: str) -> None:
    """Check the lines of a row, the last one of which has this number.

    Raises:
        InputError: a text follows the quote that ends a cell, and `text_behind_quote` says something of it.
    """
    wrong = text_behind_quote(path, lines, last)
    if not wrong:
        return
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "expected after" in str(error):
            raise InputError(wrong) from None


def check_header(path: Path, names: list[str]) -> list[str]:
    """The names of a file's columns; refused if one is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} has {names.count(name)} columns {name!r}; rename all but one")
    return names
