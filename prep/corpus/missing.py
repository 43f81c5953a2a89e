"""Leaving out rows whose text or label is missing, as `--missing drop` does, and knowing which they were."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ..columns import LABELS, PAIR, TEXT, BadDataError, Mask, Stream, kept, parts


class FilledRows:
    """A stream of the rows of another that have a text and a label: neither null, NaN, white space alone nor a list of
    no words."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._filled: list[Mask] = []

    def __call__(self) -> Iterator[pa.RecordBatch]:
        """Read it from the front."""
        self._filled = []
        for batch in self.stream():
            self._filled.append(_filled_rows(batch))
            yield kept(batch, self._filled[-1])

    def parts(self, part_bytes: int) -> "list[Stream]":
        """It in parts; see `prep.columns.parts`."""
        return [FilledRows(part) for part in parts(self.stream, part_bytes)]

    @property
    def filled(self) -> Mask:
        """(rows,) of the other stream, after reading to the end: True for those that are not left out."""
        return np.concatenate([np.zeros(0, bool), *self._filled])


@contextlib.contextmanager
def noting_left_out(drop_missing: bool) -> Iterator[None]:
    """Where rows are left out, end an error that names a row of a split by saying that those are not counted."""
    try:
        yield
    except BadDataError as error:
        if not drop_missing or error.row is None:
            raise
        note = "(rows that --missing drop leaves out are not counted)"
        raise BadDataError(f"{error.said} {note}", error.row, error.split) from error


def _filled_rows(batch: pa.RecordBatch) -> Mask:
    """(rows,) True where texts and labels are there."""
    filled = np.ones(batch.num_rows, bool)
    for name in batch.schema.names:
        column = batch.column(name)
        for part in column.flatten() if name == LABELS else [column]:
            values = part.to_pylist()
            filled &= np.fromiter((_is_filled(value, name in (TEXT, PAIR)) for value in values), bool, len(values))
    return filled


def _is_filled(value: Any, text: bool) -> bool:
    if isinstance(value, str):
        return bool(value) and not value.isspace()
    if isinstance(value, list):  # a row may have no classes
        return bool(value) or not text
    return value is not None and not (isinstance(value, float) and math.isnan(value))
