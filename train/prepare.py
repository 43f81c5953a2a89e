"""From settings to a job: what is left to be found out, the split, the plan, what the model must fit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from cache import Cache, Split
from cache.errors import InputError
from cache.format.tasks import MLM
from cache.plans.spec import PlanSpec

from . import device as devices
from .loop import Job, make_optimizer
from .models.cpu_attention import use_cpu_kernels
from .models.loading import Needs
from .models.masked_lm import PROBABILITY, Masking, masked_forward
from .models.pooled import use_pooled_only
from .run_folder.records import Json, RunInfo
from .settings import AUTO, FREE_ON_RESUME, NO_SPLIT, OFF, Settings
from .trial import epoch_steps


def training_split(cache: Cache) -> Split:
    """The split to train on.

    Raises:
        InputError: there is none, or it has no rows.
    """
    split = cache["train"]
    if not len(split):
        raise InputError(f"{cache.folder}: its split 'train' has no rows, so there is nothing to train on")
    return split


def resolve(settings: Settings, cache: Cache, split: Split) -> tuple[Settings, torch.device]:
    """The settings with nothing left to be found out, so that they give the same run anywhere."""
    device = devices.pick_device(settings.device)
    spec = settings.plan_spec(split.default_spec())
    eval_split = settings.eval_split
    if eval_split is None:
        eval_split = "test" if "test" in cache and len(cache["test"]) else NO_SPLIT
    elif eval_split != NO_SPLIT and not len(cache[eval_split]):
        raise InputError(f"--eval-split {eval_split}: it has no rows; pass another one, or --eval-split {NO_SPLIT}")
    multiple = settings.pad_to_multiple_of or (8 if device.type == "cuda" else 1)
    task = task_kind(settings, cache)
    resolved = replace(
        settings.with_plan(spec),
        task=task,
        mlm_probability=(settings.mlm_probability or PROBABILITY) if task == MLM else None,
        cache=str(cache.folder.resolve()),
        model=absolute(settings.model or cache.manifest.tokenizer.name),
        device=str(device),
        precision=devices.pick_precision(settings.precision, device),
        pad_to_multiple_of=multiple,
        eval_split=eval_split,
        tensorboard=_place(settings.tensorboard),
    )
    return resolved, device


def task_kind(settings: Settings, cache: Cache) -> str:
    """The kind of task to train for.

    Raises:
        InputError: the cache does not serve what was asked for.
    """
    own = cache.manifest.task
    kind = settings.task or own.kind
    if kind not in (own.kind, MLM):
        reason = f"is for {own.kind}" if own.labelled else "holds no labels, for it was built with --task mlm"
        raise InputError(
            f"--task {kind}: the cache {cache.folder} {reason}; build one for it, under another name: "
            f"prep build SOURCE --task {kind} --name OTHER"
        )
    if settings.mlm_probability is not None and kind != MLM:
        raise InputError(f"--mlm-probability is for --task mlm, but this run is for {kind}; leave it out")
    return kind


def _place(folder: str | None) -> str | None:
    """A folder's whole path, so that a run that goes on finds it from anywhere."""
    return folder if folder in (None, AUTO, OFF) else str(Path(folder).expanduser().resolve())


def absolute(model: str) -> str:
    """A model's name, but a folder's whole path, so that it is found from anywhere."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _spec(settings: Settings) -> PlanSpec:
    return PlanSpec(str(settings.strategy), settings.batch_size, settings.max_tokens, settings.plan_seed or 0)


def needs_of(cache: Cache, split: Split, settings: Settings) -> Needs:
    """What the rows to train on and to evaluate ask of a model."""
    others = [] if settings.eval_split in (None, NO_SPLIT) else [cache[str(settings.eval_split)]]
    width = max(part.info.longest for part in [split, *others])
    multiple = settings.pad_to_multiple_of or 1
    width = max(width, min(-(-width // multiple) * multiple, cache.manifest.max_length))
    if settings.strategy == "fixed":
        width = cache.manifest.max_length
    return Needs(cache.manifest, cache.folder, width, settings.task)


def make_job(model: PreTrainedModel, split: Split, settings: Settings, device: torch.device) -> Job:
    """The job of resolved settings: the plan stored beside the rows where that can be, model and optimizer in place."""
    devices.prepare(device)
    spec = _spec(settings)
    split.try_keep_plan(spec, settings.epochs)
    model = model.to(device)  # type: ignore[arg-type]  # transformers types `to` as for half-loaded models
    torchs = "--no-cpu-kernels"
    if settings.cpu_kernels:
        torchs = "--compile" if settings.compile else use_cpu_kernels(model, device)
    forward: Callable[..., Any] = model
    masking = None
    if settings.task == MLM:
        masking = Masking.of(split.cache, device, settings.seed, settings.mlm_probability or PROBABILITY)
        forward, stock = masked_forward(model)
    else:
        stock = use_pooled_only(model) if settings.pooled_only else "--no-pooled-only"
    if settings.compile:
        forward = torch.compile(forward)
    optimizer = make_optimizer(model, settings)
    steps = epoch_steps(split, spec, settings)
    return Job(model, forward, optimizer, split, spec, settings, device, steps, stock, torchs, masking)


def describe(job: Job, cache: Cache, digest: str) -> RunInfo:
    """What settings.json shall say; `digest` is the base model's."""
    return RunInfo(
        settings=job.settings,
        cache_name=cache.manifest.name,
        cache_fingerprint=cache.manifest.fingerprint,
        model_digest=digest,
        max_length=cache.manifest.max_length,
        total_steps=job.total_steps,
        metric="" if job.masking else str(cache.manifest.source.get("metric", "")),
        environment={
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": _device_name(job.device),
            "threads": torch.get_num_threads(),
        },
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    module = torch.get_device_module(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else device.type.upper()


def owner_of(info: RunInfo) -> Json:
    """What a checkpoint belongs to: all that determines the run's numbers."""
    settings = {name: value for name, value in info.settings.to_json().items() if name not in FREE_ON_RESUME}
    return {"cache": info.cache_fingerprint, "base_model": info.model_digest, "settings": settings}
