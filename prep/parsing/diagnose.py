"""Why a source file cannot be read: pyarrow's complaint, the row or byte, and what to do.

Explaining runs only once reading has failed, so it may take its time.
"""

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from cache.common.table_files import BY_NAME, Cells, ragged_remedy, utf8_remedy
from cache.errors import InputError
from cache.format.checksummed_json import unique_keys

from .csv_quotes import wrong_quotes
from .formats import TableFile, open_unpacked, table_file
from .remote_path import SourcePath


def row_too_long(path: SourcePath, row_bytes: int) -> InputError:
    """The error for a row of more than `row_bytes`."""
    return InputError(
        f"cannot read {path}: a row is longer than {row_bytes:,} bytes, the most for this --memory; close the quote or "
        "end the line that is missing, or pass a larger --memory"
    )


@contextlib.contextmanager
def reading(path: SourcePath, cells: Cells = BY_NAME) -> Iterator[None]:
    """Turn the complaints of pyarrow, of archives and of the system about `path` into an `InputError` that names it and
    says why. `cells` are as for `table_file`."""
    try:
        yield
    except MemoryError:  # also pyarrow's
        raise
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if isinstance(error, OSError | EOFError | UnicodeDecodeError) or library in ("pyarrow", "zipfile", "zlib"):
            raise InputError(_reason(path, cells, error)) from error
        raise


def _reason(path: SourcePath, cells: Cells, error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {path}: {error.strerror}"
    with contextlib.suppress(Exception):  # it may be no table, what it is packed in broken itself, a row too long
        table = table_file(path, cells)
        position = first_invalid_byte(path) if table.kind != "parquet" else None
        if position is not None:
            return not_utf8(path, position)
        if mixed := re.match(r"(.* Column\(/([^/]+)\) changed from \w+ to \w+) in row \d+$", text):  # of a block
            return f"cannot read {path}: {mixed[1]}{_mixed_json(table, mixed[2])}"
        if table.kind == "csv" and table.quotes is None and (wrong := wrong_quotes(table)):
            return wrong
        where = {"csv": _ragged_row, "json": _bad_json}.get(table.kind, lambda _: "")(table)
        text = (re.sub(r" in row \d+$", "", text) if where else text) + where  # that row is counted in its block
    return f"cannot read {path}: {text}"


def _open(path: SourcePath) -> io.BufferedReader:
    return io.BufferedReader(open_unpacked(path))


def first_invalid_byte(path: SourcePath) -> int | None:
    """The position of the first byte of a (perhaps compressed) file that is not UTF-8, None where there is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with _open(path) as file:
        while True:
            block, pending = file.read(1 << 20), len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return position - pending + error.start
            if not block:
                return None
            position += len(block)


def not_utf8(path: SourcePath, position: int) -> str:
    """The message for text in another encoding."""
    with _open(path) as file:
        return f"{path}: not UTF-8 text at byte {position:,}; {utf8_remedy(file.read(2), path.name)}"


def _ragged_row(table: TableFile) -> str:
    """Where the first row of a csv file is that has more or fewer cells than the header."""
    csv.field_size_limit(1 << 30)  # stays so: this runs in a forked process
    with contextlib.suppress(csv.Error), _open(table.path) as file:
        rows = csv.reader(
            (line.decode("utf-8-sig") for line in file),
            delimiter=table.delimiter,
            quoting=csv.QUOTE_NONE if table.quotes is False else csv.QUOTE_MINIMAL,
        )
        header = next(rows, [])
        for number, row in enumerate(filter(None, rows)):
            if len(row) != len(header):
                return (
                    f" (row {number}, counted from 0, which ends on line {rows.line_num}, has {len(row)} cells, "
                    f"the header has {len(header)}; {ragged_remedy(table.delimiter, table.quotes, header)})"
                )
    return ""


def _bad_json(table: TableFile) -> str:
    """Where the first line of a JSON lines file is that is not an object of different names and valid text."""
    with _open(table.path) as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.lstrip()[:1] == b"[":
                return ""
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = json.loads(text or "{}", object_pairs_hook=unique_keys)
                json.dumps(row, ensure_ascii=False).encode()
                if not isinstance(row, dict | None):
                    raise ValueError(f"{text[:40]} is not an object")
            except (ValueError, RecursionError) as error:
                return f" (line {number}: {error}; expected one JSON object per line)"
    return ""


def _mixed_json(table: TableFile, column: str) -> str:
    """Which row of a JSON file holds a value of another kind in a column than the rows before it."""
    kinds = []
    for number, row in enumerate(_json_rows(table)):
        if (value := row.get(column)) is not None:
            kinds.append(float if type(value) is int else type(value))
            if kinds[-1] != kinds[0]:
                return f", at row {number} of the file (counted from 0); make them all the same"
    return ""


def _json_rows(table: TableFile) -> Iterator[dict[str, Any]]:
    """The rows of a file of lines or of one list, all of which are objects."""
    with _open(table.path) as file:
        if file.peek(1).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
            yield from json.load(file)
        else:
            yield from (json.loads(line) for line in file if line.strip())
