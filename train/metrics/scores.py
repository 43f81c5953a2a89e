"""The scores of a model on a split, by task: sums that are divided once, at the end.

A metric adds up on the device, batch by batch; its scores are read once. The formulas are not torchmetrics': that would
replace some 20 lines of them but none of the counts shown with them, adds about 2 s to the import of `train.run`, and
gives NaN where our Pearson correlation is 0, of a constant.
"""

from typing import Any

import torch

from cache.format.tasks import Task

from .base import Metric
from .classification import ClassificationMetric, MultiLabelMetric
from .entities import EntityMetric, marks_entities
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


def score_title(name: str) -> str:
    """How a score is called for people."""
    return TITLES.get(name, name)


def is_better(name: str, value: float | None, best: float | None) -> bool:
    """Whether a score is better than the best one so far, of which there may be none."""
    if value is None or best is None:
        return value is not None
    return value < best if name in LOWER_IS_BETTER else value > best


def main_score(scores: dict[str, Any], metric: str = "") -> tuple[str, float] | None:
    """Name and value of the score that stands for all of them: the one with the title `metric`, which the corpus is
    known for, or that of the task; None if neither is there."""
    wanted = [name for name in scores if score_title(name) == metric]
    return next(((name, scores[name]) for name in (*wanted, *MAIN) if scores.get(name) is not None), None)


def metric_of(task: Task, device: torch.device) -> Metric:
    """An empty metric for a task."""
    if task.kind == "regression":
        return RegressionMetric()
    if task.kind == "multi-label":
        return MultiLabelMetric(len(task.label_names), device)
    if task.per_token and marks_entities(task.label_names):
        return EntityMetric(task.label_names, device)
    return ClassificationMetric(len(task.label_names), device, "word" if task.per_token else "row")
