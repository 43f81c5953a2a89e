"""What people use today, measured the same way: the Hugging Face Trainer; batches alone, ours beside a DataLoader's."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from cache import PlanSpec, open_cache
from train.runtime.device import peak_memory_bytes

from ..timing import WORK, Json
from ..trainer import trainer_arguments
from .common import SEED, WINDOWS, Place, Window, rates


def measure_trainer(place: Place, model: str, sampling: str, batch_size: int, precision: str, **options: Any) -> Json:
    """`transformers.Trainer` with its own sampler, pinned memory and worker processes."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    steps, accumulation = place.window(batch_size), options.get("gradient_accumulation_steps", 1)
    windows: list[Window] = []

    class Counting(Trainer):
        """Counts tokens on the device, without waiting for it."""

        real: Any = 0
        padded = rows = 0

        def training_step(self, model: Any, inputs: Any, *more: Any, **given: Any) -> torch.Tensor:
            mask = inputs["attention_mask"]
            self.real, self.padded = self.real + mask.sum(), self.padded + mask.numel()
            self.rows += len(mask)
            return super().training_step(model, inputs, *more, **given)

    class Clock(TrainerCallback):
        """Closes a window every so many steps."""

        start = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step % steps == 0:
                place.synchronize()
                windows.append(Window(time.perf_counter() - self.start, loop.rows, int(loop.real), loop.padded))
                loop.real = loop.padded = loop.rows = 0
                self.start = time.perf_counter()

    shared = trainer_arguments(WORK / "gpu-trainer", place.device, precision, 1e-4, batch_size, accumulation, sampling)
    arguments = TrainingArguments(
        max_steps=WINDOWS * steps,
        torch_compile=options.get("compile", False),
        dataloader_num_workers=place.workers(),
        logging_strategy="no",
        seed=SEED,
        **shared,
    )
    if place.device.type != "cpu":
        torch.set_float32_matmul_precision("high")  # as `train run` does
        torch.get_device_module(place.device).reset_peak_memory_stats(place.device)
    loop = Counting(place.model(model), arguments, place.collate(), place.rows(), callbacks=[Clock()])
    loop.train()
    return {**rates(windows, place.epoch_tokens()), "peak_memory_bytes": peak_memory_bytes(place.device)}


def measure_feed(place: Place, feed: str, batch_size: int, packed: bool = False) -> Json:
    """An epoch's batches on the device, with nothing computed on them; the first epoch warms up."""
    split = open_cache(place.cache)["train"]
    spec = PlanSpec("dynamic" if packed else "smart", batch_size)
    loader = _loader(place, batch_size) if feed == "loader" else None
    begin, tokens, batches, epoch, enough = 0.0, 0, 0, 0, 0.01 if place.quick else 0.5
    while epoch < 2 or time.perf_counter() - begin < enough:
        if epoch == 1:
            begin, tokens, batches = time.perf_counter(), 0, 0
        options: Any = {"device": place.device, "feed": feed, "packed": packed}
        for real in (
            _loaded(place, loader) if loader else (b.real_tokens for b in split.batches(epoch, spec, **options))
        ):
            tokens, batches = tokens + real, batches + 1
        place.synchronize()
        epoch += 1
    seconds = time.perf_counter() - begin
    return {"tokens_per_second": tokens / seconds, "us_per_batch": seconds / batches * 1e6}


def _loader(place: Place, batch_size: int) -> "DataLoader[Any]":
    workers = place.workers()
    pinned, lasting = place.device.type != "cpu", workers > 0
    options: Any = {"num_workers": workers, "pin_memory": pinned, "persistent_workers": lasting}
    return DataLoader(place.rows(), batch_size, shuffle=True, collate_fn=place.collate(), **options)


def _loaded(place: Place, loader: "DataLoader[Any]") -> Iterator[int]:
    """A DataLoader's batches, copied to the device as the Trainer copies them; their real tokens."""
    for batch in loader:
        for tensor in batch.values():
            tensor.to(place.device, non_blocking=True)
        yield int(batch["attention_mask"].sum())
