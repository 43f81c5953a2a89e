"""Open source files, and explain why one cannot be read: pyarrow's complaint, the row or byte, and what to do.

Explaining runs only once reading has failed, so it may take its time.
"""

import codecs
import contextlib
import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from cache.common.files import open_regular as open_regular
from cache.errors import InputError

BINARY = {".arrow", ".parquet"}
"""Endings of files that hold no text."""
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def row_too_long(path: Path, row_bytes: int) -> InputError:
    """The error for a row of more than `row_bytes`."""
    return InputError(
        f"cannot read {path}: a row is longer than {row_bytes:,} bytes, the most for this --memory; close the quote or "
        "end the line that is missing, or pass a larger --memory"
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn pyarrow's and the system's complaints about `path` into an `InputError` that names it and says why."""
    try:
        yield
    except OSError as error:
        raise InputError(_reason(path, error)) from error
    except ValueError as error:  # pyarrow's errors are of this kind
        if isinstance(error, UnicodeDecodeError) or type(error).__module__.startswith("pyarrow"):
            raise InputError(_reason(path, error)) from error
        raise
    except (NotImplementedError, KeyError) as error:
        if type(error).__module__.startswith("pyarrow"):
            raise InputError(_reason(path, error)) from error
        raise


def _reason(path: Path, error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {path}: {error.strerror}"
    endings = [suffix.lower() for suffix in path.suffixes]
    with contextlib.suppress(OSError, EOFError, MemoryError):  # a gz file may be broken itself, a row too long
        if not BINARY.intersection(endings):
            position = first_invalid_byte(path)
            if position is not None:
                return not_utf8(path, position)
        if ".csv" in endings or ".tsv" in endings:
            text += _ragged_row(path, "\t" if ".tsv" in endings else ",")
        elif not BINARY.intersection(endings):
            text += _bad_json(path)
    return f"cannot read {path}: {text}"


def _open(path: Path) -> IO[bytes]:
    file = open_regular(path)
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix.lower() == ".gz" else file


def first_invalid_byte(path: Path) -> int | None:
    """The position of the first byte of a (perhaps compressed) file that is not UTF-8, None where there is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with _open(path) as file:
        while block := file.read(1 << 20):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                return position - pending + error.start
            position += len(block)
    return None if not decoder.getstate()[0] else position - len(decoder.getstate()[0])


def not_utf8(path: Path, position: int) -> str:
    """The message for text in another encoding."""
    with _open(path) as file:
        encoding = "utf-16" if file.read(2) in UTF16_MARKS else "latin1"
    return (
        f"{path}: not UTF-8 text at byte {position:,}; convert it first, "
        f"for example: iconv -f {encoding} -t utf-8 {path.name} > utf8-{path.name}"
    )


def _ragged_row(path: Path, delimiter: str) -> str:
    """Where the first row of a csv file is that has more or fewer cells than the header."""
    limit = csv.field_size_limit(1 << 30)
    try:
        with _open(path) as file:
            rows = csv.reader((line.decode("utf-8-sig") for line in file), delimiter=delimiter)
            header = next(rows, [])
            for number, row in enumerate(filter(None, rows)):
                if len(row) != len(header):
                    return (
                        f" (row {number}, counted from 0, which ends on line {rows.line_num}, has {len(row)} cells, "
                        f"the header has {len(header)}; put quotes around text that holds {delimiter!r} or line breaks)"
                    )
    except csv.Error:
        return ""
    finally:
        csv.field_size_limit(limit)
    return ""


def _bad_json(path: Path) -> str:
    """Where the first line of a JSON lines file is that is no object."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if line.lstrip()[:1] == b"[":
                return (
                    f" (expected one JSON object a line, not a list; convert it: jq -c '.[]' {path.name} > rows.jsonl)"
                )
            try:
                json.loads(line)
            except (ValueError, RecursionError) as error:
                return f" (line {number}: {error}; expected one JSON object a line)"
    return ""
