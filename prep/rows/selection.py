"""Which rows of a source go where: a limit, and parts of `train` held out as `test` and `validation`. Always the same
rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cache.common.arrays import Array
from cache.errors import InputError
from cache.format.tasks import MLM

from ..columns import Mask, Stream
from ..labels.class_labels import Coded, code_batch, find_task, resolve_classes
from ..sources.corpus import Source

if TYPE_CHECKING:
    import pyarrow as pa

FLAGS = {"test": "--holdout", "validation": "--validation"}
"""The splits that can be held out, and the flag of each."""

KEPT_BYTES = 256 * 1024 * 1024
"""A split up to this size is kept in memory between choosing its rows and encoding them."""


@dataclass(frozen=True)
class Selection:
    """Which rows of a source a cache takes.

    Attributes:
        task: what the labels are, one of `cache.format.tasks.KINDS`, or "auto": a class is held out evenly.
        holdout: for each split that is held out, the fraction of split `train` that it takes.
        limit: most rows of each source split; None = all.
    """

    task: str
    holdout: dict[str, float]
    limit: int | None


def choose_rows(
    split: str, stream: Stream, source: Source, selection: Selection
) -> tuple[Iterator["pa.RecordBatch"], dict[str, Mask | None]]:
    """The batches of a source split, and for each split of the cache that comes from it the rows it takes.

    Choosing rows needs their labels first, so the split is then read twice, or held in memory where it is small.

    Raises:
        InputError: a label is missing or of a wrong kind, or the holdout leaves a split without a row.
    """
    fractions = selection.holdout if split == "train" else {}
    if not fractions and selection.limit is None:
        return stream(), {split: None}
    held: list[pa.RecordBatch] | None = []
    coded, rows, size, classed = [], 0, 0, selection.task != MLM and not source.words
    for batch in stream():
        if classed:
            coded.append(code_batch(batch, split, rows))
        rows += batch.num_rows
        size += batch.nbytes
        if held is not None:
            held.append(batch)
            held = held if size <= KEPT_BYTES else None
    chosen = limit_rows(rows, selection.limit)
    batches = iter(held) if held is not None else stream()
    if not fractions:
        return batches, {split: chosen}
    strata = _strata(split, coded, source, selection.task) if classed else np.zeros(rows, np.int64)
    apart = held_out(strata, chosen, fractions)
    parts = {split: chosen & ~np.logical_or.reduce(list(apart.values())), **apart}
    without = [name for name, part in parts.items() if not part.any()]
    if rows and without:
        taken = " and ".join(map(str, fractions.values()))
        flags = " or ".join(f"{FLAGS[name]} 0" for name in fractions)
        raise InputError(
            f"a holdout of {taken} of {int(chosen.sum()):,} rows{', taken from each class,' * classed} leaves no row "
            f"to {' and '.join(without)}; pass {flags} or another fraction"
        )
    return batches, parts


def _strata(split: str, coded: list[Coded], source: Source, task: str) -> Array:
    """(rows,) what a row is held out alongside of: its class, or all rows where each has not just one."""
    if find_task(task, {split: coded}, source.label_names) != "classification":
        return np.zeros(sum(piece.rows for piece in coded), np.int64)
    strata: Array = resolve_classes({split: coded}, source.label_names)[1][split]
    return strata


def limit_rows(rows: int, limit: int | None) -> Mask:
    """(rows,) True for at most `limit` rows, drawn at random."""
    chosen = np.ones(rows, bool)
    if limit is not None and limit < rows:
        chosen[:] = False
        chosen[_random_order(rows)[:limit]] = True
    return chosen


def held_out(classes: npt.NDArray[np.int64], chosen: Mask, fractions: dict[str, float]) -> dict[str, Mask]:
    """Hold out fractions of every class.

    Args:
        classes: (rows,) class ids.
        chosen: (rows,) the rows that take part.
        fractions: for each split that is held out, 0 to 1; 1 at most in all.

    Returns:
        For each (rows,) True for round(fraction x rows) random rows of each class, no row in two of them.
    """
    held = {name: np.zeros(len(classes), bool) for name in fractions}
    order = _random_order(len(classes))
    order = order[chosen[order]]
    for number in np.flatnonzero(np.bincount(classes[chosen])):
        members = order[classes[order] == number]
        first = 0
        for name, fraction in fractions.items():
            stop = first + round(len(members) * fraction)
            held[name][members[first:stop]] = True
            first = stop
    return held


def _random_order(rows: int) -> npt.NDArray[np.int64]:
    """0..rows-1 shuffled, the same on any machine and under any numpy: raw words of a PCG64, sorted."""
    words = np.atleast_1d(np.random.PCG64(np.random.SeedSequence([rows])).random_raw(rows))
    return np.argsort(words, kind="stable")
