"""Rows that lie end to end, laid out as padded rectangles: numpy only, no Python loop over rows.

Shapes: B rows, W columns.
"""

import numpy as np

from ..common.arrays import Array


def gather_rows(flat: Array, begins: Array, lengths: Array, width: int, pad: int, left: bool = False) -> Array:
    """Lay out rows of `flat` as a padded rectangle.

    Args:
        flat: (tokens,) values of all rows, end to end.
        begins: (B,) position of each row's first value in `flat`.
        lengths: (B,) values of each row, 0 to `width`.
        width: W.
        pad: what fills the rest of a row.
        left: whether to pad on the left.

    Returns:
        (B, W) of flat's dtype.
    """
    count = len(begins)
    if (lengths == width).all() and (begins[1:] - begins[:-1] == width).all():  # neighbours of one length: a view
        begin = int(begins[0]) if count else 0
        return flat[begin : begin + count * width].reshape(count, width)
    if not len(flat):
        return np.full((count, width), pad, flat.dtype)
    shift = (width - lengths if left else np.zeros(count, np.int64))[:, None]
    positions = begins[:, None] - shift + np.arange(width)  # (B, W)
    padded: Array = flat.take(positions, mode="clip")
    padded[~row_mask(lengths, width, left)] = pad
    return padded


def row_mask(lengths: Array, width: int, left: bool = False) -> Array:
    """(B, W) bool, True where a row of these lengths has a token."""
    columns = np.arange(width, dtype=lengths.dtype)  # of one type, which are compared twice as fast
    return (columns[::-1] if left else columns) < lengths[:, None]
