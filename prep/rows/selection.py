"""Which rows of a source go where: a limit, and a part of `train` held out as `test`. Always the same rows."""

import numpy as np
import numpy.typing as npt

from ..columns import Mask


def limit_rows(rows: int, limit: int | None) -> Mask:
    """(rows,) True for at most `limit` rows, drawn at random."""
    chosen = np.ones(rows, bool)
    if limit is not None and limit < rows:
        chosen[:] = False
        chosen[_random_order(rows)[:limit]] = True
    return chosen


def held_out(classes: npt.NDArray[np.int64], chosen: Mask, fraction: float) -> Mask:
    """Hold out a fraction of every class.

    Args:
        classes: (rows,) class ids.
        chosen: (rows,) the rows that take part.
        fraction: 0 to 1.

    Returns:
        (rows,) True for round(fraction x rows) random rows of each class.
    """
    held = np.zeros(len(classes), bool)
    order = _random_order(len(classes))
    order = order[chosen[order]]
    for number in np.flatnonzero(np.bincount(classes[chosen])):
        members = order[classes[order] == number]
        held[members[: round(len(members) * fraction)]] = True
    return held


def _random_order(rows: int) -> npt.NDArray[np.int64]:
    """0..rows-1 shuffled, the same on any machine and under any numpy: raw words of a PCG64, sorted."""
    words = np.atleast_1d(np.random.PCG64(np.random.SeedSequence([rows])).random_raw(rows))
    return np.argsort(words, kind="stable")
