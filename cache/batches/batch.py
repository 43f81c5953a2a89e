"""Padded batches as tensors, for training loops.

Shapes: B rows of this rank and micro-step, W columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch

from ..common.arguments import checked
from ..common.arrays import Array
from ..console.text import counted
from ..errors import InputError
from ..plans.spec import PlanSpec
from ..reading.split_reader import SplitReader, expect_split
from .feeds import choose_feed
from .micro_batches import MicroBatches, Sharing, micro_batches
from .options import BatchOptions, resolve
from .padded import PaddingOptions


@dataclass(slots=True, eq=False)
class Batch:
    """The rows of one optimizer step that this rank computes at one micro-step.

    Every rank has as many micro-batches as the others, or they would wait for each other's gradients forever. Where a
    step has too few rows for all ranks, some get a dummy batch: its tensors hold one row of another rank, but `rows` is
    empty and `len(batch)` is 0, so that `loss_weight` is 0.

    A packed batch holds its B rows end to end as one, T tokens in all: B is 1 and W is T in the shapes of tokens below,
    and `attention_mask` is None.

    Attributes:
        input_ids: (B, W) int64.
        attention_mask: (B, W) int64, 1 at tokens; None where every row is W long and no mask is needed.
        labels: by task (B,) int64 classes, (B,) float32 numbers, (B, C) float32, 1 at the classes a row has, or (B, W)
            int64 classes of tokens, -100 at those without one; None in a cache without labels.
        token_type_ids: (B, W) int64 in a cache of pairs, 1 at the second text and what closes it; None elsewhere.
        rows: (B,) row numbers in the split, ascending; (0,) in a dummy batch.
        step: number of the optimizer step in its epoch.
        step_rows: rows of that step over all ranks and micro-steps.
        targets: number of labels that a mean loss is over: B, or the tokens here that have a label, of which there may
            be none; 0 in a dummy batch.
        step_targets: the same of that step over all ranks and micro-steps.
        last: whether this is the step's last micro-step; the same on all ranks.
        real_tokens: tokens that are not padding; 0 in a dummy batch.
        position_ids: (1, T) int64, counted from 0 in each row of a packed batch; None in a padded one.
        cu_seq_lens: (B+1,) int32, row i of a packed batch is tokens cu_seq_lens[i] to cu_seq_lens[i+1]; None in a
            padded one.
        longest: tokens of the longest row of a packed batch; 0 in a padded one.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    rows: Array
    step: int
    step_rows: int
    targets: int
    step_targets: int
    last: bool
    real_tokens: int
    position_ids: torch.Tensor | None = None
    cu_seq_lens: torch.Tensor | None = None
    longest: int = 0

    def __len__(self) -> int:
        """Rows that count: B, or 0 in a dummy batch."""
        return len(self.rows)

    @property
    def loss_weight(self) -> float:
        """What to multiply a mean loss by, so that micro-batches and ranks add up to the mean over the step: targets /
        step_targets, which is B / step_rows for one label per row. 0 where nothing here has a label; the mean loss is
        then not a number.
        """
        return self.targets / max(self.step_targets, 1)

    @property
    def padded_tokens(self) -> int:
        """B x W, computed even in a dummy batch; T in a packed one."""
        return self.input_ids.numel()

    def model_inputs(self) -> dict[str, Any]:
        """Keyword arguments for a transformers model: input_ids, labels where the cache has them, attention_mask where
        one is needed, and token_type_ids in a cache of pairs. Of a packed batch also position_ids and what
        transformers' flash attention takes: cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k."""
        inputs = {
            "input_ids": self.input_ids,
            "labels": self.labels,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
            "position_ids": self.position_ids,
            "cu_seq_lens_q": self.cu_seq_lens,
            "cu_seq_lens_k": self.cu_seq_lens,
            "max_length_q": self.longest or None,
            "max_length_k": self.longest or None,
        }
        return {name: value for name, value in inputs.items() if value is not None}


class Batches:
    """The padded batches of one epoch, in the plan's order.

    `micro_batches` says which rows of a planned batch are this rank's at which micro-step; one that would leave every
    rank without rows is skipped.

    Args:
        split: whose rows.
        epoch: which epoch of the plan, from 0.
        spec: the plan's settings, or a strategy; default: the plan the cache was built with.
        options: see `BatchOptions`.

    Raises:
        InputError: an option is of a wrong type or out of range.
    """

    def __init__(
        self, split: SplitReader, epoch: int = 0, spec: PlanSpec | str | None = None, **options: Unpack[BatchOptions]
    ) -> None:
        expect_split(split)
        epoch = checked({"epoch": epoch}, {"epoch": int})["epoch"]
        chosen = resolve(options, split.tokenizer.padding_side)
        self.split = split
        self.spec = split.chosen_spec(spec)
        self.epoch, self.plan = epoch, split.plan(self.spec, epoch)
        self.start, self.feed, self.device = chosen["start"], chosen["feed"], torch.device(chosen["device"])
        if not 0 <= self.start <= len(self.plan):
            raise InputError(f"start is step {self.start}, but the epoch has {counted(len(self.plan), 'step')}")
        self.padding = PaddingOptions(chosen["always_mask"], chosen["padding_side"] == "left", chosen["packed"])
        self.sharing = Sharing(
            chosen["rank"],
            chosen["world_size"],
            chosen["gradient_accumulation_steps"],
            split.max_length,
            self.spec.strategy == "fixed",
            chosen["pad_to_multiple_of"],
            chosen["packed"],
            chosen["equal_rows"],
            chosen["attention_length"],
        )

    def __len__(self) -> int:
        """Optimizer steps from `start` to the end of the epoch."""
        return len(self.plan) - self.start

    def __iter__(self) -> Iterator[Batch]:
        self.split.check_unchanged()
        return self._batches(self.start, len(self.plan))

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of one step, from 0."""
        if not 0 <= step < len(self.plan):
            raise IndexError(f"step {step} of an epoch of {counted(len(self.plan), 'step')}")
        return list(self._batches(step, step + 1))

    def heaviest_step(self, end: int | None = None) -> tuple[int, int]:
        """Tokens, padding included, of the largest micro-batch of any rank in the steps from `start` to `end`, and the
        first step that has one as large; (0, 0) where there are no steps."""
        heaviest = (0, 0)
        first_rank = replace(self.sharing, rank=0)  # its parts are the costliest
        for chunk in self._chunks(self.start, len(self.plan) if end is None else end, first_rank):
            tokens = chunk.real_tokens if self.padding.packed else chunk.padded_tokens
            largest = int(tokens.argmax())
            heaviest = max(heaviest, (int(tokens[largest]), -int(chunk.steps[largest])))
        return heaviest[0], -heaviest[1]

    def _batches(self, begin: int, end: int) -> Iterator[Batch]:
        feed = choose_feed(self.feed, self.split, self.device, self.padding)
        for chunk, padded in feed(self._chunks(begin, end, self.sharing)):
            for facts, tensors in zip(chunk, padded, strict=True):
                yield Batch(**tensors._asdict(), **facts._asdict())

    def _chunks(self, begin: int, end: int, sharing: Sharing) -> Iterator[MicroBatches]:
        """The micro-batches some steps at a time: few at first, so that the first batch comes at once."""
        steps = 8
        while begin < end:
            stop = min(begin + steps, end)
            counts = self.split.label_counts
            chunk = micro_batches(self.plan, self.split.lengths, begin, stop, sharing, counts)
            if len(chunk):
                yield chunk
            begin, steps = stop, min(2 * steps, 256)
