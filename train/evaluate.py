"""A classifier's scores on a split: counts add up on the device, and are divided once, at the end.

Shapes: B rows, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from cache.errors import InputError
from cache.plans import PlanSpec
from cache.reader import Split

from . import device as devices
from .inputs import model_inputs

MAX_CONFUSION_CLASSES = 1024
"""Up to so many classes the whole confusion matrix is counted, C x C."""


@dataclass(frozen=True)
class Scores:
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
        total = self.predicted[label] + self.actual[label]
        return 2 * self.correct[label] / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """The scores as plain JSON."""
        counts = {"correct": self.correct, "predicted": self.predicted, "actual": self.actual}
        return {
            "rows": self.rows,
            "loss": self.mean_loss,
            "accuracy": self.accuracy,
            "f1": self.f1,
            **({"confusion": self.confusion} if self.confusion is not None else counts),
        }


def evaluate(
    model: PreTrainedModel,
    split: Split,
    device: torch.device,
    precision: str,
    batch_size: int = 64,
    limit: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Score a classifier on the rows of a split, in uniform batches where possible; their order does not matter.

    Args:
        model: on `device`.
        split: its labels must be the model's.
        device: where to compute.
        precision: `fp32` or `bf16`.
        batch_size: rows of a batch.
        limit: stop after the batch that reaches so many rows; batches come in an order that is random, but always the
            same. None: every row.
        stop: asked before each batch; once it says so, there is no result.

    Raises:
        InputError: the split has no rows.
    """
    if not len(split):
        raise InputError(f"split {split.name!r} of {split.cache.folder} has no rows, so there is nothing to evaluate")
    classes = len(split.cache.manifest.task.label_names)
    counts = torch.zeros(3, classes, dtype=torch.int64, device=device)  # correct, predicted, actual
    matrix = torch.zeros(classes**2 if classes <= MAX_CONFUSION_CLASSES else 0, dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    rows = 0
    model.eval()
    with torch.inference_mode(), devices.autocast(device, precision):
        for batch in split.batches(0, PlanSpec("tight", batch_size), device=device):
            if stop():
                return None
            if rows >= (limit or len(split)):
                break
            rows += len(batch)
            output = model(**model_inputs(batch, model.config))
            found = output.logits.argmax(dim=1)  # (B,)
            loss += output.loss.float() * len(batch)
            ones = torch.ones_like(found)
            counts[0].index_add_(0, batch.labels, (found == batch.labels).long())
            counts[1].index_add_(0, found, ones)
            counts[2].index_add_(0, batch.labels, ones)
            if len(matrix):
                matrix.index_add_(0, batch.labels * classes + found, ones)
    correct, predicted, actual = (tuple(row) for row in counts.tolist())
    confusion = tuple(tuple(row) for row in matrix.view(classes, classes).tolist()) if len(matrix) else None
    return Scores(rows, float(loss), correct, predicted, actual, confusion)
