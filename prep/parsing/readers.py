"""Reading of source files, in the forked process: tables of every format, files of text. Parsing is pyarrow's."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from cache.common.forked import BATCH_BYTES, BATCH_ROWS
from cache.common.table_files import TEXT_QUOTES, Cells, holds_rows, holds_rows_error, quotes_in_doubt
from cache.errors import InputError

from ..columns import LABEL, LABELS, PAIR, TEXT, Columns, distinct, is_list, kept, plain
from .conll import CONLL, CONLLU, conll_names, read_conll
from .csv_quotes import checked_quotes
from .cutting import FilePart
from .diagnose import not_utf8, reading, row_too_long
from .formats import LINES, Span, TableFile, file_of, open_unpacked, table_file
from .json_files import BOOLEANS, HEAD_BYTES, NUMBERS, STRINGS, json_batches, json_head
from .remote_path import SourcePath, check_unchanged, open_bytes
from .text_lines import read_lines

BLOCK_BYTES = 2 << 20
"""Files are parsed in blocks of this many bytes, so that the first rows come soon; where a row is longer, in those of
`LARGE_BLOCK_BYTES`, and at last of the longest row allowed."""
LARGE_BLOCK_BYTES = 16 << 20


def columns_of(path: SourcePath, cells: Cells, row_bytes: int) -> tuple[list[str], set[str]]:
    """The columns of a table file, and those of them that hold lists, by its schema or their first values."""
    with reading(path, cells):
        table = table_file(path, cells)
        if table.kind == "parquet":
            schema = _parquet_schema(path)
            return list(schema.names), {field.name for field in schema if is_list(field.type)}
        if table.kind == LINES:
            return [TEXT], set()
        if table.kind in (CONLL, CONLLU):
            names = conll_names(path, table.kind, row_bytes)
            return names, set(names)
        head = json_head(path, row_bytes) if table.kind == "json" else {}
        firsts = {name: next((value for value in values if value is not None), None) for name, values in head.items()}
        lists = {name for name, first in firsts.items() if isinstance(first, list)}
        return list(head) or _names(table, row_bytes), lists


def _names(table: TableFile, row_bytes: int) -> list[str]:
    """The columns of a csv or json file, as its first block has them."""
    for block_bytes in _block_sizes(HEAD_BYTES, row_bytes):
        with _growing(table.path, block_bytes, row_bytes), _open(table, block_bytes, row_bytes) as reader:
            return list(reader.schema.names)
    raise AssertionError("the largest block either fits or raises")


def named(batch: pa.RecordBatch, columns: Columns) -> pa.RecordBatch:
    """A batch with the columns that a stream has."""
    texts, labels = ([batch.column(name) for name in names] for names in (columns.texts, columns.labels))
    names = [TEXT, PAIR][: len(texts)]
    if len(labels) < 2:
        return pa.RecordBatch.from_arrays([*texts, *labels], [*names, *([LABEL] if labels else [])])
    classes = pa.StructArray.from_arrays(labels, list(columns.labels))
    return pa.RecordBatch.from_arrays([*texts, classes], [*names, LABELS])


# --- tables


def read_tables(
    files: list[FilePart], columns: Columns, where: tuple[str, str] | None, row_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Some columns of table files; `where` = (column, value) keeps the rows that have it."""
    for path, span in files:
        yield from _read_table(path, span, columns, where, row_bytes)
        check_unchanged(path)


def _read_table(
    path: SourcePath, span: Span | None, columns: Columns, where: tuple[str, str] | None, row_bytes: int
) -> Iterator[pa.RecordBatch]:
    wanted = list(dict.fromkeys([*columns.names, *([where[0]] if where else [])]))
    with reading(path, columns.cells):
        table = replace(table_file(path, columns.cells), span=span)
        for batch in _read(table, wanted, len(columns.texts), row_bytes):
            if where:
                values, codes = distinct(batch.column(where[0]))
                batch = kept(batch, np.array([value == where[1] for value in values], bool)[codes])
            chosen = named(plain(batch), columns)
            chosen.validate(full=True)  # not all readers look whether text is UTF-8
            yield chosen


def _read(table: TableFile, columns: list[str], texts: int, row_bytes: int) -> Iterator[pa.RecordBatch]:
    """The columns of a file, the first `texts` of which are text, and perhaps its last one."""
    if table.kind == LINES:
        return read_lines(table, row_bytes)
    if table.kind in (CONLL, CONLLU):
        return read_conll(table.path, table.kind, columns, row_bytes)
    if table.kind == "parquet":
        return _read_parquet(table, columns)
    return _read_blocks(table, columns, texts, row_bytes)


def _read_blocks(table: TableFile, columns: list[str], texts: int, row_bytes: int) -> Iterator[pa.RecordBatch]:
    """The same of a csv or JSON file. Where a block is too small for a row, or a value of another type than the first
    ones, the file is parsed anew, and the rows that were read are passed over."""
    path = table.path
    done, end, last = 0, "", ""
    doubtful = table.kind == "csv" and quotes_in_doubt(table.delimiter, table.quotes)
    if table.kind == "csv" and table.quotes is not False and table.span is None:
        names = _names(table, row_bytes)
        last = names[-1]
        columns = list(dict.fromkeys([*columns, *(names if doubtful else [last])]))
    for empty, block_bytes in product((STRINGS, NUMBERS, BOOLEANS), _block_sizes(BLOCK_BYTES, row_bytes)):
        skip = done
        with (
            _growing(path, block_bytes, row_bytes),
            _allowing(empty),
            _open(table, block_bytes, row_bytes, columns, texts, empty) as blocks,
        ):
            for batch in blocks:
                fresh = batch.slice(min(skip, batch.num_rows))
                skip -= batch.num_rows - fresh.num_rows
                if doubtful:
                    _check_cells(path, fresh, done)
                done += fresh.num_rows
                yield fresh
                if last and batch.num_rows:
                    end = str(batch.column(last)[-1].as_py())
            if last:
                _check_closed(path, end)
            return


