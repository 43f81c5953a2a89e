"""Columns of record batches: their names, checks of what they hold, conversions between Arrow and numpy.

The conversions avoid slow imports: pyarrow's own ones import pandas (a third of a second), its compute functions take
a tenth.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache.common.table_files import BY_NAME, Cells
from cache.errors import InputError
from cache.format.checksummed_json import Json

TEXT, PAIR, LABEL, LABELS = "text", "text_pair", "label", "labels"

Stream = Callable[[], Iterator[pa.RecordBatch]]
"""A function that starts reading from the front and yields record batches with the columns text, perhaps text_pair,
and label, or labels: a struct with a field for each class where each has a column; no labels where none are wanted."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; what is None or empty is yet to be found.

    Attributes:
        text: the text, or the first one of a pair.
        pair: the second text of a pair, None where texts come alone.
        labels: one column, or one for each class of a multi-label task, holding 0 or 1.
        labelled: whether labels are wanted; where not, there are no columns of them.
        cells: how csv and text files are cut into them.
        drop_missing: whether rows without a text or a label are left out.
    """

    text: str | None = None
    pair: str | None = None
    labels: tuple[str, ...] = ()
    labelled: bool = True
    cells: Cells = BY_NAME
    drop_missing: bool = False

    @property
    def texts(self) -> list[str]:
        """The columns of text."""
        return [name for name in (self.text, self.pair) if name is not None]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.texts, *self.labels]

    @property
    def identity(self) -> Json:
        """What a cache's manifest says of them."""
        pair = {"text_pair": self.pair} if self.pair else {}
        label = {"label": self.labels[0] if len(self.labels) == 1 else list(self.labels)} if self.labelled else {}
        return {"text": self.text, **pair, **label, **self.cells.identity, **self.missing}

    @property
    def missing(self) -> Json:
        """What a cache's manifest says of rows without a text or a label: nothing where they are an error."""
        return {"missing": "drop"} if self.drop_missing else {}

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes, where each has a column."""
        return self.labels if len(self.labels) > 1 else None


@dataclass(frozen=True)
class PartedStream:
    """A stream that can also be read in parts.

    Attributes:
        whole: reads all of it.
        parts: called with the size of a part in bytes, about; gives the streams of the parts, in order.
    """

    whole: Stream
    parts: Callable[[int], list[Stream]]

    def __call__(self) -> Iterator[pa.RecordBatch]:
        """Start reading from the front."""
        return self.whole()


def parts(stream: Stream, part_bytes: int) -> list[Stream]:
    """A stream in parts of about so many bytes; as a single one where it can only be read from end to end."""
    cut: list[Stream] = stream.parts(part_bytes) if hasattr(stream, "parts") else [stream]
    return cut


LEAVE_OUT = "or leave such rows out with --missing drop"
"""What an error about a missing value ends with."""


class BadDataError(InputError):
    """What a split holds is wrong.

    Args:
        said: what is wrong; of a row it goes on from "row 7 of split 'train' (counted from 0) ".
        row: its number in what was read; None where the whole column is wrong.
        split: named in the message.
    """

    def __init__(self, said: str, row: int | None = None, split: str = "") -> None:
        super().__init__(said, row, split)
        self.said, self.row, self.split = said, row, split

    def __str__(self) -> str:
        if self.row is None:
            return f"split {self.split!r}: {self.said}"
        return f"row {self.row} of split {self.split!r} (counted from 0) {self.said}"


@contextlib.contextmanager
def in_split(split: str, first_row: int = 0) -> Iterator[None]:
    """Let errors about data name the split that it is of, and rows by their numbers in there."""
    try:
        yield
    except BadDataError as error:
        row = None if error.row is None else first_row + error.row
        raise BadDataError(error.said, row, split) from error


Mask = npt.NDArray[np.bool_]
"""(rows,) True for the rows that are taken."""


def distinct(column: pa.Array) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """The distinct values of a column without nulls, and (rows,) for each row the number of its value.

    Raises:
        TypeError: the column holds lists or the like.
    """
    numbers: dict[Any, int] = {}
    numbered = (numbers.setdefault(value, len(numbers)) for value in column.to_pylist())
    codes = np.fromiter(numbered, np.int64, len(column))
    return list(numbers), codes


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is one of lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def list_counts(column: pa.Array) -> npt.NDArray[np.int64]:
    """(rows,) how many values each list of a column without nulls has."""
    if hasattr(column.type, "list_size"):
        return np.full(len(column), column.type.list_size, np.int64)
    counts: npt.NDArray[np.int64] = np.diff(column.offsets.to_numpy().astype(np.int64))
    return counts


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch without views and dictionaries, which not all of pyarrow's functions know."""

    def converted(column: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(column.type):
            return converted(column.dictionary).take(column.indices)
        kind = column.type
        if pa.types.is_string_view(kind):
            return column.cast(pa.large_string())
        if is_list(kind) and pa.types.is_string_view(kind.value_type):
            return pa.array(column.to_pylist(), pa.large_list(pa.large_string()))
        return column

    return pa.RecordBatch.from_arrays([converted(column) for column in batch.columns], batch.schema.names)


def kept(rows: pa.Array | pa.RecordBatch, mask: Mask) -> Any:
    """The rows for which `mask` (rows,) is true; without a copy where they lie together."""
    chosen = np.flatnonzero(mask)
    if not len(chosen):
        return rows.slice(0, 0)
    first, last = int(chosen[0]), int(chosen[-1])
    if last - first == len(chosen) - 1:
        return rows.slice(first, len(chosen))
    bits = pa.py_buffer(np.packbits(mask, bitorder="little"))
    return rows.filter(pa.Array.from_buffers(pa.bool_(), len(mask), [None, bits]))


def first_null(column: pa.Array) -> int:
    """The row of the first null in a column that has one."""
    return int(column.is_null().to_numpy(zero_copy_only=False).argmax())


def check_filled(texts: pa.Array) -> None:
    """Raise a `BadDataError` that names the first row without a text."""
    if texts.null_count:
        raise BadDataError(f"has no text; fill it in or remove the row, {LEAVE_OUT}", first_null(texts))


def checked_texts(texts: pa.Array) -> pa.Array:
    """A column of text; a `BadDataError` where it holds something else, or a text is missing."""
    check_filled(texts)
    if len(texts) and not is_text(texts.type):
        raise BadDataError(f"the text column holds {texts.type}, expected text; see --text")
    return texts


def flat_lists(column: pa.Array, what: str) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """(rows,) how many values each list of a column without nulls has, and the values end to end; `what` is one of
    them, for the `BadDataError` where one is null."""
    counts, values = list_counts(column), column.flatten()
    if values.null_count:
        raise BadDataError(f"has a {what} that is null; remove it", row_of(counts, first_null(values)))
    return counts, values


def row_of(counts: npt.NDArray[np.int64], position: int) -> int:
    """The row that a value belongs to, where rows of so many values (rows,) lie end to end."""
    return int(np.searchsorted(np.cumsum(counts), position, side="right"))
