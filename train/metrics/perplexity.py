"""What a masked language model made of the tokens that were masked, as `scores` has it of classifiers.

Shapes: K tokens that are scored, V ids of the vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cache.console.text import counted
from cache.format.tasks import IGNORED

from .base import Metric, Scores


@dataclass(frozen=True)
class MaskedLMScores(Scores):
    """What a masked language model made of the tokens that were masked.

    Attributes:
        tokens: masked tokens in the rows.
        correct: masked tokens that were found.
    """

    tokens: int
    correct: int

    @property
    def targets(self) -> int:
        """Masked tokens."""
        return self.tokens

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the model is as unsure."""
        return math.exp(min(self.mean_loss, 700))

    def scores(self) -> dict[str, float]:
        return {"perplexity": self.perplexity}

    def to_json(self) -> dict[str, Any]:
        return {**self.summary(), "masked_tokens": self.tokens, "correct": self.correct}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        yield "perplexity", f"{self.perplexity:.4f}"
        yield "masked", f"{counted(self.tokens, 'token')}, {self.correct / max(self.tokens, 1):.1%} of them found"


class MaskedLMMetric(Metric):
    """Counts of masked tokens, and of those found."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, (2,))  # masked, found

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count (K, V) logits of (K,) tokens; some of these may be none, their label is -100."""
        self.counts[0] += torch.stack([(labels != IGNORED).sum(), (logits.argmax(dim=1) == labels).sum()])

    def compute(self, rows: int, loss: float) -> MaskedLMScores:
        return MaskedLMScores(rows, loss, *self.counts[0].tolist())
