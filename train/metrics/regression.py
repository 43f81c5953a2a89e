"""Scores of a regression: correlations of predictions and labels.

Shapes: B rows of a batch, N rows of a split.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..runtime.distributed import Ranks
from .base import Metric, Scores


@dataclass(frozen=True)
class RegressionScores(Scores):
    """What a regression did on a split.

    Attributes:
        pearson, spearman: correlation of predictions and labels, of their values and of their ranks; 0 where one side
            is constant.
    """

    pearson: float
    spearman: float

    def scores(self) -> dict[str, float]:
        return {"pearson": self.pearson, "spearman": self.spearman}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        yield "Pearson", f"{self.pearson:.4f}"
        yield "Spearman", f"{self.spearman:.4f}"


class RegressionMetric(Metric):
    """All predictions and labels, for ranks need all of them; they stay on the device until the end."""

    def __init__(self) -> None:
        self.pairs: list[torch.Tensor] = []

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.pairs.append(torch.stack([logits[:, 0].float(), labels]))  # (2, B)

    def sum_ranks(self, ranks: Ranks) -> None:
        found = ranks.gather([pair.cpu() for pair in self.pairs])
        turns = itertools.chain.from_iterable(itertools.zip_longest(*found))  # in the order of one process
        self.pairs = [pair for pair in turns if pair is not None]

    def compute(self, rows: int, loss: float) -> RegressionScores:
        pairs = torch.cat([torch.zeros(2, 0), *(pair.cpu() for pair in self.pairs)], dim=1)
        found, actual = pairs.double().numpy()  # (N,) each
        return RegressionScores(rows, loss, correlation(found, actual), correlation(ranks(found), ranks(actual)))


def correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation of two columns (N,); 0 where one is constant, or there are no rows."""
    if not len(one):
        return 0.0
    x, y = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rank of each value (N,), from 1; equal values share the mean of theirs."""
    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[positions]
    return shared
