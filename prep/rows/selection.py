"""Which rows of a source go where: a limit, and parts of `train` held out as `test` and `validation`. Always the same
rows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache.common.arrays import Array
from cache.errors import InputError

from ..columns import Mask
from ..corpus.source import Source
from ..labels.class_labels import Coded, find_task, resolve_classes

FLAGS = {"test": "--holdout", "validation": "--validation"}
"""The splits that can be held out, and the flag of each."""


@dataclass(frozen=True)
class Selection:
    """Which rows of a source a cache takes.

    Attributes:
        task: what the labels are, one of `cache.format.tasks.KINDS`, or "auto": a class is held out evenly.
        holdout: for each split that is held out, the fraction of split `train` that it takes.
        limit: most rows of each source split; None = all.
        max_tokens: of a row of split `train`, which the plan's batches must have room for; None = any.
    """

    task: str
    holdout: dict[str, float]
    limit: int | None
    max_tokens: int | None = None

    def fractions(self, split: str) -> dict[str, float]:
        """The splits that are held out of a source split, and the fraction of it that each takes."""
        return self.holdout if split == "train" else {}

    def takes_all(self, split: str) -> bool:
        """Whether a source split becomes a split of the cache as it is."""
        return not self.fractions(split) and self.limit is None


def choose_rows(
    split: str, rows: int, coded: list[Coded], source: Source, selection: Selection
) -> dict[str, Mask | None]:
    """For each split of the cache that comes from a source split, the rows it takes: (rows,), or None for all.

    Where labels have no classes, there are none in `coded`.

    Raises:
        InputError: a label is of a wrong kind, or the holdout leaves a split without a row.
    """
    chosen = limit_rows(rows, selection.limit)
    fractions = selection.fractions(split)
    if not fractions:
        return {split: chosen}
    strata = _strata(split, coded, source, selection.task) if coded else np.zeros(rows, np.int64)
    apart = held_out(strata, chosen, fractions)
    parts = {split: chosen & ~np.logical_or.reduce(list(apart.values())), **apart}
    without = [name for name, part in parts.items() if not part.any()]
    if rows and without:
        taken = " and ".join(map(str, fractions.values()))
        each = ", taken from each class," * bool(strata.any())
        flags = " or ".join(f"{FLAGS[name]} 0" for name in fractions)
        raise InputError(
            f"a holdout of {taken} of {int(chosen.sum()):,} rows{each} leaves no row to {' and '.join(without)}; "
            f"pass {flags} or another fraction"
        )
    return parts


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
