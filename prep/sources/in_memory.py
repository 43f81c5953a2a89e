"""Data in memory as a source: lists, data frames, Arrow tables, datasets.

A library is looked for among those that are already loaded: nobody holds a data frame of one that is not.
"""

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cache.common.forked import BATCH_ROWS
from cache.errors import InputError
from cache.format.tasks import MLM, TOKENS

from ..columns import LABEL, PAIR, TEXT, Columns, Stream
from ..corpus.source import Source, check_split_name
from .tables import Frame, dataset_frame, frames_source

KINDS = (
    "texts=[…], labels=[…]; a DataFrame of pandas or polars, an Arrow table, a datasets.Dataset, a list of dicts or a "
    "dict of lists; a dict of such with the names of splits; or what `prep build` takes: a preset, a Hub id, a file, a "
    "folder"
)


def given_source(data: Any, labels: Any, text_pairs: Any, name: str | None, asked: Columns, task: str) -> Source:
    """Data in memory as a source.

    Raises:
        InputError: it is of no kind that a cache is built from.
    """
    if name is None:
        raise InputError("name= is missing, expected a name for the cache of data in memory, such as name='reviews'")
    if labels is not None or text_pairs is not None or (_is_plain(data) and not _is_table(data)):
        if hasattr(data, "columns") or hasattr(data, "column_names") or _is_table(data):
            raise InputError("labels= and text_pairs= go with lists; of a table name the columns: text=, label=")
        if asked.names:
            raise InputError("text=, text_pair= and label= name the columns of a table, but lists are given")
        frame, columns = _lists(data, labels, text_pairs, task)
        return frames_source("", name, {"train": frame}, replace(columns, drop_missing=asked.drop_missing))
    tables = data if isinstance(data, Mapping) and not _is_table(data) else {"train": data}
    for split in tables:
        check_split_name(str(split), Path(str(split)))
    frames = {str(split): _frame(table, str(split)) for split, table in tables.items()}
    if not frames:
        raise InputError(f"data is an empty dict, expected {KINDS}")
    return frames_source("", name, frames, asked)


PLAIN = ("ndarray", "Tensor", "Series", "Column", "ChunkedArray")
"""Types that are as good as lists, of numpy, torch, pandas and polars, datasets, Arrow."""


def _is_plain(data: Any) -> bool:
    return isinstance(data, list | tuple) or type(data).__name__ in PLAIN


def _is_table(data: Any) -> bool:
    """Whether it is a list of dicts, one for each row, or a dict of lists, one for each column."""
    if isinstance(data, Mapping):
        return bool(data) and all(_is_plain(column) and not _is_table(column) for column in data.values())
    return isinstance(data, list | tuple) and len(data) > 0 and isinstance(data[0], Mapping)


# --- lists


def _lists(data: Any, labels: Any, text_pairs: Any, task: str) -> tuple[Frame, Columns]:
    labelled, words = task != MLM, task == TOKENS
    if labelled and labels is None:
        raise InputError("labels= is missing: texts in a list need a label each, but for task='mlm'")
    if not labelled and labels is not None:
        raise InputError("labels= is given, but task='mlm' takes no labels; leave one of them out")
    texts = _listed(data, "texts")
    if text_pairs is None and not words and any(isinstance(text, tuple | list) for text in texts[:1]):
        for row, pair in enumerate(texts):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(f"row {row} of the texts (counted from 0) is {_short(pair)}, expected two texts")
        texts, text_pairs = [pair[0] for pair in texts], [pair[1] for pair in texts]
    columns = {TEXT: _words_array(texts) if words else _text_array(texts, "texts")}
    if text_pairs is not None:
        columns[PAIR] = _text_array(_listed(text_pairs, "text_pairs"), "text_pairs")
    if labelled:
        columns[LABEL] = _array(_listed(labels, "labels"), "labels")
    if len({len(column) for column in columns.values()}) > 1:
        counts = ", ".join(f"{len(column):,} in {name}" for name, column in columns.items())
        raise InputError(f"the lists are of different lengths ({counts}), expected one text and one label per row")
    pair = PAIR if PAIR in columns else None
    return _arrow_frame(pa.table(columns)), Columns(TEXT, pair, (LABEL,) if labelled else (), labelled)


