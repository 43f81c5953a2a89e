"""Training on the same kind of batches, a worker each: `python -m benchmarks.training_peers PEER SETTINGS`.

A peer draws an epoch over all 25,000 reviews its own way, takes some batches evenly over their widths, and trains on
them from the same weights each time it is asked. SETTINGS is JSON: layers, steps, batch_size, precision, lr, device.

Every peer clips gradients at 1.0, uses the fused AdamW without weight decay, a linear schedule without warm-up.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import PlanSpec, Split, open_cache
from cache.plans.strategies import EpochPlan
from train.kernels.cpu_attention import use_cpu_kernels
from train.models.fit import CacheRequirements
from train.models.heads import quiet_transformers
from train.models.loading import load_model
from train.runtime.device import autocast, pick_precision, prepare

from .corpus import even_batches, imdb_cache, part_of, sample_cache, small_bert
from .runs import run_once
from .timing import WORK, Json, serve
from .trainer import trainer_arguments

SEED = 321
MICRO_BATCHES = 4
"""Of the Trainer's `batch_rebalance`, which only moves rows between micro-batches: with one it is random order."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What every peer is to do.

    Attributes:
        split: all the reviews.
        model: folder of the model to start from.
        steps: optimizer steps.
        batch_size: rows of each.
        precision: fp32 or bf16 (autocast).
        lr: peak learning rate.
        device: where to compute.
    """

    split: Split
    model: Path
    steps: int
    batch_size: int
    precision: str
    lr: float
    device: torch.device

    @classmethod
    def read(cls, settings: str) -> "Task":
        """From the command line."""
        given = json.loads(settings)
        device = torch.device(given["device"])
        precision = pick_precision(given["precision"], device)
        split = open_cache(imdb_cache())["train"]
        model = small_bert(given["layers"])
        return cls(split, model, given["steps"], given["batch_size"], precision, given["lr"], device)

    def classifier(self) -> Any:
        """The model as every run starts with it, on the CPU."""
        cache = open_cache(self.split.folder)
        return load_model(self.model, CacheRequirements(cache, self.split.max_length), SEED)

    @property
    def logging_steps(self) -> int:
        """Steps between two losses."""
        return max(1, self.steps // 8)


Run = Callable[[int], Json]
"""run(steps) trains once, over the first so many of the chosen batches; gives seconds, tokens and losses."""


def chosen(task: Task, plan: EpochPlan) -> EpochPlan:
    """Full batches drawn evenly over the widths of an epoch, in its order."""
    full = np.flatnonzero(plan.sizes == task.batch_size)
    return part_of(plan, full[even_batches(plan.widths[full], task.steps)])


# --- ours


def ours(task: Task, strategy: str, **options: Any) -> Run:
    """`train run` on a cache of just the chosen batches."""
    spec = PlanSpec(strategy, task.batch_size)
    name = "-".join([strategy, str(task.batch_size), str(task.steps), *options])
    place = sample_cache(task.split, chosen(task, task.split.draw(spec, 0)), spec, WORK / "training" / name)
    settings = {
        "cache": str(place),
        "model": str(task.model),
        "epochs": 1,
        "lr": task.lr,
        "strategy": strategy,
        "batch_size": task.batch_size,
        "precision": task.precision,
        "device": str(task.device),
        "eval_split": "none",
        "logging_steps": task.logging_steps,
        "seed": SEED,
        **options,
    }

    def run(steps: int) -> Json:
        found = run_once(WORK / "training" / f"run-{name}", max_steps=steps, **settings)
        return {**found, "losses": [loss for *_, loss in found["curve"]]}

    return run


# --- the Hugging Face Trainer


def trainer(task: Task, plan: EpochPlan, sampling: str = "sequential", micro_batches: int = 1) -> Run:
    """`transformers.Trainer` with `DataCollatorWithPadding`.

    Args:
        task: what to do.
        plan: the epoch that the rows are chosen from, batch by batch.
        sampling: the Trainer's way through the chosen rows; "sequential" keeps the batches of the plan.
        micro_batches: gradient accumulation steps that the rows of a batch are divided among.
    """
    if task.batch_size % micro_batches:
        raise SystemExit(f"--batch-size {task.batch_size} cannot be divided into {micro_batches} micro-batches")
    import datasets
    from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    part = chosen(task, plan)
    rows = [task.split[int(row)] for row in part.rows]
    columns = {"input_ids": [row.input_ids.tolist() for row in rows], "labels": [row.label for row in rows]}
    folder, size = WORK / "training" / "trainer", task.batch_size
    shared = trainer_arguments(folder, task.device, task.precision, task.lr, size, micro_batches, sampling)
    arguments = functools.partial(TrainingArguments, num_train_epochs=1, logging_steps=task.logging_steps, **shared)
    data = datasets.Dataset.from_dict(columns)
    pad = DataCollatorWithPadding(AutoTokenizer.from_pretrained(task.split.folder / "tokenizer"))
    tokens = dict.fromkeys(("real_tokens", "padded_tokens"), 0)

    def collate(features: list[Json]) -> Any:
        batch = pad(features)
        tokens["real_tokens"] += int(batch["attention_mask"].sum())
        tokens["padded_tokens"] += batch["input_ids"].numel()
        return batch

    class Clock(TrainerCallback):
        """Times the loop alone, without the Trainer's own preparations."""

        start = end = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            _synchronize(task.device)
            self.end = time.perf_counter()

    def run(steps: int) -> Json:
        clock = Clock()
        tokens.update(real_tokens=0, padded_tokens=0)
        loss = _mean_over_step if micro_batches > 1 else None
        loop = Trainer(
            task.classifier(), arguments(max_steps=steps), collate, data, callbacks=[clock], compute_loss_func=loss
        )
        loop.train()
        losses = [record["loss"] for record in loop.state.log_history if "loss" in record]
        return {"seconds": clock.end - clock.start, **tokens, "losses": losses}

    return run


