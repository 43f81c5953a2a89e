"""The scores of a model on a split, by task: sums that are divided once, at the end.

A metric adds up on the device, batch by batch; its scores are read once. The formulas are not torchmetrics': that would
replace some 20 lines of them but none of the counts shown with them, adds about 2 s to the import of `train.run`, and
gives NaN where our Pearson correlation is 0, of a constant.

Shapes: B rows of a batch, W columns, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch

from cache.format.tasks import Task

from ..distributed import Ranks
from .classification import ClassificationMetric, MultiLabelMetric
from .entities import TokenMetric
from .regression import RegressionMetric

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
