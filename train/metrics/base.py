"""What the metrics of all tasks have in common.

Shapes: B rows of a batch, W columns, C classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cache.console.text import counted

from ..runtime.distributed import Ranks


@dataclass(frozen=True)
class Scores(ABC):
    """What a model did on a split, and ways to show it.

    Attributes:
        rows: rows that were scored.
        loss: summed over targets.
    """

    rows: int
    loss: float

    @property
    def targets(self) -> int:
        """What has a loss: rows, or tokens."""
        return self.rows

    @property
    def mean_loss(self) -> float:
        """Loss per target; not a number where there is none, which is no perfect score."""
        return self.loss / self.targets if self.targets else math.nan

    @abstractmethod
    def scores(self) -> dict[str, float]:
        """The task's scores, by name."""

    def summary(self) -> dict[str, Any]:
        """A few numbers that say it all: loss, the task's scores, rows."""
        return {"loss": self.mean_loss, **self.scores(), "rows": self.rows}

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return self.summary()

    @abstractmethod
    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Title and text of each line of a report; `names` are the classes'."""


@dataclass(frozen=True)
class CountedScores(Scores):
    """Scores from counts of rows or entities.

    Attributes:
        correct: those that were found, per class or type.
        predicted: those that were given each class or type.
        actual: those that have each class or type.
        unit: what is counted.
    """

    correct: tuple[int, ...]
    predicted: tuple[int, ...]
    actual: tuple[int, ...]
    unit: str = field(default="row", kw_only=True)

    @property
    def counts(self) -> list[tuple[int, int, int]]:
        """Correct, predicted and actual ones of each class or type."""
        return list(zip(self.correct, self.predicted, self.actual, strict=True))

    @property
    def sums(self) -> tuple[int, int, int]:
        """Correct, predicted and actual ones of all."""
        return sum(self.correct), sum(self.predicted), sum(self.actual)

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON, with the counts."""
        counts = {"correct": self.correct, "predicted": self.predicted, "actual": self.actual}
        return {**self.summary(), **counts}

    def lines_of_counts(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The counts of each class, of the first 20."""
        for name, (correct, predicted, actual) in list(zip(names, self.counts, strict=True))[:20]:
            yield "", f"{name}: {counted(actual, self.unit)}, {correct:,} of them found, {predicted:,} found in all"


def f1_score(correct: int, predicted: int, actual: int) -> float:
    """F1 from counts; 0 where there is nothing to divide by."""
    return 2 * correct / (predicted + actual) if predicted + actual else 0.0


class Metric(ABC):
    """Adds up on the device what a model says of batch after batch, in int64 `counts` of some shapes."""

    def __init__(self, device: torch.device, *shapes: tuple[int, ...]) -> None:
        self.counts = [torch.zeros(shape, dtype=torch.int64, device=device) for shape in shapes]

    @abstractmethod
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch: (B, C) or (B, W, C) logits and the batch's labels."""

    def sum_ranks(self, ranks: Ranks) -> None:
        """Count what all ranks counted; rank r of R was given batches r, r + R, r + 2R, … of all."""
        for counts in self.counts:
            ranks.sum_(counts)

    @abstractmethod
    def compute(self, rows: int, loss: float) -> Scores:
        """The scores; `loss` is summed over targets. A CPU-GPU sync point."""
