"""Files of JSON: an object per line, objects one after the other, or one list of objects. Rows are pyarrow's to parse.

A list is passed to it as lines, an object each, so that it goes by in pieces as well.
"""

import contextlib
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json

from cache.errors import InputError

from ..columns import is_list
from .diagnose import row_too_long
from .formats import PIECE_BYTES, Span, TableFile, file_of, open_unpacked
from .remote_path import SourcePath

HEAD_BYTES = 256 << 10
"""The columns and their types are found in so many bytes at the beginning of a file, or in its first object."""
PART_CHARACTERS = 1 << 20
"""A list is read in parts of this many characters; where an object is longer, in larger ones."""
STRINGS, NUMBERS, BOOLEANS = "string", "number", "boolean"
"""What a column may hold, as pyarrow's messages say it."""
BLANKS = " \t\r\n"
SOLID = re.compile(f"[^{BLANKS}]")
DECODER = json.JSONDecoder(parse_int=len, parse_float=len)
"""Finds where values end; which numbers there are does not matter."""


@contextlib.contextmanager
def json_batches(
    table: TableFile,
    block_bytes: int,
    row_bytes: int,
    columns: list[str] | None = None,
    texts: int = 0,
    empty: str = STRINGS,
) -> Iterator[Any]:
    """The batches of a file.

    Args:
        table: the file.
        block_bytes: it is parsed in blocks of this size.
        row_bytes: the longest row.
        columns: those wanted, the first `texts` of which are text: other fields are passed over, whatever they hold,
            and text is text even where it looks like a date. None = all.
        texts: how many of the columns hold text.
        empty: what a column without a first value holds; where it is numbers, whole ones are taken for such with a
            fraction.
    """
    form = form_of(table.path)
    parse = pyarrow.json.ParseOptions(newlines_in_values=form == OBJECTS)
    if columns is not None:
        head = json_head(table.path, row_bytes, form)
        types = [_type(head.get(name, []), name in columns[:texts], empty) for name in columns]
        parse.explicit_schema = pa.schema(list(zip(columns, types, strict=True)))
        parse.unexpected_field_behavior = "ignore"
    read = pyarrow.json.ReadOptions(block_size=block_bytes)
    with (
        _lines(table.path, row_bytes, form, table.span) as data,
        pyarrow.json.open_json(data, read_options=read, parse_options=parse) as batches,
    ):
        yield batches


def json_head(path: SourcePath, row_bytes: int, form: str | None = None) -> dict[str, list[Any]]:
    """The fields of the first objects of a file and their values, as far as they parse; `form` is its `form_of`."""
    fields, head = dict[str, list[Any]](), b""
    with _lines(path, row_bytes, form or form_of(path)) as file:
        while not fields and len(head) < row_bytes and (more := file.read(max(HEAD_BYTES, len(head)))):
            head += more  # it may be all of one object
            fields = _fields(head.decode("utf-8-sig", "replace").strip())
    return fields


def _fields(text: str) -> dict[str, list[Any]]:
    """The fields of the objects at the beginning of a text and their values."""
    decoder, fields, position = json.JSONDecoder(), dict[str, list[Any]](), 0
    with contextlib.suppress(ValueError, AttributeError, RecursionError):  # the head's end, or what pyarrow will refuse
        while position < len(text):
            row, position = decoder.raw_decode(text, position)
            for name, value in row.items():
                fields.setdefault(name, []).append(value)
            position = _solid(text, position)
    return fields


def _type(values: list[Any], text: bool, empty: str) -> pa.DataType:
    """The type of a field by its first values; that of the very first one where they are mixed. `text` or words are
    text, whatever they look like; `empty` is as for `json_batches`."""
    empty_types = {STRINGS: pa.string(), NUMBERS: pa.float64(), BOOLEANS: pa.bool_()}
    values = [value for value in values if value is not None]
    if text:
        return pa.list_(pa.string()) if values and isinstance(values[0], list) else pa.string()
    for sample in (values, values[:1]):
        with contextlib.suppress(pa.ArrowException, OverflowError):
            found = pa.infer_type(sample)
            inner = found.value_type if is_list(found) else found
            if pa.types.is_null(inner) or (empty == NUMBERS and pa.types.is_integer(inner)):
                inner = empty_types[empty]
            return pa.list_(inner) if is_list(found) else inner
    return pa.string()


