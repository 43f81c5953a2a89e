"""Read a file of rows in chunks, as long as sorting by length needs them and no longer: csv, tsv, JSON lines, parquet,
lines of text.

Files may come from strangers. Text is read as `parsing` says; parquet, whose pages may unpack to anything, by pyarrow
in a forked process with a memory limit.
"""

import contextlib
import gzip
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cache.common.files import open_regular
from cache.common.forked import Forked, parts
from cache.common.table_files import BY_NAME, DELIMITERS, FORMATS, JSON, MAX_NAME, PARQUET, Cells, other_delimiter
from cache.errors import InputError

from .parsing import Lines, Row, check_header, csv_rows, json_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet

TEXT = "text"
READABLE = {**FORMATS, ".txt": TEXT}
"""What a file is by its ending; of text each line is a row."""

CHUNK_ROWS = 8192
"""Rows of a chunk at most; they are predicted in the order of their lengths."""
CHUNK_BYTES = 64 << 20
"""Bytes of a chunk after which it ends."""
PARQUET_BYTES = 1 << 30
"""Memory of the process that reads parquet."""

TEXT_COLUMN = "text"
"""The column of text where none is named; also that of a file of plain lines."""


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file, one after the other.

    Attributes:
        first_row: number of the first one in the file, from 0.
        columns: names of the columns; in JSON lines of those that a row of the chunk has.
        content: the rows, or of parquet a table of them.
        end_bytes: how many bytes of the file were read by then.
    """

    first_row: int
    columns: tuple[str, ...]
    content: "list[Row] | pa.Table"
    end_bytes: int

    def __len__(self) -> int:
        return len(self.content)

    def rows(self) -> list[Row]:
        """The rows as Python's own values."""
        return self.content if isinstance(self.content, list) else cast(list[Row], self.content.to_pylist())

    def values(self, column: str) -> list[Any]:
        """(rows,) a column, None where a row lacks it."""
        if isinstance(self.content, list):
            return [row.get(column) for row in self.content]
        return cast(list[Any], self.content.column(column).to_pylist())


@dataclass(frozen=True)
class Table:
    """A file of rows, whose first chunk has been read.

    Attributes:
        path: of the file.
        kind: one of the values of `READABLE`.
        columns: names of the columns of the first chunk.
        size_bytes: of the file.
        chunks: all chunks, to be read once.
    """

    path: Path
    kind: str
    columns: tuple[str, ...]
    size_bytes: int
    chunks: Iterator[Chunk]

    def text_columns(self, text: str | None, pair: str | None) -> tuple[str, ...]:
        """The columns to predict from: those asked for, else `text`, or the only one there is.

        Raises:
            InputError: there is no such column, or nothing tells which one it is.
        """
        names = ", ".join(map(repr, self.columns[:20])) or "no column"
        for flag, name in (("--text", text), ("--text-pair", pair)):
            if name is not None and name not in self.columns:
                raise InputError(f"{self.path} has no column {name!r} for {flag}; it has {names}")
        if text is None and len(self.columns) == 1:
            text = self.columns[0]
            self._check_name(text)
        elif text is None and TEXT_COLUMN not in self.columns:
            raise InputError(f"nothing tells which column of {self.path} is the text; pass --text with one of {names}")
        return (text or TEXT_COLUMN, *([] if pair is None else [pair]))

    def _check_name(self, name: str) -> None:
        """Refuse an only column whose name looks like several names, or like a text."""
        mark = other_delimiter(name) if self.kind in DELIMITERS else ""
        if mark:
            reason = f"are its cells separated by something else than commas? Then pass --delimiter {mark}"
        elif len(name) > MAX_NAME:
            reason = "is its first line a row? Then put a line such as text above it"
        else:
            return
        raise InputError(
            f"{self.path} has one column, called {name!r:.100}; {reason}; if that is its name, pass it as --text"
        )