def _check_closed(path: SourcePath, cell: str) -> None:
    """Raise an `InputError` where the last `cell` of a csv file holds all lines behind a quote that nothing closes."""
    if "\n" not in cell and "\r" not in cell:
        return
    end = b""
    with open_unpacked(path) as file:
        while block := file.read(BLOCK_BYTES):
            end = block.rstrip() or end
    if end[-1:] != b'"':
        raise InputError(
            f"cannot read {path}: nothing closes the quote before {cell[:40]!r}, so all lines behind it are one cell; "
            f"close it; {TEXT_QUOTES}"
        )


def _check_cells(path: SourcePath, rows: pa.RecordBatch, first_row: int) -> None:
    """Raise an `InputError` where a cell is likely several rows."""
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        text = column.buffers()[2]
        if text is None or ord("\n") not in np.frombuffer(text, np.uint8):
            continue
        for row, cell in enumerate(column.to_pylist(), first_row):
            if cell and holds_rows(cell):
                raise holds_rows_error(path, row, name, cell)


def _block_sizes(first: int, row_bytes: int) -> list[int]:
    return sorted({min(size, row_bytes) for size in (first, LARGE_BLOCK_BYTES, row_bytes)})


@contextlib.contextmanager
def _growing(path: SourcePath, block_bytes: int, row_bytes: int) -> Iterator[None]:
    """Let a row that is longer than a block pass as long as there is a larger size to try."""
    try:
        yield
    except pa.ArrowInvalid as error:
        if "straddling" not in str(error):
            raise
        if block_bytes == row_bytes:
            raise row_too_long(path, row_bytes) from error


@contextlib.contextmanager
def _allowing(empty: str) -> Iterator[None]:
    """Let a value pass that is not of the type of a JSON file's first ones, where a later choice of `empty` may take
    it."""
    try:
        yield
    except pa.ArrowInvalid as error:
        if empty == BOOLEANS or not re.search(_LATER[empty], str(error)):
            raise


_LATER = {
    STRINGS: r"couldn't parse:\S*[.eE]|changed from string to (number|boolean)",
    NUMBERS: "changed from number to boolean",
}
"""What pyarrow says of such a value."""


def _parquet_schema(path: SourcePath) -> Any:
    import pyarrow.parquet

    with open_bytes(path) as data:
        return pyarrow.parquet.read_schema(data)


def _read_parquet(table: TableFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet

    with open_bytes(table.path) as data, pyarrow.parquet.ParquetFile(data) as file:
        meta = file.metadata
        groups = None if table.span is None else list(range(table.span.begin, table.span.end))
        size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        fitting = BATCH_BYTES * max(meta.num_rows, 1) // max(size, 1)
        yield from file.iter_batches(min(max(fitting, 1), BATCH_ROWS), groups, columns)


def _open(table: TableFile, block_bytes: int, row_bytes: int, columns: list[str] | None = None, *more: Any) -> Any:
    """A context manager around the batches of a csv or JSON file; `more` is what only `json_batches` takes."""
    if table.kind == "json":
        return json_batches(table, block_bytes, row_bytes, columns, *more)
    return _open_csv(table, block_bytes, row_bytes, columns)


@contextlib.contextmanager
def _open_csv(table: TableFile, block_bytes: int, row_bytes: int, columns: list[str] | None) -> Iterator[Any]:
    """Every column is read as text: types guessed from the first block would fail on a later one. Labels find their
    type in prep.labels.class_labels. An empty cell is missing; a quoted empty cell is an empty text."""
    header = None
    if table.span and table.span.begin:
        header = _names(replace(table, span=None), row_bytes)
    read = pyarrow.csv.ReadOptions(block_size=block_bytes, column_names=header)
    quoted = table.quotes is not False
    parse = pyarrow.csv.ParseOptions(
        newlines_in_values=quoted, delimiter=table.delimiter, quote_char='"' if quoted else False
    )
    convert = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in columns or ()},
        include_columns=columns,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with open_unpacked(table.path, table.span) as file:
        check = columns is not None and table.quotes is None and table.span is None
        data = file_of(checked_quotes(table, file)) if check else file
        with pyarrow.csv.open_csv(data, read, parse, convert) as batches:
            yield batches


# --- files of text


def read_texts(files: list[tuple[SourcePath, str]], labelled: bool, row_bytes: int) -> Iterator[pa.RecordBatch]:
    """A row per file: its text, and the label given with it where labels are wanted."""
    texts: list[str] = []
    labels: list[str] = []
    size = 0
    for number, (path, label) in enumerate(files, 1):
        texts.append(_text_of(path, row_bytes))
        labels.append(label)
        size += len(texts[-1])
        if size > BATCH_BYTES or len(texts) == BATCH_ROWS or number == len(files):
            yield pa.RecordBatch.from_pydict({TEXT: texts, **({LABEL: labels} if labelled else {})})
            texts, labels, size = [], [], 0


def _text_of(path: SourcePath, row_bytes: int) -> str:
    with reading(path), open_bytes(path) as file:
        data = file.read(row_bytes + 1)
    if len(data) > row_bytes:
        raise InputError(f"cannot read {path}: larger than {row_bytes:,} bytes; split it, or pass a larger --memory")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(not_utf8(path, error.start)) from None
