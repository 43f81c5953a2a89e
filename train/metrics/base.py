"""What the metrics of all tasks have in common.

Shapes: B rows of a batch, W columns, C classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

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
    def summary(self) -> dict[str, Any]:
        """A few numbers that say it all: loss, the task's scores, rows."""

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return self.summary()

    @abstractmethod
    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Title and text of each line of a report; `names` are the classes'."""


class Metric(ABC):
    """Adds up on the device what a model says of batch after batch."""

    @abstractmethod
    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch: (B, C) or (B, W, C) logits and the batch's labels."""

    @abstractmethod
    def sum_ranks(self, ranks: Ranks) -> None:
        """Count what all ranks counted; rank r of R was given batches r, r + R, r + 2R, … of all."""

    @abstractmethod
    def compute(self, rows: int, loss: float) -> Scores:
        """The scores; `loss` is summed over targets. A CPU-GPU sync point."""
