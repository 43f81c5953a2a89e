"""What a model did on a split, by task: sums that are divided once, at the end.

A metric adds up on the device, batch by batch; its scores are read once. They are not torchmetrics': it would replace
some 20 lines of formulas but none of the counts shown with them, adds about 2 s to the import of `train.run`, and gives
NaN where our Pearson correlation is 0, of a constant.

Shapes: B rows of a batch, N rows of a split, C classes.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from cache.format.tasks import Task

from ..distributed import Ranks
from .entities import TokenMetric

MAX_CONFUSION_CLASSES = 1024
"""Up to so many classes the whole confusion matrix is counted, C x C."""

MAIN = ("accuracy", "spearman", "f1_micro", "entity_f1", "perplexity")
"""The scores that runs are compared by, one of each task; the first that is there."""

TITLES = {
    "f1": "F1",
    "f1_micro": "micro F1",
    "f1_macro": "macro F1",
    "matthews": "Matthews",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "entity_precision": "precision",
    "entity_recall": "recall",
    "entity_f1": "entity F1",
    "token_accuracy": "token accuracy",
}
"""How scores are called for people, where not by their names."""


LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
"""Scores of which less is better."""


def is_better(name: str, value: float | None, best: float | None) -> bool:
    """Whether a score is better than the best one so far, of which there may be none."""
    if value is None or best is None:
        return value is not None
    return value < best if name in LOWER_IS_BETTER else value > best


def main_score(scores: dict[str, Any], metric: str = "") -> tuple[str, float] | None:
    """Name and value of the score that stands for all of them: `metric`, or that of the task; None if neither is there.

    Args:
        scores: by name, as an evaluation was recorded.
        metric: title of the score that the corpus is known for, such as "Matthews"; empty where there is none.
    """
    wanted = [name for name in scores if TITLES.get(name, name) == metric]
    return next(((name, scores[name]) for name in (*wanted, *MAIN) if scores.get(name) is not None), None)


class Scores(Protocol):
    """What all scores have in common, and ways to show them."""

    @property
    def rows(self) -> int:
        """Rows that were scored."""
        ...

    @property
    def mean_loss(self) -> float:
        """Loss per row, or per labelled token."""
        ...

    def summary(self) -> dict[str, Any]:
        """A few numbers that say it all: loss, the task's scores, rows."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        ...

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Title and text of each line of a report; `names` are the classes'."""
        ...


class Metric(Protocol):
    """Adds up what a model says of batch after batch."""

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch: (B, C) or (B, W, C) logits and the batch's labels."""
        ...

    def sum_ranks(self, ranks: Ranks) -> None:
        """Count what all ranks counted; rank r of R was given batches r, r + R, r + 2R, … of all."""
        ...

    def compute(self, rows: int, loss: float) -> Scores:
        """The scores; `loss` is summed over rows, or labelled tokens. A CPU-GPU sync point."""
        ...


def metric_of(task: Task, device: torch.device) -> Metric:
    """An empty metric for a task."""
    if task.kind == "regression":
        return RegressionMetric()
    if task.kind == "multi-label":
        return MultiLabelMetric(len(task.label_names), device)
    if task.per_token:
        return TokenMetric(task.label_names, device)
    return ClassificationMetric(len(task.label_names), device)


def _f1(correct: float, predicted: float, actual: float) -> float:
    return 2 * correct / (predicted + actual) if predicted + actual else 0.0


# --- one class a row


