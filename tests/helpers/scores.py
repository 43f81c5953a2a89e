"""Scores by their definitions, computed the slow way."""

from itertools import pairwise
from typing import Any

import numpy as np


def f1(found: Any, actual: Any) -> float:
    right, wrong = (found & actual).sum(), (found ^ actual).sum()
    return float(2 * right / (2 * right + wrong)) if right + wrong else 0.0


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's by its definition: ranks counted one by one."""

    def counted(values: Any) -> list[float]:
        return [sum(v < value for v in values) + sum(v == value for v in values) / 2 for value in values]

    return float(np.corrcoef(counted(one), counted(other))[0, 1])


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Type, first and last word of the entities in a sentence, word by word as seqeval's `get_entities` does it."""
    found, begin = set(), 0
    parts = [(tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_") for tag in ["O", *tags, "O"]]
    for place, ((before, kind_before), (letter, kind)) in enumerate(pairwise(parts)):
        changed = kind != kind_before
        ends = before in "ES" or (before in "BI" and letter in "BSO") or (before not in "O." and changed)
        starts = letter in "BS" or (before in "ESO" and letter in "EI")
        if ends:
            found.add((kind_before, begin, place - 1))
        if starts or (letter not in "O." and changed):
            begin = place
    return found
