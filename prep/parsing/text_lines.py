"""Files of plain text, a text per line, without labels.

Lines that are empty or white space alone are passed over, as by `--line_by_line` of transformers' run_mlm.py. A line
ends with a line feed, or with a carriage return and one; no other character ends it.
"""

from collections.abc import Iterator

import pyarrow as pa

from ..columns import TEXT
from .diagnose import row_too_long
from .formats import TableFile, open_unpacked

BLOCK_BYTES = 1 << 20
"""A file is read in blocks of this many bytes."""


def read_lines(table: TableFile, row_bytes: int) -> Iterator[pa.RecordBatch]:
    """The lines of a file that hold a text, as the column `text`.

    Raises:
        InputError: a line is longer than `row_bytes`.
        UnicodeDecodeError: the file is not UTF-8.
    """
    for number, block in enumerate(_whole_lines(table, row_bytes)):
        text = block.decode("utf-8-sig" if number == 0 else "utf-8")
        lines = (line.removesuffix("\r") for line in text.split("\n"))
        texts = [line for line in lines if line and not line.isspace()]
        yield pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], [TEXT])


def _whole_lines(table: TableFile, row_bytes: int) -> Iterator[bytes]:
    """The bytes of a file, cut at ends of lines, which are left out at the cuts."""
    held: list[bytes] = []  # the beginning of a line whose end is not read yet
    with open_unpacked(table.path, table.span) as file:
        while block := file.read(BLOCK_BYTES):
            lines, end, rest = block.rpartition(b"\n")
            if sum(map(len, held)) + len(block.partition(b"\n")[0]) > row_bytes:
                raise row_too_long(table.path, row_bytes)
            if end:
                yield b"".join([*held, lines])
                held.clear()
            held.append(rest)
    yield b"".join(held)
