"""The progress of a run and its running sums: what a checkpoint holds besides weights, optimizer and random state.

Shapes: () a number.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from cache import Batch
from cache.format.files import FileInfo

from ..run_folder.folder import RunInfo
from ..runtime.distributed import ALONE, Ranks
from .setup import TrainingSetup


@dataclass(frozen=True)
class Sums:
    """Sums over several steps.

    Attributes:
        loss: summed over rows, labelled tokens or masked tokens; of steps that were not skipped.
        weight: the number of these.
        rows: of all steps.
        skipped_steps, real_tokens, padded_tokens: of all steps.
    """

    loss: float = 0.0
    weight: float = 0.0
    rows: int = 0
    skipped_steps: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0

    @property
    def mean_loss(self) -> float | None:
        """Loss per row, labelled token or masked token; None where there was none, or every step was skipped."""
        return self.loss / self.weight if self.weight else None

    def __add__(self, other: "Sums") -> "Sums":
        mine, theirs = asdict(self), asdict(other)
        return Sums(**{name: mine[name] + theirs[name] for name in mine})

    def __sub__(self, other: "Sums") -> "Sums":
        return self + Sums(**{name: -value for name, value in asdict(other).items()})


class Meter:
    """Sums since the last log point, kept on the device: adding does not synchronize, `read` does.

    Args:
        device: of the losses.
        start: what the sums begin with, over all ranks: those of the process before, where a run is resumed between
            two log points.
        ranks: that share the run.
    """

    def __init__(self, device: torch.device, start: Sums | None = None, ranks: Ranks = ALONE) -> None:
        self.start = start = start or Sums()
        self.device, self.ranks = device, ranks
        counts = (start.rows, start.real_tokens, start.padded_tokens) if ranks.first else (0, 0, 0)
        self.rows, self.real_tokens, self.padded_tokens = counts  # of this rank
        self.loss = torch.full((), start.loss, device=device)
        self.weight = torch.full((), start.weight, device=device)
        self.skipped_steps = torch.full((), float(start.skipped_steps), device=device)
        self.norm = torch.zeros((), device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.step_loss = torch.zeros((), device=device)
        self.step_weight: torch.Tensor | int = 0
        self.step_rows = self.micro_steps = 0

    def add(self, batch: Batch, loss: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Count a micro-batch and its loss (), summed over its targets, or over () `weight` masked tokens."""
        self.step_loss = loss if self.micro_steps == 0 else self.step_loss + loss
        self.step_weight = self.step_weight + (batch.targets if weight is None else weight)
        self.step_rows += len(batch)
        self.micro_steps += 1
        self.real_tokens += batch.real_tokens
        self.padded_tokens += batch.padded_tokens

    def sum_step(self) -> None:
        """Sum the step's loss and weight over all ranks, which then skip the same updates; on the device."""
        if self.ranks.several:
            weight = self.step_weight
            if not isinstance(weight, torch.Tensor):
                weight = torch.full((), float(weight), device=self.device)
            self.step_loss, self.step_weight = self.ranks.sum_(torch.stack([self.step_loss.float(), weight.float()]))

    def close_step(self, step: int, norm: torch.Tensor, overflow: torch.Tensor | None = None) -> torch.Tensor:
        """Count a step; returns () float32, 1 where its loss or its gradients' norm is not finite.

        In fp16 () `overflow` says whether the norm is so for the loss scale alone: the step is skipped, but not bad.
        """
        finite = torch.isfinite(self.step_loss + (norm if overflow is None else torch.where(overflow, 0.0, norm)))
        bad = torch.where(finite, 0.0, 1.0)
        self.loss += torch.where(finite, self.step_loss, 0.0)
        self.weight += (1 - bad) * self.step_weight
        self.skipped_steps += bad if overflow is None else torch.maximum(bad, overflow.float())
        self.bad_step = torch.where(finite | (self.bad_step >= 0), self.bad_step, step)
        self.norm = norm
        self.rows += self.step_rows
        self.step_rows = self.step_weight = self.micro_steps = 0
        return bad

    def read(self) -> tuple[Sums, float, int]:
        """The sums, the last step's gradient norm, and the first bad step or -1. A CPU-GPU sync point, of all ranks."""
        loss, weight, skipped, norm = torch.stack([self.loss, self.weight, self.skipped_steps, self.norm]).tolist()
        rows, real_tokens, padded_tokens = self.ranks.totals(self.rows, self.real_tokens, self.padded_tokens)
        sums = Sums(loss, weight, rows, int(skipped), real_tokens, padded_tokens)
        return sums, norm, int(self.bad_step)


@dataclass
class State:
    """The progress of a run.

    Attributes:
        epoch: epochs finished, including their evaluation.
        epoch_step: steps done of the current epoch.
        step: steps done of the run.
        meter: sums since the last log point.
        epoch_sums: sums of the current epoch, up to the last log point.
        skipped: updates skipped in the whole run, up to the last log point.
        epoch_seconds: training time of the current epoch, seconds.
        seconds: time of the whole run, seconds.
        scores: of the last evaluation, as `Scores.to_json` gives them.
        evaluated_step: of the last evaluation within an epoch.
        best: with `keep_best` the best evaluation so far: its epoch, from 1, as "epoch", its "step", the "value" of the
            score and all "scores"; None before there is one.
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
    evaluated_step: int = 0
    best: dict[str, Any] | None = None

    def is_finished(self, epochs: int, patience: int | None) -> bool:
        """Whether all epochs are done, or the last `patience` ones had no new best evaluation."""
        since_best = self.epoch - (self.best["epoch"] if self.best else 0)
        return self.epoch >= epochs or (patience is not None and since_best >= patience)


@dataclass(frozen=True)
class ResumePoint:
    """Where training starts: at the beginning of a run, or at a checkpoint.

    Attributes:
        setup: what is trained.
        info: content of settings.json.
        state: the progress of the run.
        kept: size and checksum of what is kept of each record file; empty at the beginning.
    """

    setup: TrainingSetup
    info: RunInfo
    state: State
    kept: Mapping[str, FileInfo]
