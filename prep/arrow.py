"""Between Arrow and numpy by their buffers: the conversions of pyarrow import pandas, a third of a second."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


def distinct(column: "pa.Array") -> tuple[list[Any], npt.NDArray[np.int64]]:
    """The distinct values of a column without nulls, and (rows,) for each row the number of its value.

    Raises:
        pyarrow.ArrowNotImplementedError: the column holds lists or the like.
    """
    import pyarrow as pa

    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.indices.cast(pa.int64())
    codes: npt.NDArray[np.int64] = np.zeros(len(indices), np.int64)
    if len(indices):
        codes = np.frombuffer(indices.buffers()[1], np.int64, len(indices), indices.offset * 8)
    return encoded.dictionary.to_pylist(), codes


def bool_array(mask: npt.NDArray[np.bool_]) -> "pa.Array":
    """A mask (rows,) as Arrow takes it to filter by."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.bool_(), len(mask), [None, pa.py_buffer(np.packbits(mask, bitorder="little"))])
