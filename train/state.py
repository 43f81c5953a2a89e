"""Where a run stands, and the sums it keeps: what a checkpoint holds beside weights, optimizer and random state.

Shapes: () a number.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from cache.batches import Batch


@dataclass(frozen=True)
class Sums:
    """Sums over some steps; `loss` is summed over targets, rows or labelled tokens, without the skipped ones."""

    loss: float = 0.0
    rows: int = 0
    targets: int = 0
    skipped_targets: int = 0
    skipped_steps: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0

    @property
    def mean_loss(self) -> float | None:
        """Loss per target; None where there was none that was not skipped."""
        targets = self.targets - self.skipped_targets
        return self.loss / targets if targets else None

    def __add__(self, other: "Sums") -> "Sums":
        mine, theirs = asdict(self), asdict(other)
        return Sums(**{name: mine[name] + theirs[name] for name in mine})


class Meter:
    """Sums since the last log point, on the device: adding costs no synchronization, `read` is the sync point."""

    def __init__(self, device: torch.device, start: Sums | None = None) -> None:
        start = start or Sums()
        self.rows, self.targets = start.rows, start.targets
        self.real_tokens, self.padded_tokens = start.real_tokens, start.padded_tokens
        self.loss = torch.full((), start.loss, device=device)
        self.skipped_targets = torch.full((), float(start.skipped_targets), device=device)
        self.skipped_steps = torch.full((), float(start.skipped_steps), device=device)
        self.norm = torch.zeros((), device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.step_loss = torch.zeros((), device=device)
        self.step_rows = self.step_targets = 0

    def add(self, batch: Batch, loss: torch.Tensor) -> None:
        """Count a micro-batch and its loss (), summed over its targets."""
        self.step_loss = loss if self.step_rows == 0 else self.step_loss + loss
        self.step_rows += len(batch)
        self.step_targets += batch.targets
        self.real_tokens += batch.real_tokens
        self.padded_tokens += batch.padded_tokens

    def close_step(self, step: int, norm: torch.Tensor) -> torch.Tensor:
        """Count a step; returns () float32, 1 where its loss or its gradients' norm is not finite."""
        fine = torch.isfinite(self.step_loss + norm)
        bad = torch.where(fine, 0.0, 1.0)
        self.loss += torch.where(fine, self.step_loss, 0.0)
        self.skipped_targets.add_(bad, alpha=self.step_targets)
        self.skipped_steps += bad
        self.bad_step = torch.where(fine | (self.bad_step >= 0), self.bad_step, step)
        self.norm = norm
        self.rows += self.step_rows
        self.targets += self.step_targets
        self.step_rows = self.step_targets = 0
        return bad

    def read(self) -> tuple[Sums, float, int]:
        """The sums, the last step's gradient norm, and the first bad step or -1. A CPU-GPU sync point."""
        numbers = torch.stack([self.loss, self.skipped_targets, self.skipped_steps, self.norm]).tolist()
        loss, skipped, skipped_steps, norm = numbers
        counts = (self.targets, int(skipped), int(skipped_steps), self.real_tokens, self.padded_tokens)
        sums = Sums(loss, self.rows, *counts)
        return sums, norm, int(self.bad_step)


@dataclass
class State:
    """Where a run stands: what a checkpoint holds beside weights, optimizer and random state.

    Attributes:
        epoch: epochs finished, evaluation included.
        epoch_step: steps done of the epoch under way.
        step: steps done of the run.
        meter: sums since the last log point.
        epoch_sums: sums of the epoch under way, up to the last log point.
        skipped: updates left out in the whole run, up to the last log point.
        epoch_seconds: training time of the epoch under way.
        seconds: time of the whole run.
        scores: of the last evaluation, as `Scores.to_json` gives them.
    """

    meter: Meter
    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    epoch_sums: Sums = field(default_factory=Sums)
    skipped: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    scores: dict[str, Any] | None = None
