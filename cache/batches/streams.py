"""Batches for your own training loop: all epochs as one resumable stream, or an epoch as a torch dataset."""

from collections.abc import Iterator
from typing import Any, Unpack

import torch
from torch.utils.data import Dataset

from ..common.arguments import checked
from ..errors import InputError, MismatchError
from ..plans.spec import PlanSpec
from ..reading.split_reader import SplitReader, expect_split
from .batch import Batch
from .batches import Batches
from .options import BatchOptions, resolve


class BatchStream:
    """The batches of some epochs, one after the other. Its position can be saved, and resumed from at no cost.

    Args:
        split: whose rows.
        epochs: how many.
        spec: the plan's settings, or a strategy; default: the plan the cache was built with.
        options: as for `Split.batches`, but for `start`.

    Raises:
        InputError: an option is unknown, of a wrong type or out of range.

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
        expect_split(split)
        epochs = checked({"epochs": epochs}, {"epochs": int})["epochs"]
        if epochs < 0:
            raise InputError(f"epochs is {epochs}, expected 0 or more")
        resolve(options, split.tokenizer.padding_side, without=("start",))
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
            InputError: it is no position in one.
        """
        mine = self.state_dict()
        for key in ("cache", "split", "plan"):
            if state.get(key) != mine[key]:
                raise MismatchError(
                    f"this is a position in a stream of {key} {state.get(key)!r}, not {mine[key]!r}; "
                    "load it into a stream over the same cache, split and plan"
                )
        position = checked({key: state.get(key) for key in ("epoch", "step")}, {"epoch": int, "step": int})
        self.epoch, self.step = position["epoch"], position["step"]


class StepDataset(Dataset[dict[str, torch.Tensor]]):
    """The steps of an epoch as a map-style dataset: item i is step i's batch, ready for a model.

    For `torch.utils.data.DataLoader(StepDataset(split), batch_size=None)`, with workers or without. accelerate, and
    with it the Hugging Face Trainer, skips and shares batches only in `DataLoader(StepDataset(split), batch_size=1,
    collate_fn=operator.itemgetter(0))`; it gives each process items of its own, so leave out `rank` and `world_size`
    there, or rows are passed over. `set_epoch` chooses the epoch; both call it.

    An item does not tell its loss weight, so all ranks get equally many rows: a trainer then takes the mean of their
    gradients. Where a batch does not divide evenly, rows count more on a rank that has fewer, and dummy batches count.

    Args:
        split: whose rows.
        spec: the plan's settings, or a strategy; default: the plan the cache was built with.
        options: as for `Split.batches`, but for `start` and `gradient_accumulation_steps`.

    Raises:
        InputError: an option is unknown, of a wrong type or out of range.
    """

    def __init__(self, split: SplitReader, spec: PlanSpec | str | None = None, **options: Unpack[BatchOptions]) -> None:
        expect_split(split)
        equal: BatchOptions = {"equal_rows": True, **options}
        resolve(equal, split.tokenizer.padding_side, without=("start", "gradient_accumulation_steps"))
        self.split, self.spec, self.options = split, spec, equal
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers may last for many epochs
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Take the plan of this epoch from now on."""
        self.batches = Batches(self.split, epoch, self.spec, **self.options)
        self._epoch.fill_(self.batches.epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        if (epoch := int(self._epoch)) != self.batches.epoch:
            self.set_epoch(epoch)
        (batch,) = self.batches.step(step)
        return batch.model_inputs()

    def __getitems__(self, steps: list[int]) -> list[dict[str, torch.Tensor]]:
        """The items that a DataLoader with a batch size asks for at once.

        Raises:
            InputError: there are several, and no batch can be made of batches.
        """
        if len(steps) > 1:
            raise InputError(
                f"a batch of {len(steps)} items is asked for, but an item of StepDataset is a whole batch; pass "
                "batch_size=None to the DataLoader, or batch_size=1, collate_fn=operator.itemgetter(0) under accelerate"
            )
        return [self[step] for step in steps]
