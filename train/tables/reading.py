"""Read a file of rows in chunks, as long as sorting by length needs them and no longer: csv, tsv, JSON lines, parquet,
lines of text.

Files may come from strangers. csv and JSON are parsed by Python's own parsers, from rows of a bounded length; parquet,
whose pages may unpack to anything, by pyarrow in a forked process with a memory limit.
"""

import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from cache.common.files import open_regular
from cache.common.forked import Forked
from cache.common.table_files import DELIMITERS, FORMATS, JSON, PARQUET, utf8_remedy
from cache.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = "text"
READABLE = {**FORMATS, ".txt": TEXT}
"""What a file is by its ending; of text each line is a row."""

CHUNK_ROWS = 8192
"""Rows of a chunk at most; they are predicted in the order of their lengths."""
CHUNK_BYTES = 64 << 20
"""Bytes of a chunk after which it ends."""
MAX_ROW_BYTES = 16 << 20
"""Bytes of the longest row that is read from csv, JSON and text."""
PARQUET_BYTES = 1 << 30
"""Memory of the process that reads parquet."""

TEXT_COLUMN = "text"
"""The column of text where none is named; also that of a file of plain lines."""

Row = dict[str, Any]


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
        names = ", ".join(map(repr, self.columns[:20]))
        for flag, name in (("--text", text), ("--text-pair", pair)):
            if name is not None and name not in self.columns:
                raise InputError(f"{self.path} has no column {name!r} for {flag}; it has {names}")
        if text is None and TEXT_COLUMN not in self.columns and len(self.columns) > 1:
            raise InputError(f"nothing tells which column of {self.path} is the text; pass --text with one of {names}")
        first = text or (TEXT_COLUMN if TEXT_COLUMN in self.columns else self.columns[0])
        return (first,) if pair is None else (first, pair)


def format_of(path: Path) -> str | None:
    """What a file is by its ending, .gz behind it aside but for parquet; None where its ending says nothing."""
    name = path.name.lower()
    kind = READABLE.get(Path(name.removesuffix(".gz")).suffix)
    return None if kind == PARQUET and name.endswith(".gz") else kind


def open_table(path: Path) -> Table:
    """Open a file of rows and read its first chunk.

    Raises:
        InputError: it cannot be read as what its ending says, its ending says nothing, or it has no rows.
    """
    kind = format_of(path)
    if kind is None:
        raise InputError(
            f"--file {path}: its ending does not say what it is; expected {', '.join(READABLE)}, or .gz behind one "
            "that is no parquet; without --out a file is read as one text per line"
        )
    try:
        size = path.stat().st_size
        chunks = _parquet_chunks(path, size) if kind == PARQUET else _text_chunks(path, kind)
        first = next(chunks, None)
    except OSError as error:
        raise InputError(f"--file {path} cannot be read ({error.strerror or error})") from None
    if first is None:
        raise InputError(
            f"--file {path} has no rows, expected at least one" + (" below the header" * (kind in DELIMITERS))
        )
    return Table(path, kind, first.columns, size, itertools.chain([first], chunks))


def _text_chunks(path: Path, kind: str) -> Iterator[Chunk]:
    parse: Callable[[Path, Iterable[str]], Iterator[Row]] = {
        JSON: _json_rows,
        TEXT: lambda _, lines: ({TEXT_COLUMN: line.rstrip("\r\n")} for line in lines),
    }.get(kind) or (lambda path, lines: _csv_rows(path, lines, DELIMITERS[kind]))
    with open_regular(path) as stored:
        packed = path.suffix.lower() == ".gz"
        plain = cast(BinaryIO, gzip.GzipFile(fileobj=stored)) if packed else stored
        lines = _Lines(path, plain)
        rows, done = parse(path, lines), 0
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


class _Lines:
    """The lines of a file of UTF-8 text, none of them longer than a row may be.

    Attributes:
        size: bytes that were read so far, unpacked.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.size = path, file, 0

    def __iter__(self) -> Iterator[str]:
        for number in itertools.count(1):
            try:
                line = self.file.readline(MAX_ROW_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"{self.path}: line {number:,} cannot be read ({error}); restore the file") from None
            if not line:
                return
            self.size += len(line)
            if len(line) > MAX_ROW_BYTES:
                raise _too_long(self.path, number)
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{self.path}: line {number:,} is not UTF-8 (byte {line[error.start]:#04x} at position "
                    f"{error.start:,} of it); {utf8_remedy(line if number == 1 else b'', self.path.name)}"
                ) from None


def _too_long(path: Path, line: int) -> InputError:
    return InputError(
        f"{path}: the row at line {line:,} is longer than {MAX_ROW_BYTES:,} bytes; close the quote or end the line "
        "that is missing"
    )


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            remedy = f"; convert a list: jq -c '.[]' {path.name} > rows.jsonl" if line.lstrip()[:1] == "[" else ""
            raise InputError(f"{path}: line {number:,}: {error}; expected one JSON object a line{remedy}") from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}: line {number:,} holds {row!r:.60}, expected one JSON object a line; convert a list: "
                f"jq -c '.[]' {path.name} > rows.jsonl"
            )
        yield row


def _csv_rows(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[Row]:
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
    reader = csv.reader(feed(), delimiter=delimiter)
    names: list[str] = []
    last: list[str] = []
    try:
        for number, cells in enumerate(filter(None, reader), -1):
            last = held.copy()
            held.clear()
            if not names:
                names = _header(path, cells)
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{path}: row {number:,} (counted from 0, ends on line {reader.line_num:,}) has {len(cells)} "
                    f"cells, the header {len(names)}; put quotes around text that holds {delimiter!r} or line breaks"
                )
            yield dict(zip(names, cells, strict=True))
        list(csv.reader(last, delimiter=delimiter, strict=True))  # to find a quote that is never closed
    except csv.Error as error:
        if not held and "end of data" not in str(error):
            return  # stray quotes in the last row, as forgiven in the others
        raise InputError(
            f"{path}: line {reader.line_num:,}: {error}; put texts in quotes, and double those in it"
        ) from None


def _header(path: Path, names: list[str]) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} has {names.count(name)} columns {name!r}; rename all but one")
    return names


def _parquet_chunks(path: Path, size: int) -> Iterator[Chunk]:
    import pyarrow as pa

    forked = Forked(PARQUET_BYTES, "write it with smaller row groups, or as csv")
    total = forked.call(path, _parquet_length, path)
    batches: list[pa.RecordBatch] = []
    done = 0

    def chunk() -> Chunk:
        table = pa.Table.from_batches(batches)
        return Chunk(done, tuple(table.column_names), table, size * (done + len(table)) // max(total, 1))

    for batch in forked.stream(path, _parquet_batches, path):
        batches.append(batch)
        held = sum(part.num_rows for part in batches)
        if held >= CHUNK_ROWS or sum(part.nbytes for part in batches) > CHUNK_BYTES:
            yield chunk()
            done, batches = done + held, []
    if any(part.num_rows for part in batches):
        yield chunk()


def _parquet_length(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(open_regular(path)).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"--file {path} cannot be read as parquet: {error}") from None


def _parquet_batches(path: Path) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(open_regular(path)) as file:
            names = file.schema_arrow.names
            _header(path, names)
            meta = file.metadata
            size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
            fitting = CHUNK_BYTES // 4 * max(meta.num_rows, 1) // max(size, 1)
            for batch in file.iter_batches(batch_size=min(max(fitting, 1), CHUNK_ROWS)):
                batch.validate(full=True)  # the reader does not look whether text is UTF-8
                yield batch
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"--file {path} cannot be read as parquet: {error}") from None
