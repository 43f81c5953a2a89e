"""Scores of classifiers: one class per row or word, or any number of them per row.

Shapes: B rows of a batch, W columns, C classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cache.console.text import counted
from cache.format.tasks import IGNORED

from .base import CountedScores, Metric, f1_score

MAX_CONFUSION_CLASSES = 1024
"""Up to so many classes the whole confusion matrix is counted, C x C."""


# --- one class per row or word


@dataclass(frozen=True)
class ClassScores(CountedScores):
    """What a classifier of rows or words did on a split.

    Attributes:
        confusion: confusion[actual][predicted] counts them; None beyond `MAX_CONFUSION_CLASSES`.
    """

    confusion: tuple[tuple[int, ...], ...] | None

    @property
    def targets(self) -> int:
        """Rows, or labelled words."""
        return sum(self.actual)

    @property
    def accuracy(self) -> float:
        """Share of them whose class was found."""
        return sum(self.correct) / self.targets if self.targets else 0.0

    @property
    def f1(self) -> float:
        """F1 of class 1 where there are two classes; else the mean of F1 over the classes that occur."""
        if len(self.counts) == 2:
            return f1_score(*self.counts[1])
        present = [f1_score(*counts) for counts in self.counts if any(counts)]
        return sum(present) / len(present) if present else 0.0

    @property
    def matthews(self) -> float:
        """Correlation of found and actual classes (Matthews 1975; Gorodkin 2004 for more than two); 0 where one side is
        constant."""
        both = sum(p * a for p, a in zip(self.predicted, self.actual, strict=True))
        spreads = [self.targets**2 - sum(count**2 for count in counts) for counts in (self.predicted, self.actual)]
        scale = math.sqrt(math.prod(spreads))
        return (sum(self.correct) * self.targets - both) / scale if scale else 0.0

    def scores(self) -> dict[str, float]:
        return {"accuracy": self.accuracy, "f1": self.f1, "matthews": self.matthews}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() if self.confusion is None else {**self.summary(), "confusion": self.confusion}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        yield "accuracy", f"{self.accuracy:.4f} ({sum(self.correct):,} right)"
        yield "F1", f"{self.f1:.4f} ({f'class {names[1]}' if len(names) == 2 else 'mean over classes'})"
        yield "Matthews", f"{self.matthews:.4f}"
        if self.confusion is None:
            yield from self.lines_of_counts(names)
        for number, row in enumerate(self.confusion[:20] if self.confusion else ()):
            found = ", ".join(f"{names[c]} {count:,}" for c, count in enumerate(row) if count)
            yield "", f"{names[number]}: {counted(self.actual[number], self.unit)}, found as {found or 'nothing'}"


class ClassificationMetric(Metric):
    """Counts of classes, actual, predicted and both; `unit` is what has a class."""

    def __init__(self, classes: int, device: torch.device, unit: str = "row") -> None:
        super().__init__(device, (3, classes), (classes, classes) if classes <= MAX_CONFUSION_CLASSES else (0, 0))
        self.unit = unit

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        found, labels = logits.argmax(dim=-1).flatten(), labels.flatten()  # (B,) or (B W,)
        labelled = (labels != IGNORED).long()
        labels = labels.clamp(min=0)
        (correct, predicted, actual), confusion = self.counts
        correct.index_add_(0, labels, (found == labels) * labelled)
        predicted.index_add_(0, found, labelled)
        actual.index_add_(0, labels, labelled)
        if len(confusion):
            confusion.view(-1).index_add_(0, labels * len(confusion) + found, labelled)

    def compute(self, rows: int, loss: float) -> ClassScores:
        (correct, predicted, actual), confusion = (tuple(map(tuple, part.tolist())) for part in self.counts)
        return ClassScores(rows, loss, correct, predicted, actual, confusion or None, unit=self.unit)


# --- any number of classes a row


@dataclass(frozen=True)
class MultiLabelScores(CountedScores):
    """What a multi-label classifier did on a split; a class is found where its probability is above a half."""

    @property
    def f1_micro(self) -> float:
        """F1 over all decisions."""
        return f1_score(*self.sums)

    @property
    def f1_macro(self) -> float:
        """The mean of F1 over all classes; 0 for one that neither occurs nor was found."""
        return sum(f1_score(*counts) for counts in self.counts) / max(len(self.counts), 1)

    def scores(self) -> dict[str, float]:
        return {"f1_micro": self.f1_micro, "f1_macro": self.f1_macro}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        yield "micro F1", f"{self.f1_micro:.4f} (over all decisions)"
        yield "macro F1", f"{self.f1_macro:.4f} (mean over classes)"
        yield from self.lines_of_counts(names)


class MultiLabelMetric(Metric):
    """Counts of decisions, per class."""

    def __init__(self, classes: int, device: torch.device) -> None:
        super().__init__(device, (3, classes))  # correct, predicted, actual

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        found, actual = logits > 0, labels > 0  # (B, C)
        self.counts[0] += torch.stack([(found & actual).sum(0), found.sum(0), actual.sum(0)])

    def compute(self, rows: int, loss: float) -> MultiLabelScores:
        return MultiLabelScores(rows, loss, *map(tuple, self.counts[0].tolist()))
