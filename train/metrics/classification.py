"""Scores of classifiers: one class per row, or any number of them.

Shapes: B rows of a batch, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cache.console.text import counted

from ..runtime.distributed import Ranks
from .base import Metric, Scores

MAX_CONFUSION_CLASSES = 1024
"""Up to so many classes the whole confusion matrix is counted, C x C."""


def f1_score(correct: int, predicted: int, actual: int) -> float:
    """F1 from counts; 0 where there is nothing to divide by."""
    return 2 * correct / (predicted + actual) if predicted + actual else 0.0


# --- one class per row


@dataclass(frozen=True)
class ClassScores(Scores):
    """What a classifier did on a split.

    Attributes:
        correct: rows whose class was found, per class.
        predicted: rows that were given each class.
        actual: rows that have each class.
        confusion: confusion[actual][predicted] counts rows; None beyond `MAX_CONFUSION_CLASSES`.
    """

    correct: tuple[int, ...]
    predicted: tuple[int, ...]
    actual: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...] | None

    @property
    def accuracy(self) -> float:
        """Share of rows whose class was found."""
        return sum(self.correct) / self.rows if self.rows else 0.0

    @property
    def f1(self) -> float:
        """F1 of class 1 where there are two classes; else the mean of F1 over the classes that occur."""
        if len(self.actual) == 2:
            return self._f1_of(1)
        present = [c for c, counts in enumerate(zip(self.actual, self.predicted, strict=True)) if any(counts)]
        return sum(self._f1_of(c) for c in present) / len(present) if present else 0.0

    def _f1_of(self, label: int) -> float:
        return f1_score(self.correct[label], self.predicted[label], self.actual[label])

    @property
    def matthews(self) -> float:
        """Correlation of found and actual classes (Matthews 1975; Gorodkin 2004 for more than two); 0 where one side is
        constant."""
        both = sum(p * a for p, a in zip(self.predicted, self.actual, strict=True))
        spreads = [self.rows**2 - sum(count**2 for count in counts) for counts in (self.predicted, self.actual)]
        scale = math.sqrt(spreads[0] * spreads[1])
        return (sum(self.correct) * self.rows - both) / scale if scale else 0.0

    def summary(self) -> dict[str, Any]:
        """Loss, accuracy, F1, Matthews correlation and rows."""
        scores = {"accuracy": self.accuracy, "f1": self.f1, "matthews": self.matthews}
        return {"loss": self.mean_loss, **scores, "rows": self.rows}

    def to_json(self) -> dict[str, Any]:
        counts = {"correct": self.correct, "predicted": self.predicted, "actual": self.actual}
        return {**self.summary(), **({"confusion": self.confusion} if self.confusion is not None else counts)}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Accuracy, F1, Matthews correlation, and as what the rows of each class were found."""
        yield "accuracy", f"{self.accuracy:.4f} ({sum(self.correct):,} right)"
        yield "F1", f"{self.f1:.4f} ({f'class {names[1]}' if len(names) == 2 else 'mean over classes'})"
        yield "Matthews", f"{self.matthews:.4f}"
        for number in range(min(len(names), 20)):
            counts = self.confusion[number] if self.confusion else ()
            found = ", ".join(f"{names[c]} {count:,}" for c, count in enumerate(counts) if count)
            yield "", f"{names[number]}: {counted(self.actual[number], 'row')}, found as {found or 'nothing'}"


class ClassificationMetric(Metric):
    """Counts of classes: actual, predicted, both."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        self.counts = torch.zeros(3, classes, dtype=torch.int64, device=device)  # correct, predicted, actual
        size = classes**2 if classes <= MAX_CONFUSION_CLASSES else 0
        self.matrix = torch.zeros(size, dtype=torch.int64, device=device)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        found = logits.argmax(dim=1)  # (B,)
        ones = torch.ones_like(found)
        self.counts[0].index_add_(0, labels, (found == labels).long())
        self.counts[1].index_add_(0, found, ones)
        self.counts[2].index_add_(0, labels, ones)
        if len(self.matrix):
            self.matrix.index_add_(0, labels * self.classes + found, ones)

    def sum_ranks(self, ranks: Ranks) -> None:
        ranks.sum_(self.counts)
        ranks.sum_(self.matrix)

    def compute(self, rows: int, loss: float) -> ClassScores:
        correct, predicted, actual = (tuple(row) for row in self.counts.tolist())
        square = self.matrix.view(self.classes, self.classes) if len(self.matrix) else None
        confusion = None if square is None else tuple(tuple(row) for row in square.tolist())
        return ClassScores(rows, loss, correct, predicted, actual, confusion)


# --- any number of classes a row


@dataclass(frozen=True)
class MultiLabelScores(Scores):
    """What a multi-label classifier did on a split; a class is found where its probability is above a half.

    Attributes:
        correct: rows that have a class that was found, per class.
        predicted: rows that were given each class.
        actual: rows that have each class.
    """

    correct: tuple[int, ...]
    predicted: tuple[int, ...]
    actual: tuple[int, ...]

    @property
    def f1_micro(self) -> float:
        """F1 over all decisions."""
        return f1_score(sum(self.correct), sum(self.predicted), sum(self.actual))

    @property
    def f1_macro(self) -> float:
        """The mean of F1 over all classes; 0 for one that neither occurs nor was found."""
        found = [f1_score(*counts) for counts in zip(self.correct, self.predicted, self.actual, strict=True)]
        return sum(found) / len(found) if found else 0.0

    def summary(self) -> dict[str, Any]:
        """Loss, both F1 and rows."""
        return {"loss": self.mean_loss, "f1_micro": self.f1_micro, "f1_macro": self.f1_macro, "rows": self.rows}

    def to_json(self) -> dict[str, Any]:
        counts = {"correct": self.correct, "predicted": self.predicted, "actual": self.actual}
        return {**self.summary(), **counts}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Both F1, and the counts of each class."""
        yield "micro F1", f"{self.f1_micro:.4f} (over all decisions)"
        yield "macro F1", f"{self.f1_macro:.4f} (mean over classes)"
        for number in range(min(len(names), 20)):
            counts = f"{self.correct[number]:,} of them found, {self.predicted[number]:,} found in all"
            yield "", f"{names[number]}: {counted(self.actual[number], 'row')}, {counts}"


class MultiLabelMetric(Metric):
    """Counts of decisions, per class."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.counts = torch.zeros(3, classes, dtype=torch.int64, device=device)  # correct, predicted, actual

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        found, actual = logits > 0, labels > 0  # (B, C)
        self.counts += torch.stack([(found & actual).sum(0), found.sum(0), actual.sum(0)])

    def sum_ranks(self, ranks: Ranks) -> None:
        ranks.sum_(self.counts)

    def compute(self, rows: int, loss: float) -> MultiLabelScores:
        correct, predicted, actual = (tuple(row) for row in self.counts.tolist())
        return MultiLabelScores(rows, loss, correct, predicted, actual)