# --- forms

LIST, JSON_LINES, OBJECTS = "list", "lines", "objects"
"""What a file may be: one list of objects, an object per line, or objects one after the other in any other way."""


def form_of(path: SourcePath) -> str:
    """What a file is, by its beginning."""
    with open_unpacked(path) as file:
        begin: bytes = file.read(HEAD_BYTES)
    line, end, _ = begin.decode("utf-8-sig", "replace").lstrip().partition("\n")
    if line.startswith("["):
        return LIST
    try:
        _, stop = DECODER.raw_decode(line)
    except (ValueError, RecursionError):
        return OBJECTS if end else JSON_LINES  # an object that is longer than what was read
    return OBJECTS if line[stop:].strip() else JSON_LINES


def _lines(path: SourcePath, row_bytes: int, form: str, span: Span | None = None) -> Any:
    """A stream of the bytes of a file; where it holds a list, of its objects as lines."""
    if form == JSON_LINES:
        return open_unpacked(path, span)
    return file_of(_list_lines(path, row_bytes) if form == LIST else _without_mark(path))


def _without_mark(path: SourcePath) -> Iterator[bytes]:
    """The bytes of a file but for a mark of their order: pyarrow takes none where an object may take several lines."""
    with open_unpacked(path) as file:
        yield file.read(len(BOM_UTF8)).removeprefix(BOM_UTF8)
        while piece := file.read(PIECE_BYTES):
            yield piece


def _list_lines(path: SourcePath, row_bytes: int) -> Iterator[bytes]:
    """The objects of a list as lines, many at a time."""
    with io.TextIOWrapper(open_unpacked(path), encoding="utf-8-sig") as file:
        text, row, before = file.read(PART_CHARACTERS).lstrip(BLANKS)[1:], 0, None
        while True:
            objects, end, problem = _objects(text, row == 0)
            yield "".join(objects).encode()
            text, row = text[end:], row + len(objects)
            if problem is None:
                break
            more = file.read(max(PART_CHARACTERS, len(text)))
            if not more or (problem == before and not objects):
                raise InputError(
                    f"cannot read {path}: row {row} of its list (counted from 0): {problem[0]}; expected an object"
                )
            if len(text) > row_bytes:
                raise row_too_long(path, row_bytes)
            text, before = text + more, problem
        while text or (text := file.read(PART_CHARACTERS)):
            if text := text.strip(BLANKS):
                raise InputError(f"cannot read {path}: {text[:40]!r} comes after its list; expected one list, or lines")


def _solid(text: str, position: int) -> int:
    """The position of the next character that is not white space."""
    found = SOLID.search(text, position)
    return found.start() if found else len(text)


def _objects(text: str, first: bool) -> tuple[list[str], int, tuple[str, int] | None]:
    """The whole objects of a list at the beginning of a text.

    Args:
        text: what follows the bracket that opens the list, or an object of it.
        first: whether it is the bracket.

    Returns:
        A line for each of them, where they end, and what is wrong with what comes then and where, which may be that
        it is not all there; None where the list ends.
    """
    lines, position = list[str](), 0
    while True:
        start = _solid(text, position)
        if text.startswith("]", start):
            return lines, start + 1, None
        if lines or not first:
            if not text.startswith(",", start):
                return lines, position, ("a comma or the end of the list is missing", start - position)
            start = _solid(text, start + 1)
        try:
            value, end = DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string")  # such an error stays where it is while more is read
            return lines, position, (error.msg, (len(text) if cut else error.pos) - position)
        except (ValueError, RecursionError) as error:
            return lines, position, (str(error), 0)
        if not isinstance(value, dict):
            return lines, position, (f"{text[start:end][:40]} is not an object", 0)
        lines.append(text[start:end].replace("\r", " ").replace("\n", " ") + "\n")
        position = end