def format_of(path: Path) -> str | None:
    """What a file is by its ending, .gz behind it aside but for parquet; None where its ending says nothing."""
    name = path.name.lower()
    kind = READABLE.get(Path(name.removesuffix(".gz")).suffix)
    return None if kind == PARQUET and name.endswith(".gz") else kind


def open_table(path: Path, cells: Cells = BY_NAME) -> Table:
    """Open a file of rows and read its first chunk; `cells` says how csv is cut into them.

    Raises:
        InputError: it cannot be read as what its ending says, its ending says nothing, or it has no rows.
    """
    kind = format_of(path)
    if kind is None:
        raise InputError(
            f"--file {path}: its ending does not say what it is; expected {', '.join(READABLE)}, or .gz behind one "
            "that is not parquet; without --out a file is read as one text per line"
        )
    if cells != BY_NAME and kind not in DELIMITERS:
        raise InputError(f"{cells.flag} is for {' and '.join(DELIMITERS)}, but --file {path} is {kind}; leave it out")
    try:
        size = path.stat().st_size
        chunks = _parquet_chunks(path, size) if kind == PARQUET else _text_chunks(path, kind, cells)
        first = next(chunks, None)
    except OSError as error:
        raise InputError(f"--file {path} cannot be read ({error.strerror or error})") from None
    if first is None:
        raise InputError(
            f"--file {path} has no rows, expected at least one" + (" below the header" * (kind in DELIMITERS))
        )
    return Table(path, kind, first.columns, size, itertools.chain([first], chunks))


def _text_chunks(path: Path, kind: str, cells: Cells) -> Iterator[Chunk]:
    with open_regular(path) as stored:
        packed = path.suffix.lower() == ".gz"
        lines = Lines(path, cast(BinaryIO, gzip.GzipFile(fileobj=stored)) if packed else stored)
        if kind == JSON:
            rows = json_rows(path, lines)
        elif kind == TEXT:
            rows = ({TEXT_COLUMN: line.rstrip("\r\n")} for line in lines)
        else:
            rows = csv_rows(path, lines, cells.delimiter or DELIMITERS[kind], cells.quotes)
        done = 0
        while True:
            held: list[Row] = []
            began = lines.size
            for row in itertools.islice(rows, CHUNK_ROWS):
                held.append(row)
                if lines.size - began > CHUNK_BYTES:
                    break
            if not held:
                return
            columns = held[0] if kind != JSON else dict.fromkeys(itertools.chain.from_iterable(held))
            yield Chunk(done, tuple(columns), held, stored.tell())
            done += len(held)


def _parquet_chunks(path: Path, size: int) -> Iterator[Chunk]:
    import pyarrow as pa

    forked = Forked(PARQUET_BYTES, "write it with smaller row groups, or as csv")
    total = forked.call(path, _parquet_length, path)
    done = 0
    for joined in forked.stream(path, _parquet_batches, path):
        for batch in parts(joined, CHUNK_ROWS, CHUNK_BYTES):
            if batch.num_rows:
                end = done + batch.num_rows
                table = pa.Table.from_batches([batch])
                yield Chunk(done, tuple(table.column_names), table, size * end // max(total, 1))
                done = end


@contextlib.contextmanager
def _opened_parquet(path: Path) -> Iterator["pyarrow.parquet.ParquetFile"]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with open_regular(path) as data, pyarrow.parquet.ParquetFile(data) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"--file {path} cannot be read as parquet: {error}") from None


def _parquet_length(path: Path) -> int:
    with _opened_parquet(path) as file:
        return int(file.metadata.num_rows)


def _parquet_batches(path: Path) -> Iterator["pa.RecordBatch"]:
    with _opened_parquet(path) as file:
        check_header(path, file.schema_arrow.names)
        meta = file.metadata
        size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        fitting = CHUNK_BYTES // 4 * max(meta.num_rows, 1) // max(size, 1)
        for batch in file.iter_batches(batch_size=min(max(fitting, 1), CHUNK_ROWS)):
            batch.validate(full=True)  # the reader does not look whether text is UTF-8
            yield batch


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
