"""Quotes in csv files that are part of texts: two of them may make one cell of all rows between them.

A cell that begins with a quote ends with the next one that is not doubled, perhaps lines below. In a file that was
written as csv, a delimiter or the end of the line follows; where a text follows, readers take it for the rest of the
cell, without a word. So the bytes of a file are looked at on their way to pyarrow, and a file with such quotes, or with
some in the middle of a text, is read by Python's csv module, too, which says where they are.
"""

import csv
import io
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from cache.common.table_files import text_behind_quote
from cache.errors import InputError

from .formats import TableFile, open_unpacked

PIECE_BYTES = 1 << 18
"""What a processor's cache has room for."""
QUOTE = b'"'
LONGEST_CELL = 1 << 26
"""Characters; of a file with a longer one, nothing is said."""


def checked_quotes(table: TableFile, file: Any) -> Iterator[bytes]:
    """The bytes of a csv file, which is open.

    Raises:
        InputError: it has quotes that `wrong_quotes` finds.
    """
    pairs, unseen = QuotePairs(table.delimiter), True
    while piece := file.read(PIECE_BYTES):
        if unseen and not pairs.fit(piece):
            unseen = False
            if wrong := wrong_quotes(table):
                raise InputError(wrong)
        yield piece


class QuotePairs:
    """Whether all quotes of a file are where a cell begins or ends, or doubled within one; it comes in pieces.

    Args:
        delimiter: what separates its cells.
    """

    def __init__(self, delimiter: str) -> None:
        self._border = np.zeros(256, bool)  # before a quote that begins a cell, and behind one that ends it
        self._border[list(delimiter.encode() + b'\r\n"')] = True
        self._before = b"\n"  # the last byte that was looked at and is no quote
        self._rest = b""  # quotes behind it: what follows them is not known yet
        self._open = False  # whether a cell that begins with a quote is not at its end

    def fit(self, piece: bytes) -> bool:
        """Whether those of the next piece are."""
        data = self._before + self._rest + piece.removeprefix(BOM_UTF8)
        known = data.rstrip(QUOTE)
        self._before, self._rest = known[-1:], data[len(known) :]
        values = np.frombuffer(known, np.uint8)
        quotes = np.flatnonzero(values == ord(QUOTE))
        begins, ends = quotes[self._open :: 2], quotes[1 - self._open :: 2]
        self._open = len(begins) > len(ends) or (self._open and len(begins) == len(ends))
        return bool(self._border[values[begins - 1]].all() and self._border[values[ends + 1]].all())


def wrong_quotes(table: TableFile) -> str:
    """What `text_behind_quote` says of the first row for which it says something; empty if there is none.

    csv's limit of a cell stays changed: this runs in a forked process.
    """
    csv.field_size_limit(LONGEST_CELL)
    held: list[str] = []  # the lines of a row

    def lines(file: TextIO) -> Iterator[str]:
        for line in file:
            held.append(line)
            yield line

    with io.TextIOWrapper(open_unpacked(table.path), "utf-8-sig", "replace", newline="") as file:
        rows = csv.reader(lines(file), delimiter=table.delimiter, strict=True)
        while True:
            held.clear()
            try:
                next(rows)
            except StopIteration:
                return ""
            except csv.Error as error:
                if "expected after" not in str(error):
                    return ""
                if wrong := text_behind_quote(table.path, held, rows.line_num):
                    return wrong
