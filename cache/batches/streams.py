"""Batches for your own training loop: all epochs as one resumable stream, or an epoch as a torch dataset."""

from collections.abc import Iterator
from typing import Any, Unpack

import torch
from torch.utils.data import Dataset

from ..console.text import counted
from ..errors import InputError, MismatchError
from ..plans.spec import PlanSpec
from ..reading.split_reader import SplitReader, expect_split
from .batch import Batch, Batches
from .options import BatchOptions


class BatchStream:
    """The batches of some epochs, one after the other. Its position can be saved, and resumed from at no cost.

    Args:
        split: whose rows.
        epochs: how many.
        spec: the plan's settings, or a strategy; default: the plan the cache was built with.
        options: as for `Split.batches`, but for `start`.

    Example:
        stream = BatchStream(imdb["train"], epochs=3, device="cuda")
        for batch in stream:
            loss = model(**batch.model_inputs()).loss
            ...
            state = stream.state_dict()     # after this batch; save it with the model
    """

    def __init__(
        self, split: SplitReader, epochs: int, spec: PlanSpec | str | None = None, **options: Unpack[BatchOptions]
    ) -> None:
        if epochs < 0:
            raise InputError(f"epochs is {epochs}, expected 0 or more")
        expect_split(split)
        self.split, self.epochs, self.spec, self.options = split, epochs, split.chosen_spec(spec), options
        self.epoch = self.step = 0

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the current position to the end."""
        while self.epoch < self.epochs:
            epoch = self.epoch
            options: BatchOptions = {**self.options, "start": self.step}
            batches = Batches(self.split, epoch, self.spec, **options)
            for batch in batches:
                if batch.last:
                    ends = batch.step + 1 == len(batches.plan)
                    self.epoch, self.step = (epoch + 1, 0) if ends else (epoch, batch.step + 1)
                yield batch
            self.epoch, self.step = epoch + 1, 0  # also where an epoch has no steps

    def state_dict(self) -> dict[str, Any]:
        """The current position as plain values, for JSON or a checkpoint."""
        owner = {"cache": self.split.fingerprint, "split": self.split.name, "plan": self.spec.id}
        return {**owner, "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the position that `state_dict` gave.

        Raises:
            MismatchError: it is the state of another cache, split or plan.
        """
        mine = self.state_dict()
        for key in ("cache", "split", "plan"):
            if state.get(key) != mine[key]:
                raise MismatchError(
                    f"this is a position in a stream of {key} {state.get(key)!r}, not {mine[key]!r}; "
                    "load it into a stream over the same cache, split and plan"
                )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])


class StepDataset(Dataset[dict[str, torch.Tensor]]):
    """The steps of an epoch as a map-style dataset: item i is step i's batch, ready for a model.

    For `torch.utils.data.DataLoader(StepDataset(split), batch_size=None)`, with workers or without, and for trainers
    that want a DataLoader. `set_epoch` chooses the epoch; accelerate and the Hugging Face Trainer call it.

    An item does not tell its loss weight, so all ranks get equally many rows: a trainer then takes the mean of their
    gradients. Where a batch does not divide evenly, rows count more on a rank that has fewer, and dummy batches count.

    Args:
        split: whose rows.
        spec: the plan's settings, or a strategy; default: the plan the cache was built with.
        options: as for `Split.batches`, but for `start` and `gradient_accumulation_steps`.
    """

    def __init__(self, split: SplitReader, spec: PlanSpec | str | None = None, **options: Unpack[BatchOptions]) -> None:
        equal: BatchOptions = {"equal_rows": True, **options}
        self.split, self.spec, self.options = split, spec, equal
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Take the plan of this epoch from now on."""
        self.batches = Batches(self.split, epoch, self.spec, **self.options)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of an epoch of {counted(len(self), 'step')}")
        (batch,) = self.batches.step(step)
        return batch.model_inputs()
