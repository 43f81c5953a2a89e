"""Padded batches as tensors: what a training loop, ours or the user's own, iterates over.

The only module of `cache` that imports torch.

Shapes: B rows of this rank and micro-step, W columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import InputError
from .padding import row_mask
from .plans import EpochPlan, Ints, PlanSpec

if TYPE_CHECKING:
    from .reader import Split


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer step that this rank computes at one micro-step.

    Attributes:
        input_ids: (B, W) int64.
        attention_mask: (B, W) int64, 1 at tokens; None where every row is W long and no mask is needed.
        labels: (B,) int64.
        rows: (B,) row numbers in the split, ascending.
        step: number of the optimizer step in its epoch.
        step_rows: rows of that step over all ranks and micro-steps: weigh a mean loss by B / step_rows.
        last: whether this is the step's last micro-step on this rank.
        real_tokens: tokens that are no padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor
    rows: Ints
    step: int
    step_rows: int
    last: bool
    real_tokens: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def padded_tokens(self) -> int:
        """B x W."""
        return self.input_ids.numel()

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments for a transformers model: input_ids, labels, and attention_mask where one is needed."""
        inputs = {"input_ids": self.input_ids, "labels": self.labels}
        if self.attention_mask is not None:
            inputs["attention_mask"] = self.attention_mask
        return inputs


class Batches:
    """The padded batches of one epoch, in the plan's order.

    With R ranks and A accumulation steps, rank r at micro-step a takes every (R*A)-th row of a planned batch from
    position a*R + r: all ranks get rows of almost the same lengths, and step k trains on the same rows for any R
    and A. A micro-step that would be left without rows is skipped.

    Args:
        split: whose rows.
        epoch: which epoch of the plan, from 0.
        spec: the plan's settings; default: the plan the cache was built with.
        device: where the tensors shall be.
        rank: this process's number, 0..world_size-1.
        world_size: R.
        accumulation: A.
        start: steps to skip at the beginning, at no cost.
        pad_to_multiple_of: round widths up, as far as the cache's max length.
        always_mask: give a mask even where no row needs one.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(
        self,
        split: "Split",
        epoch: int = 0,
        spec: PlanSpec | None = None,
        *,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        start: int = 0,
        pad_to_multiple_of: int = 1,
        always_mask: bool = False,
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} is not one of {world_size} ranks, 0..{world_size - 1}")
        for name, value in (("accumulation", accumulation), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value < 1:
                raise InputError(f"{name} is {value}, expected 1 or more")
        self.split = split
        self.spec = spec or split.default_spec()
        self.plan = split.plan(self.spec, epoch)
        if not 0 <= start <= len(self.plan):
            raise InputError(f"start is step {start}, but the epoch has {len(self.plan):,} steps")
        self.device = torch.device(device)
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self.start, self.multiple, self.always_mask = start, pad_to_multiple_of, always_mask
        self.max_length = split.cache.manifest.max_length

    def __len__(self) -> int:
        """Optimizer steps from `start` to the end of the epoch."""
        return len(self.plan) - self.start

    def __iter__(self) -> Iterator[Batch]:
        self.split.check_unchanged()
        for step in range(self.start, len(self.plan)):
            yield from self.step(step)

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of one step."""
        begin, end = (int(offset) for offset in self.plan.batch_offsets[step : step + 2])
        planned = self.plan.rows[begin:end].astype(np.int64)
        stride = self.world_size * self.accumulation
        parts = [planned[micro * self.world_size + self.rank :: stride] for micro in range(self.accumulation)]
        parts = [rows for rows in parts if len(rows)]
        return [self._batch(rows, step, len(planned), rows is parts[-1]) for rows in parts]

    def _batch(self, rows: Ints, step: int, step_rows: int, last: bool) -> Batch:
        lengths = self.split.lengths[rows]
        width = self.max_length if self.spec.strategy == "fixed" else int(lengths[-1])
        width = max(width, min(-(-width // self.multiple) * self.multiple, self.max_length))
        ids, labels = self.split.padded(rows, lengths, width)
        mask = None
        if self.always_mask or int(lengths[0]) < width:
            left = self.split.cache.manifest.tokenizer.padding_side == "left"
            mask = self._tensor(row_mask(lengths, width, left))
        return Batch(
            input_ids=self._tensor(ids),
            attention_mask=mask,
            labels=self._tensor(labels),
            rows=rows,
            step=step,
            step_rows=step_rows,
            last=last,
            real_tokens=int(lengths.sum()),
        )

    def _tensor(self, values: Ints) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.device, non_blocking=True)


def heaviest_step(plan: EpochPlan) -> int:
    """The step with the most padded tokens: the one to try first for memory."""
    return int(np.argmax(plan.sizes * plan.widths.astype(np.int64)))