@dataclass(frozen=True)
class ClassScores:
    """What a classifier did on a split.

    Attributes:
        rows: rows that were scored.
        loss: cross-entropy, summed over rows.
        correct: rows whose class was found, per class.
        predicted: rows that were given each class.
        actual: rows that have each class.
        confusion: confusion[actual][predicted] counts rows; None beyond `MAX_CONFUSION_CLASSES`.
    """

    rows: int
    loss: float
    correct: tuple[int, ...]
    predicted: tuple[int, ...]
    actual: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...] | None

    @property
    def accuracy(self) -> float:
        """Share of rows whose class was found."""
        return sum(self.correct) / self.rows if self.rows else 0.0

    @property
    def mean_loss(self) -> float:
        """Cross-entropy per row."""
        return self.loss / self.rows if self.rows else 0.0

    @property
    def f1(self) -> float:
        """F1 of class 1 where there are two classes; else the mean of F1 over the classes that occur."""
        if len(self.actual) == 2:
            return self._f1_of(1)
        present = [c for c, counts in enumerate(zip(self.actual, self.predicted, strict=True)) if any(counts)]
        return sum(self._f1_of(c) for c in present) / len(present) if present else 0.0

    def _f1_of(self, label: int) -> float:
        return _f1(self.correct[label], self.predicted[label], self.actual[label])

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
        """The scores as plain JSON."""
        counts = {"correct": self.correct, "predicted": self.predicted, "actual": self.actual}
        return {
            "rows": self.rows,
            "loss": self.mean_loss,
            "accuracy": self.accuracy,
            "f1": self.f1,
            "matthews": self.matthews,
            **({"confusion": self.confusion} if self.confusion is not None else counts),
        }

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Accuracy, F1, Matthews correlation, and as what the rows of each class were found."""
        yield "accuracy", f"{self.accuracy:.4f} ({sum(self.correct):,} right)"
        yield "F1", f"{self.f1:.4f} ({f'class {names[1]}' if len(names) == 2 else 'mean over classes'})"
        yield "Matthews", f"{self.matthews:.4f}"
        for number in range(min(len(names), 20)):
            counts = self.confusion[number] if self.confusion else ()
            found = ", ".join(f"{names[c]} {count:,}" for c, count in enumerate(counts) if count)
            yield "", f"{names[number]}: {self.actual[number]:,} rows, found as {found or 'nothing'}"


class ClassificationMetric:
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
class MultiLabelMetrics:
    """What a multi-label classifier did on a split; a class is found where its probability is above a half.

    Attributes:
        rows: rows that were scored.
        loss: binary cross-entropy, the mean over classes, summed over rows.
        correct: rows that have a class that was found, per class.
        predicted: rows that were given each class.
        actual: rows that have each class.
    """

    rows: int
    loss: float
    correct: tuple[int, ...]
    predicted: tuple[int, ...]
    actual: tuple[int, ...]

    @property
    def mean_loss(self) -> float:
        """Binary cross-entropy per row and class."""
        return self.loss / self.rows if self.rows else 0.0

    @property
    def f1_micro(self) -> float:
        """F1 over all decisions."""
        return _f1(sum(self.correct), sum(self.predicted), sum(self.actual))

    @property
    def f1_macro(self) -> float:
        """The mean of F1 over all classes; 0 for one that neither occurs nor was found."""
        found = [_f1(*counts) for counts in zip(self.correct, self.predicted, self.actual, strict=True)]
        return sum(found) / len(found) if found else 0.0

    def summary(self) -> dict[str, Any]:
        """Loss, both F1 and rows."""
        return {"loss": self.mean_loss, "f1_micro": self.f1_micro, "f1_macro": self.f1_macro, "rows": self.rows}

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON."""
        counts = {"correct": self.correct, "predicted": self.predicted, "actual": self.actual}
        return {**self.summary(), **counts}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Both F1, and the counts of each class."""
        yield "micro F1", f"{self.f1_micro:.4f} (over all decisions)"
        yield "macro F1", f"{self.f1_macro:.4f} (mean over classes)"
        for number in range(min(len(names), 20)):
            counts = f"{self.correct[number]:,} of them found, {self.predicted[number]:,} found in all"
            yield "", f"{names[number]}: {self.actual[number]:,} rows, {counts}"


class MultiLabelMetric:
    """Counts of decisions, per class."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.counts = torch.zeros(3, classes, dtype=torch.int64, device=device)  # correct, predicted, actual

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        found, actual = logits > 0, labels > 0  # (B, C)
        self.counts += torch.stack([(found & actual).sum(0), found.sum(0), actual.sum(0)])

    def sum_ranks(self, ranks: Ranks) -> None:
        ranks.sum_(self.counts)

    def compute(self, rows: int, loss: float) -> MultiLabelMetrics:
        correct, predicted, actual = (tuple(row) for row in self.counts.tolist())
        return MultiLabelMetrics(rows, loss, correct, predicted, actual)


# --- numbers


@dataclass(frozen=True)
class RegressionMetrics:
    """What a regression did on a split.

    Attributes:
        rows: rows that were scored.
        loss: squared error, summed over rows.
        pearson, spearman: correlation of predictions and labels, of their values and of their ranks; 0 where one side
            is constant.
    """

    rows: int
    loss: float
    pearson: float
    spearman: float

    @property
    def mean_loss(self) -> float:
        """Squared error per row."""
        return self.loss / self.rows if self.rows else 0.0

    def summary(self) -> dict[str, Any]:
        """Mean squared error, both correlations and rows."""
        return {"loss": self.mean_loss, "pearson": self.pearson, "spearman": self.spearman, "rows": self.rows}

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON."""
        return self.summary()

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Both correlations."""
        yield "Pearson", f"{self.pearson:.4f}"
        yield "Spearman", f"{self.spearman:.4f}"


class RegressionMetric:
    """All predictions and labels, for ranks need all of them; they stay on the device until the end."""

    def __init__(self) -> None:
        self.pairs: list[torch.Tensor] = []

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        self.pairs.append(torch.stack([logits[:, 0].float(), labels]))  # (2, B)

    def sum_ranks(self, ranks: Ranks) -> None:
        found = ranks.gather([pair.cpu() for pair in self.pairs])
        turns = itertools.chain.from_iterable(itertools.zip_longest(*found))  # in the order of one process
        self.pairs = [pair for pair in turns if pair is not None]

    def compute(self, rows: int, loss: float) -> RegressionMetrics:
        found, actual = torch.cat(self.pairs, dim=1).double().cpu().numpy()  # (N,) each
        return RegressionMetrics(rows, loss, correlation(found, actual), correlation(ranks(found), ranks(actual)))


def correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation of two columns (N,); 0 where one is constant."""
    x, y = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rank of each value (N,), from 1; equal values share the mean of theirs."""
    _, positions, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[positions]
    return shared