def _listed(values: Any, name: str) -> list[Any]:
    if _is(values, "pandas", "Series"):  # what is missing there has several names
        values = values.astype(object).where(values.notna(), None)
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise InputError(f"{name} is {_short(values)}, expected a list; data may be {KINDS}")
    made = getattr(values, "tolist", None) or getattr(values, "to_pylist", None)
    return list(made() if made else values)


def _text_array(texts: list[Any], name: str) -> pa.Array:
    for row, text in enumerate(texts):
        if text is not None and not isinstance(text, str):
            raise InputError(f"row {row} of {name} (counted from 0) is {_short(text)}, expected text")
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError as error:
        row = next(row for row, text in enumerate(texts) if text is not None and error.object == text)
        raise InputError(f"row {row} of {name} (counted from 0) is not valid text: {error.reason}") from None


def _words_array(texts: list[Any]) -> pa.Array:
    """Lists of words, each of them checked."""
    for row, words in enumerate(texts):
        if words is not None and not isinstance(words, tuple | list):
            raise InputError(f"row {row} of texts (counted from 0) is {_short(words)}, expected a list of words")
        _text_array(list(words or ()), f"row {row} of texts")
    return pa.array(texts, pa.large_list(pa.large_string()))


def _array(values: list[Any], name: str) -> pa.Array:
    """Values as a column, whose type follows from them."""
    made = _made(values)
    if not isinstance(made, Exception):
        return made
    row = bisect_left(range(len(values)), True, key=lambda row: isinstance(_made(values[: row + 1]), Exception))
    raise InputError(f"row {row} of {name} (counted from 0): {made}; expected numbers, texts, or lists of one of them")


def _made(values: list[Any]) -> pa.Array | Exception:
    """Values as a column, or why they make none."""
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        return error


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"


# --- tables


def _frame(data: Any, split: str) -> Frame:
    if _is(data, "datasets", "Dataset"):
        if data.format["type"] == "custom":
            raise InputError(
                f"split {split!r} has a transform, which is not applied here; apply it first: map(…, batched=True), "
                "or take it off: with_format(None)"
            )
        return dataset_frame(data)
    if _is(data, "pandas", "DataFrame"):
        # Columns that are not wanted may hold what Arrow has no type for.
        return Frame(
            [column for column in data.columns if isinstance(column, str)],
            lambda names: _stream(_arrow_table(data[names].reset_index(drop=True), split)),
        )
    if _is_table(data):
        return _plain_frame(data if isinstance(data, Mapping) else _columns(data, split), split)
    if not hasattr(data, "__arrow_c_stream__"):
        lazy = hasattr(data, "__iter__") and not hasattr(data, "__len__")
        hint = "; call collect() first" if hasattr(data, "collect") else "; make it a list first: list(…)" * lazy
        raise InputError(f"split {split!r} is {_short(data)}, expected {KINDS}{hint}")
    return _arrow_frame(_arrow_table(data, split))


def _arrow_frame(table: pa.Table) -> Frame:
    return Frame(table.column_names, lambda names: _stream(table.select(names)))


def _columns(rows: Sequence[Any], split: str) -> dict[str, list[Any]]:
    """Rows that are dicts, as columns; what a row lacks is missing."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number} of split {split!r} (counted from 0) is {_short(row)}, expected a dict")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _plain_frame(columns: Mapping[str, Any], split: str) -> Frame:
    """Columns that are lists. Those that are not wanted may hold what Arrow has no type for."""

    def select(names: list[str]) -> Stream:
        wanted = {name: _array(_listed(columns[name], name), f"{name!r}, split {split!r}") for name in names}
        return _stream(_arrow_table(wanted, split))

    return Frame([name for name in columns if isinstance(name, str)], select)


def _is(data: Any, module: str, name: str) -> bool:
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(data, getattr(loaded, name, ()))


def _arrow_table(data: Any, split: str) -> pa.Table:
    try:
        return pa.table(data)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"split {split!r} cannot be made into an Arrow table: {error}") from error


def _stream(table: pa.Table) -> Stream:
    return lambda: iter(table.to_batches(max_chunksize=BATCH_ROWS))
