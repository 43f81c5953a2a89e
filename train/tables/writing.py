"""Write the rows of a file again, each with its prediction: csv, tsv, JSON lines, parquet.

A file is written under a temporary name and renamed once it is complete.
"""

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.common.table_files import DELIMITERS, FORMATS, JSON, PARQUET
from cache.errors import InputError

from .reading import Chunk

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER, NAME, NUMBERS, NAMES = "number", "name", "numbers", "names"
"""Types of the columns that are added: float32, text, and lists of them."""

LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Characters that end a line for some readers, though not in JSON."""


def json_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON, without the characters at which readers of lines may split it."""
    return json.dumps(row, ensure_ascii=False, default=str).translate(LINE_ENDS)


class Writer(Protocol):
    """Writes rows and their predictions, chunk by chunk."""

    def write(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        """Write a chunk's rows; `added` holds a value for each row by the column's name, None for none.

        Raises:
            InputError: the format cannot hold the rows; the message names another one.
        """
        ...

    def close(self) -> None:
        """Write what ends the file."""
        ...


def check_out(out: Path, source: Path, force: bool) -> None:
    """Refuse a file to write to whose ending says no format, that is there, or that is the one to read.

    Raises:
        InputError: it is one of these.
    """
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"--out {out}: its ending does not say what to write; expected {', '.join(FORMATS)}")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder, expected a file in it")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; make it: mkdir -p {out.parent}")
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(f"--out {out} is the file that is read; pass another name")
    if out.exists() and not force:
        raise InputError(f"--out {out} is there already; pass another name, or --force to replace it")


@contextlib.contextmanager
def open_writer(out: Path, columns: Mapping[str, str]) -> Iterator[Writer]:
    """A writer of a file, which is there at the end, complete, or not at all.

    Args:
        out: checked by `check_out`.
        columns: names of the columns that are added, and their types.

    Raises:
        StorageError: the file system refuses.
    """
    kind = FORMATS[out.suffix.lower()]
    with storage_errors(out), Folder.open(out.parent) as folder, folder.replace(out.name) as file:
        writer: Writer
        if kind == PARQUET:
            writer = _ParquetWriter(file, columns)
        else:
            writer = _JsonWriter(file) if kind == JSON else _CsvWriter(file, DELIMITERS[kind])
        try:
            yield writer
        finally:
            writer.close()


class _JsonWriter:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def write(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        for number, row in enumerate(_rows(chunk)):
            line = json_line({**row, **{name: values[number] for name, values in added.items()}})
            self.file.write(line.encode("utf-8", "backslashreplace") + b"\n")  # a lone surrogate stays an escape

    def close(self) -> None:
        pass


class _CsvWriter:
    def __init__(self, file: BinaryIO, delimiter: str) -> None:
        self.text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="", write_through=True)
        self.rows = csv.writer(self.text, delimiter=delimiter, lineterminator="\n")
        self.columns: tuple[str, ...] = ()

    def write(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        if not self.columns:
            self.columns = chunk.columns
            self.rows.writerow([*self.columns, *added])
        _check_columns(chunk, self.columns)
        for number, row in enumerate(_rows(chunk)):
            values = [*(row.get(name) for name in self.columns), *(values[number] for values in added.values())]
            self.rows.writerow(map(_cell, values))

    def close(self) -> None:
        self.text.detach()


def _cell(value: Any) -> str:
    """A value as csv holds it: text as it is, nothing for None, JSON for all else."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


class _ParquetWriter:
    def __init__(self, file: BinaryIO, columns: Mapping[str, str]) -> None:
        import pyarrow as pa

        kinds = {NUMBER: pa.float32(), NAME: pa.string(), NUMBERS: pa.list_(pa.float32()), NAMES: pa.list_(pa.string())}
        self.file, self.types = file, {name: kinds[kind] for name, kind in columns.items()}
        self.columns: tuple[str, ...] = ()
        self.schema: Any = None
        self.writer: Any = None

    def write(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        if self.writer is None:
            self.columns = chunk.columns
        _check_columns(chunk, self.columns)
        table = chunk.content if isinstance(chunk.content, pa.Table) else self._table(chunk)
        for name, values in added.items():
            table = table.append_column(name, pa.array(values, self.types[name]))
        if self.writer is None:
            self.schema = table.schema
            self.writer = pyarrow.parquet.ParquetWriter(self.file, self.schema)
        self.writer.write_table(table)

    def _table(self, chunk: Chunk) -> "pa.Table":
        """A chunk of rows, in the types of the first one."""
        import pyarrow as pa

        arrays = []
        for name in self.columns:
            kind = None if self.schema is None else self.schema.field(name).type
            try:
                array = pa.array(chunk.values(name), kind)
            except (pa.ArrowException, OverflowError, UnicodeError) as error:
                raise InputError(
                    f"--out: the column {name!r} holds values that no parquet column holds together ({error}), in rows "
                    f"{chunk.first_row:,} to {chunk.first_row + len(chunk) - 1:,}; write --out FILE.jsonl"
                ) from None
            arrays.append(array.cast(pa.string()) if pa.types.is_null(array.type) else array)
        return pa.Table.from_arrays(arrays, list(self.columns))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _rows(chunk: Chunk) -> list[dict[str, Any]]:
    try:
        return chunk.rows()
    except ValueError as error:  # times in nanoseconds
        raise InputError(f"--out: the rows cannot be written as text ({error}); write --out FILE.parquet") from None


def _check_columns(chunk: Chunk, columns: tuple[str, ...]) -> None:
    """Refuse fields of JSON that no row of the first chunk had."""
    if new := [name for name in chunk.columns if name not in columns]:
        raise InputError(
            f"--out: rows {chunk.first_row:,} to {chunk.first_row + len(chunk) - 1:,} have a field {new[0]!r}, which "
            "those before do not have; write --out FILE.jsonl"
        )
