"""Between Arrow and numpy without what is slow to import: pyarrow's own conversions import pandas, a third of a second,
and its compute functions a tenth."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


def distinct(column: "pa.Array") -> tuple[list[Any], npt.NDArray[np.int64]]:
    """The distinct values of a column without nulls, and (rows,) for each row the number of its value.

    Raises:
        TypeError: the column holds lists or the like.
    """
    numbers: dict[Any, int] = {}
    places = (numbers.setdefault(value, len(numbers)) for value in column.to_pylist())
    codes = np.fromiter(places, np.int64, len(column))
    return list(numbers), codes


def is_list(kind: Any) -> bool:
    """Whether an Arrow type is one of lists."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def list_counts(column: "pa.Array") -> npt.NDArray[np.int64]:
    """(rows,) how many values each list of a column without nulls has."""
    if hasattr(column.type, "list_size"):
        return np.full(len(column), column.type.list_size, np.int64)
    counts: npt.NDArray[np.int64] = np.diff(column.offsets.to_numpy().astype(np.int64))
    return counts


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def kept(rows: "pa.Array | pa.RecordBatch", mask: npt.NDArray[np.bool_]) -> Any:
    """The rows for which `mask` (rows,) is true; without a copy where they lie together."""
    chosen = np.flatnonzero(mask)
    if not len(chosen):
        return rows.slice(0, 0)
    first, last = int(chosen[0]), int(chosen[-1])
    if last - first == len(chosen) - 1:
        return rows.slice(first, len(chosen))
    return rows.filter(bool_array(mask))


def bool_array(mask: npt.NDArray[np.bool_]) -> "pa.Array":
    """A mask (rows,) as Arrow takes it to filter by."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.bool_(), len(mask), [None, pa.py_buffer(np.packbits(mask, bitorder="little"))])
