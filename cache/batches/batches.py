"""The padded batches of an epoch, for training loops."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Unpack

import torch

from ..common.arguments import checked
from ..console.text import counted
from ..errors import InputError
from ..plans.spec import PlanSpec
from ..reading.split_reader import SplitReader, expect_split
from .batch import Batch
from .feeds import choose_feed
from .micro_batches import MicroBatches, Sharing, micro_batches
from .options import BatchOptions, PaddingOptions, resolve


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
            split.max_length,
            chosen["rank"],
            chosen["world_size"],
            chosen["gradient_accumulation_steps"],
            fixed=self.spec.strategy == "fixed",
            multiple=chosen["pad_to_multiple_of"],
            packed=chosen["packed"],
            equal_rows=chosen["equal_rows"],
            attention_length=chosen["attention_length"],
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
        return feed(self._chunks(begin, end, self.sharing))

    def _chunks(self, begin: int, end: int, sharing: Sharing) -> Iterator[MicroBatches]:
        """The micro-batches some steps at a time: few at first, so that the first batch comes at once."""
        steps = 8
        while begin < end:
            stop = min(begin + steps, end)
            yield micro_batches(self.plan, self.split.lengths, begin, stop, sharing, self.split.label_counts)
            begin, steps = stop, min(2 * steps, 256)