def _mean_over_step(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """The mean over all rows of a step. BERT's own loss is that of a micro-batch, and the Trainer only adds them up."""
    return torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def random_plan(task: Task) -> EpochPlan:
    """An epoch of batches in random order."""
    return task.split.draw(PlanSpec("dynamic", task.batch_size), 0)


def grouped_plan(task: Task) -> EpochPlan:
    """An epoch of the Trainer's length-grouped sampler over all the reviews."""
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(0)
    lengths = task.split.lengths
    order = np.array(get_length_grouped_indices(lengths.tolist(), task.batch_size, generator=generator))
    offsets = np.append(np.arange(0, len(order), task.batch_size), len(order))
    return EpochPlan(order, offsets, np.maximum.reduceat(lengths[order], offsets[:-1]))


# --- plain loops


def plain(task: Task, strategy: str) -> Run:
    """The tutorial's loop: batches in memory as tensors, a mask in each, the loss read every step."""
    spec = PlanSpec(strategy, task.batch_size)
    part = chosen(task, task.split.draw(spec, 0))
    batches = list(_in_memory(task, part))

    def run(steps: int) -> Json:
        model = task.classifier().to(task.device)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / task.steps)
        losses = []
        start = time.perf_counter()
        for batch in batches[:steps]:
            ids, mask, labels = (tensor.to(task.device) for tensor in batch)
            with autocast(task.device, task.precision):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            losses.append(loss.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            model.zero_grad()
        _synchronize(task.device)
        return {"seconds": time.perf_counter() - start, **_tokens(task, part), "losses": losses}

    return run


def _in_memory(task: Task, plan: EpochPlan) -> Iterator[tuple[torch.Tensor, ...]]:
    for step, width in enumerate(plan.widths.tolist()):
        rows = [task.split[int(row)] for row in plan.rows[plan.batch_offsets[step] : plan.batch_offsets[step + 1]]]
        padded = [row.input_ids.tolist() + [0] * (width - len(row.input_ids)) for row in rows]
        masks = [[1] * len(row.input_ids) + [0] * (width - len(row.input_ids)) for row in rows]
        yield torch.tensor(padded), torch.tensor(masks), torch.tensor([row.label for row in rows])


def _tokens(task: Task, plan: EpochPlan) -> Json:
    real = int(task.split.lengths[plan.rows].sum(dtype=np.int64))
    return {"real_tokens": real, "padded_tokens": plan.padded_tokens}


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# --- what the loop itself costs


def parts(task: Task) -> Run:
    """Forward, backward and optimizer alone, over the batches of `ours(task, "tight")`, already in memory."""
    spec = PlanSpec("tight", task.batch_size)
    place = sample_cache(task.split, chosen(task, task.split.draw(spec, 0)), spec, WORK / "training" / "parts")
    batches = list(open_cache(place)["train"].batches(0, spec, device=task.device))
    inputs = [batch.model_inputs() for batch in batches]

    def run(steps: int) -> Json:
        torch.manual_seed(SEED)
        model = task.classifier().to(task.device)
        prepare(task.device)
        use_cpu_kernels(model, task.device)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr, weight_decay=0.0, fused=True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sums = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
        for batch in inputs[:steps]:
            marks = [time.perf_counter()]
            with autocast(task.device, task.precision):
                loss = model(**batch).loss
            _synchronize(task.device)
            marks.append(time.perf_counter())
            loss.backward()
            _synchronize(task.device)
            marks.append(time.perf_counter())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _synchronize(task.device)
            marks.append(time.perf_counter())
            for name, seconds in zip(sums, np.diff(marks), strict=True):
                sums[name] += float(seconds)
        real = sum(batch.real_tokens for batch in batches)
        padded = sum(batch.padded_tokens for batch in batches)
        return {"seconds": sum(sums.values()), **sums, "real_tokens": real, "padded_tokens": padded, "losses": []}

    return run


PEERS: dict[str, Callable[[Task], Run]] = {
    "ours": lambda task: ours(task, "tight"),
    "ours_smart": lambda task: ours(task, "smart"),
    "ours_free": lambda task: ours(task, "dynamic", padding_free=True),
    "ours_every_token": lambda task: ours(task, "tight", pooled_only=False),
    "ours_plain": lambda task: ours(task, "tight", pooled_only=False, cpu_kernels=False),
    "trainer_grouped": lambda task: trainer(task, grouped_plan(task)),
    "trainer_random": lambda task: trainer(task, random_plan(task)),
    "trainer_rebalanced": lambda task: trainer(task, random_plan(task), "batch_rebalance", MICRO_BATCHES),
    "tutorial": lambda task: plain(task, "smart"),
    "fixed": lambda task: plain(task, "fixed"),
    "parts": parts,
}


if __name__ == "__main__":
    with quiet_transformers():
        _task = Task.read(sys.argv[2])
        _run = PEERS[sys.argv[1]](_task)
    serve(_run, {"precision": _task.precision, "threads": torch.get_num_threads()})
