"""Write the rows of a file again, each with its prediction: csv, tsv, JSON lines, parquet.

A file is written under a temporary name and renamed once it is complete.
"""

import codecs
import contextlib
import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.common.table_files import DELIMITERS, FORMATS, JSON, PARQUET
from cache.errors import InputError

from .reading import Chunk

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet

NUMBER, NAME, NUMBERS, NAMES = "number", "name", "numbers", "names"
"""Types of the columns that are added: float32, text, and lists of them."""

LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
"""Characters that end a line for some readers, though not in JSON."""


Write = Callable[[Chunk, Mapping[str, Sequence[Any]]], None]
"""Writes a chunk's rows; the mapping holds a value for each row by the added column's name, None for none. It raises an
`InputError` that names another format where this one cannot hold the rows."""


def check_out(out: Path, source: Path, force: bool) -> None:
    """Raise an InputError for a file to write to whose ending says no format, that is there, or that is the one to
    read."""
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
def open_writer(out: Path, columns: Mapping[str, str]) -> Iterator[Write]:
    """Write a file, which is there at the end, complete, or not at all.

    Args:
        out: checked by `check_out`.
        columns: names of the columns that are added, and their types.

    Raises:
        StorageError: the file system refuses.
    """
    kind = FORMATS[out.suffix.lower()]
    with storage_errors(out), Folder.open(out.parent) as folder, folder.replace(out.name) as file:
        if kind == PARQUET:
            with contextlib.closing(_ParquetWriter(file, columns)) as writer:
                yield writer.write
        elif kind == JSON:
            yield partial(_write_json, file)
        else:
            yield _CsvWriter(file, DELIMITERS[kind]).write


def _write_json(file: BinaryIO, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
    for number, row in enumerate(_rows(chunk)):
        values = {name: values[number] for name, values in added.items()}
        # Without the characters at which readers of lines may split it; a lone surrogate stays an escape.
        line = _json_of({**row, **values}).translate(LINE_ENDS)
        file.write(line.encode("utf-8", "backslashreplace") + b"\n")


def _json_of(row: dict[str, Any]) -> str:
    """A row as JSON, which has no number for what is not finite."""
    try:
        return json.dumps(row, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        from ..run_folder.records import finite  # imports torch, as the model of these predictions did

        return json.dumps(finite(row), ensure_ascii=False, default=str)


class _CsvWriter:
    def __init__(self, file: BinaryIO, delimiter: str) -> None:
        text = codecs.getwriter("utf-8")(file, "backslashreplace")
        self.rows = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        self.columns: tuple[str, ...] = ()

    def write(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        if not self.columns:
            self.columns = chunk.columns
            self.rows.writerow([*self.columns, *added])
        _check_columns(chunk, self.columns)
        for number, row in enumerate(_rows(chunk)):
            values = [*(row.get(name) for name in self.columns), *(values[number] for values in added.values())]
            self.rows.writerow(map(_cell, values))


def _cell(value: Any) -> str:
    """A value as csv holds it: text as it is, nothing for None, JSON of what JSON has, all else, such as dates, as
    text."""
    if value is None or isinstance(value, str):
        return value or ""
    plain = isinstance(value, bool | int | float | list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if plain else str(value)


class _ParquetWriter:
    def __init__(self, file: BinaryIO, columns: Mapping[str, str]) -> None:
        import pyarrow as pa

        kinds = {NUMBER: pa.float32(), NAME: pa.string(), NUMBERS: pa.list_(pa.float32()), NAMES: pa.list_(pa.string())}
        self.file, self.types = file, {name: kinds[kind] for name, kind in columns.items()}
        self.writer: pyarrow.parquet.ParquetWriter | None = None

    def write(self, chunk: Chunk, added: Mapping[str, Sequence[Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        table = chunk.content if isinstance(chunk.content, pa.Table) else self._table(chunk)
        for name, values in added.items():
            table = table.append_column(name, pa.array(values, self.types[name]))
        if self.writer is None:
            self.writer = pyarrow.parquet.ParquetWriter(self.file, table.schema)
        self.writer.write_table(table)

    def _table(self, chunk: Chunk) -> "pa.Table":
        """A chunk of rows, in the columns and types of the first one."""
        import pyarrow as pa

        known = {} if self.writer is None else {field.name: field.type for field in self.writer.schema}
        names = [name for name in known if name not in self.types] or chunk.columns
        _check_columns(chunk, names)
        arrays = []
        for name in names:
            try:
                array = pa.array(chunk.values(name), known.get(name))
            except (pa.ArrowException, OverflowError, UnicodeError) as error:
                raise InputError(
                    f"--out: the column {name!r} holds values that no parquet column holds together ({error}), in rows "
                    f"{chunk.first_row:,} to {chunk.first_row + len(chunk) - 1:,}; write --out FILE.jsonl"
                ) from None
            arrays.append(array.cast(pa.string()) if pa.types.is_null(array.type) else array)
        return pa.Table.from_arrays(arrays, list(names))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _rows(chunk: Chunk) -> list[dict[str, Any]]:
    try:
        return chunk.rows()
    except ValueError as error:  # times in nanoseconds
        raise InputError(f"--out: the rows cannot be written as text ({error}); write --out FILE.parquet") from None


def _check_columns(chunk: Chunk, columns: Collection[str]) -> None:
    """Refuse fields of JSON that no row of the first chunk had."""
    if new := [name for name in chunk.columns if name not in columns]:
        raise InputError(
            f"--out: rows {chunk.first_row:,} to {chunk.first_row + len(chunk) - 1:,} have a field {new[0]!r}, which "
            "those before do not have; write --out FILE.jsonl"
        )
