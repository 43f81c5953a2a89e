"""Padded batches as tensors: what a training loop, ours or the user's own, iterates over.

The only module of `cache` that imports torch.

Shapes: B rows of this rank and micro-step, W columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..common.arrays import Array
from ..errors import InputError
from ..plans.spec import PlanSpec
from ..plans.strategies import EpochPlan
from .feeds import FEEDS, Look, choose_feed
from .micro_batches import Layout, MicroBatches, micro_batches

if TYPE_CHECKING:
    from ..reading.opening import Split


@dataclass(slots=True, eq=False)
class Batch:
    """The rows of one optimizer step that this rank computes at one micro-step.

    Every rank has as many micro-batches as the others, or they would wait for each other's gradients for ever. Where a
    step has too few rows for all ranks, some get a filler: its tensors hold one row of another rank, but `rows` is
    empty and `len(batch)` is 0, so that a loss weighed by `share` counts for nothing.

    Attributes:
        input_ids: (B, W) int64.
        attention_mask: (B, W) int64, 1 at tokens; None where every row is W long and no mask is needed.
        labels: by task (B,) int64 classes, (B,) float32 numbers, (B, C) float32, 1 at the classes a row has, or (B, W)
            int64 classes of tokens, -100 at those without one; None in a cache without labels.
        token_type_ids: (B, W) int64 in a cache of pairs, 1 at the second text and what closes it; None elsewhere.
        rows: (B,) row numbers in the split, ascending; (0,) in a filler.
        step: number of the optimizer step in its epoch.
        step_rows: rows of that step over all ranks and micro-steps.
        targets: labels that a mean loss is over: B, or the tokens here that have one, of which there may be none; in a
            filler 0.
        step_targets: the same of that step over all ranks and micro-steps.
        last: whether this is the step's last micro-step; the same on all ranks.
        real_tokens: tokens that are no padding; 0 in a filler.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None
    rows: Array
    step: int
    step_rows: int
    targets: int
    step_targets: int
    last: bool
    real_tokens: int
    token_type_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        """Rows that count: B, or 0 in a filler."""
        return len(self.rows)

    @property
    def share(self) -> float:
        """What to weigh a mean loss by, so that micro-batches and ranks add up to the mean over the step: targets /
        step_targets, for one label a row B / step_rows. 0 where nothing here has a label; the loss is then no number.
        """
        return self.targets / max(self.step_targets, 1)

    @property
    def padded_tokens(self) -> int:
        """B x W, computed even in a filler."""
        return self.input_ids.numel()

    def model_inputs(self) -> dict[str, torch.Tensor]:
        """Keyword arguments for a transformers model: input_ids, labels where the cache has them, attention_mask where
        one is needed, and token_type_ids in a cache of pairs."""
        inputs = {
            "input_ids": self.input_ids,
            "labels": self.labels,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        return {name: tensor for name, tensor in inputs.items() if tensor is not None}


class Batches:
    """The padded batches of one epoch, in the plan's order.

    `micro_batches` says which rows of a planned batch are this rank's at which micro-step; one that would leave every
    rank without rows is skipped.

    Args:
        split: whose rows.
        epoch: which epoch of the plan, from 0.
        spec: the plan's settings; default: the plan the cache was built with.
        device: where the tensors shall be.
        rank: this process's number, 0..world_size-1.
        world_size: number of processes that share each batch.
        accumulation: micro-batches a batch is computed in.
        start: steps to skip at the beginning, at no cost.
        pad_to_multiple_of: round widths up, as far as the cache's max length.
        always_mask: give a mask even where no row needs one.
        padding_side: "right" or "left"; default: what the tokenizer asks for. A model that reads the first token, as
            BERT does, or numbers positions from the left needs "right".
        feed: how tokens get to the device, one of `cache.batches.feeds.FEEDS`; all give the same tensors.

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
        padding_side: str | None = None,
        feed: str = "auto",
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} is not one of {world_size} ranks, 0..{world_size - 1}")
        for name, value in (("accumulation", accumulation), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value < 1:
                raise InputError(f"{name} is {value}, expected 1 or more")
        if feed not in FEEDS:
            raise InputError(f"feed {feed!r} is none of {', '.join(FEEDS)}")
        side = padding_side or split.cache.manifest.tokenizer.padding_side
        if side not in ("right", "left"):
            raise InputError(f"padding_side {side!r} is neither right nor left")
        self.split = split
        self.spec = spec or split.default_spec()
        self.plan = split.plan(self.spec, epoch)
        if not 0 <= start <= len(self.plan):
            raise InputError(f"start is step {start}, but the epoch has {len(self.plan):,} steps")
        self.start, self.feed = start, feed
        self.look = Look(always_mask, side == "left")
        self.device = torch.device(device)
        max_length = split.cache.manifest.max_length
        fixed = self.spec.strategy == "fixed"
        self.layout = Layout(rank, world_size, accumulation, max_length, fixed, pad_to_multiple_of)

    def __len__(self) -> int:
        """Optimizer steps from `start` to the end of the epoch."""
        return len(self.plan) - self.start

    def __iter__(self) -> Iterator[Batch]:
        self.split.check_unchanged()
        return self._batches(self.start, len(self.plan))

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of one step."""
        return list(self._batches(step, step + 1))

    def _batches(self, begin: int, end: int) -> Iterator[Batch]:
        feed = choose_feed(self.feed, self.split, self.device, self.look)
        for stretch, padded in feed(self._stretches(begin, end)):
            facts = zip(
                _counted(stretch),
                stretch.steps.tolist(),
                stretch.step_rows.tolist(),
                stretch.targets.tolist(),
                stretch.step_targets.tolist(),
                stretch.last.tolist(),
                stretch.real_tokens.tolist(),
                strict=True,
            )
            for (rows, *known), (ids, mask, labels, types) in zip(facts, padded, strict=True):
                step, step_rows, targets, step_targets, last, real_tokens = known
                yield Batch(ids, mask, labels, rows, step, step_rows, targets, step_targets, last, real_tokens, types)

    def _stretches(self, begin: int, end: int) -> Iterator[MicroBatches]:
        """The micro-batches some steps at a time: few at first, so that the first batch comes at once."""
        steps = 8
        while begin < end:
            stop = min(begin + steps, end)
            counts = self.split.label_counts
            stretch = micro_batches(self.plan, self.split.lengths, begin, stop, self.layout, counts)
            if len(stretch):
                yield stretch
            begin, steps = stop, min(2 * steps, 256)


def _counted(stretch: MicroBatches) -> Iterator[Array]:
    """The rows of each micro-batch, none of a filler."""
    for (first, stop), filler in zip(pairwise(stretch.offsets.tolist()), stretch.filler.tolist(), strict=True):
        yield stretch.rows[first : first if filler else stop]


def heaviest_step(plan: EpochPlan) -> int:
    """The step with the most padded tokens: the one to try first for memory."""
    return int(np.argmax(plan.sizes * plan.widths.astype(np.int64)))
