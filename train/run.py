"""A run from its settings to its folder: prepare, train, export; or take up where it was left.

Everything that can be refused is refused before the run folder is made.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from cache.errors import InputError, MismatchError, StorageError
from cache.names import local_folder
from cache.plans import PlanSpec
from cache.reader import Cache, Split, open_cache
from cache.writer import publish, staging, storage_errors

from . import device as devices
from .checkpoint import clean, load_checkpoint, newest
from .config import FREE_ON_RESUME, NO_SPLIT, Settings, contradictions
from .loop import Job, make_optimizer, train
from .model import (
    Needs,
    fresh_model,
    label_names,
    load_model,
    model_digest,
    model_folder,
    quiet_transformers,
    read_config,
)
from .progress import Screen
from .records import (
    CHECKPOINTS,
    MODEL,
    SETTINGS,
    SUMMARY,
    Json,
    RunInfo,
    check_out,
    clock,
    lock_run,
    make_run_folder,
    read_run,
    write_json,
)
from .signals import Stopped, StopRequest
from .state import Meter, State
from .trial import epoch_steps, try_heaviest
from .watch import Watch

CARD = "lengthwise.json"
"""Beside the model: what `train predict` and `train eval` should know of it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Start:
    """What a run begins or goes on with."""

    job: Job
    info: RunInfo
    state: State
    sizes: dict[str, int]


def start_run(settings: Settings, say: Say, warn: Say, quiet: bool = False) -> Path:
    """Train as `settings` say, in a new run folder.

    Args:
        settings: what to do.
        say: prints a line of the report.
        warn: prints a line that matters even where the report is not wanted.
        quiet: show no progress and no report.

    Returns:
        The run folder.

    Raises:
        LengthwiseError: something does not fit; before the first step, nothing is left behind.
        Stopped: by a signal; a checkpoint was written.
    """
    with StopRequest(warn) as stop:
        if settings.out is not None:
            check_out(settings.out)
        cache = open_cache(settings.cache)
        split = _training_split(cache)
        resolved, device = _resolve(settings, cache, split)
        folder = model_folder(str(resolved.model))
        model = load_model(folder, _needs(cache, split, resolved), resolved.seed)
        job = _job(model, split, resolved, device)
        start = Start(job, _info(job, cache, model_digest(folder)), State(Meter(device)), {})
        _announce(start, folder, say, quiet)
        torch.manual_seed(resolved.seed)
        stop.gentle = True
        place = _begin_folder(start.info)
        lock = lock_run(place)
        try:
            return _go(place, start, say, quiet, stop)
        finally:
            os.close(lock)


def resume_run(folder: Path, given: Mapping[str, Any], say: Say, warn: Say, quiet: bool = False) -> Path:
    """Go on with an interrupted run exactly where its newest checkpoint stands.

    Args:
        folder: the run folder.
        given: settings named on the command line; those that would change the result must equal the run's.
        say, warn, quiet: as for `start_run`.

    Raises:
        MismatchError: settings, cache or model are not those of the run.
        LengthwiseError, Stopped: as for `start_run`.
    """
    info = read_run(folder)
    _refuse(folder, contradictions(info.settings, given))
    free = {name: value for name, value in given.items() if name in FREE_ON_RESUME}
    settings = replace(info.settings, **free)
    if (folder / SUMMARY).exists():
        warn(f"{folder} is finished: {info.total_steps:,} steps; evaluate it with `train eval {folder} --cache CACHE`")
        return folder
    lock = lock_run(folder)
    try:
        with StopRequest(warn) as stop:
            start = _take_up(folder, settings, info, warn, say, quiet)
            stop.gentle = True
            return _go(folder, start, say, quiet, stop)
    finally:
        os.close(lock)


def _take_up(folder: Path, settings: Settings, info: RunInfo, warn: Say, say: Say, quiet: bool) -> Start:
    cache = open_cache(settings.cache)
    split = _training_split(cache)
    device = devices.pick_device(settings.device)
    _refuse(folder, _differences(info, settings, cache, device))
    clean(folder / CHECKPOINTS)
    found = newest(folder / CHECKPOINTS, _owner(info), warn)
    if found is None:  # killed before its first checkpoint: the same beginning gives the same run
        model = load_model(model_folder(str(settings.model)), _needs(cache, split, settings), settings.seed)
        job = _job(model, split, settings, device)
        state, sizes = State(Meter(device)), {}
        torch.manual_seed(settings.seed)
    else:
        place, content = found
        job = _job(fresh_model(read_config(place)), split, settings, device)
        state, sizes = load_checkpoint(place, content, job), dict(content["records"])
    start = Start(job, info, state, sizes)
    if not quiet:
        say(f"resuming {folder} at step {state.step:,} of {job.total_steps:,}")
    if state.step < job.total_steps:
        try_heaviest(job, state)
    return start


def _begin_folder(info: RunInfo) -> Path:
    """The new run's folder, with its settings in it."""
    place = make_run_folder(info.settings.out, info.cache_name)
    try:
        write_json(place / SETTINGS, info.to_json())
    except StorageError:
        place.rmdir()
        raise
    return place


def _differences(info: RunInfo, settings: Settings, cache: Cache, device: torch.device) -> list[str]:
    found = []
    if cache.manifest.fingerprint != info.cache_fingerprint:
        found.append(
            f"the cache {cache.folder} has the fingerprint {cache.manifest.fingerprint[:12]}, "
            f"the run was made with {info.cache_fingerprint[:12]}"
        )
    if device.type != torch.device(info.settings.device).type:
        found.append(f"--device is {info.settings.device} in the run, {device} here")
    source = local_folder(str(settings.model))
    if source is not None and (source / "config.json").is_file() and model_digest(source) != info.model_digest:
        found.append(f"--model {settings.model}: its files are no longer those the run started from")
    return found


def _refuse(folder: Path, differences: list[str]) -> None:
    if differences:
        raise MismatchError(
            f"{folder} cannot go on exactly, because of what differs:\n  "
            + "\n  ".join(differences)
            + "\nput it back as it was, or start a new run without --resume"
        )


def _training_split(cache: Cache) -> Split:
    split = cache["train"]
    if not len(split):
        raise InputError(f"{cache.folder}: its split 'train' has no rows, so there is nothing to train on")
    return split


def _resolve(settings: Settings, cache: Cache, split: Split) -> tuple[Settings, torch.device]:
    """The settings with nothing left to be found out, so that they give the same run anywhere."""
    device = devices.pick_device(settings.device)
    spec = settings.plan_spec(split.default_spec())
    eval_split = settings.eval_split
    if eval_split is None:
        eval_split = "test" if "test" in cache and len(cache["test"]) else NO_SPLIT
    elif eval_split != NO_SPLIT and not len(cache[eval_split]):
        raise InputError(f"--eval-split {eval_split}: it has no rows; pass another one, or --eval-split {NO_SPLIT}")
    multiple = settings.pad_to_multiple_of or (8 if device.type == "cuda" else 1)
    resolved = replace(
        settings.with_plan(spec),
        cache=str(cache.folder.resolve()),
        model=_absolute(settings.model or cache.manifest.tokenizer.name),
        device=str(device),
        precision=devices.pick_precision(settings.precision, device),
        pad_to_multiple_of=multiple,
        eval_split=eval_split,
    )
    return resolved, device


def _absolute(model: str) -> str:
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _spec(settings: Settings) -> PlanSpec:
    return PlanSpec(str(settings.strategy), settings.batch_size, settings.max_tokens, settings.plan_seed or 0)


def _needs(cache: Cache, split: Split, settings: Settings) -> Needs:
    others = [] if settings.eval_split in (None, NO_SPLIT) else [cache[str(settings.eval_split)]]
    width = max(part.info.longest for part in [split, *others])
    multiple = settings.pad_to_multiple_of or 1
    width = max(width, min(-(-width // multiple) * multiple, cache.manifest.max_length))
    if settings.strategy == "fixed":
        width = cache.manifest.max_length
    return Needs(cache.manifest, cache.folder, width)


def _job(model: PreTrainedModel, split: Split, settings: Settings, device: torch.device) -> Job:
    devices.prepare(device)
    spec = _spec(settings)
    split.try_keep_plan(spec, settings.epochs)
    model = model.to(device)  # type: ignore[arg-type]  # transformers types `to` as for half-loaded models
    forward = torch.compile(model) if settings.compile else model
    optimizer = make_optimizer(model, settings)
    return Job(model, forward, optimizer, split, spec, settings, device, epoch_steps(split, spec, settings))


def _info(job: Job, cache: Cache, digest: str) -> RunInfo:
    return RunInfo(
        settings=job.settings,
        cache_name=cache.manifest.name,
        cache_fingerprint=cache.manifest.fingerprint,
        model_digest=digest,
        max_length=cache.manifest.max_length,
        total_steps=job.total_steps,
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


def _owner(info: RunInfo) -> Json:
    """What a checkpoint belongs to: all that determines the run's numbers."""
    settings = {name: value for name, value in info.settings.to_json().items() if name not in FREE_ON_RESUME}
    return {"cache": info.cache_fingerprint, "base_model": info.model_digest, "settings": settings}


def _announce(start: Start, folder: Path, say: Say, quiet: bool) -> None:
    job, settings = start.job, start.job.settings
    rows, width = try_heaviest(job, start.state)
    if quiet:
        return
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    say(f"model      {settings.model} ({parameters / 1e6:,.1f} M parameters, {_labels(job.model.config)})")
    say(f"cache      {settings.cache} ({len(job.split):,} rows, {job.split.info.tokens:,} tokens), plan {job.spec.id}")
    say(f"device     {start.info.environment['device']}, {settings.precision}{', compiled' * settings.compile}")
    say(f"steps      {job.total_steps:,} in {len(job.steps)} epochs; the heaviest batch, {rows} x {width}, fits")


def _labels(config: PretrainedConfig) -> str:
    names = label_names(config)
    more = f", … {len(names)} labels" if len(names) > 4 else ""
    return "labels " + ", ".join(names[:4]) + more


def _go(folder: Path, start: Start, say: Say, quiet: bool, stop: StopRequest) -> Path:
    """Train to the end, write the model, then the summary."""
    job, state = start.job, start.state
    with storage_errors(folder):
        (folder / CHECKPOINTS).mkdir(exist_ok=True)
    screen = Screen(job.total_steps, state.step, quiet, say)
    watch = Watch(job, state, folder, _owner(start.info), start.sizes, screen, stop)
    try:
        finished = train(job, state, watch)
    finally:
        watch.close()
    if not finished:
        stop.notice(f"stopped at step {state.step:,} of {job.total_steps:,}; go on with: train run --resume {folder}")
        raise Stopped(stop.signum or 0)
    began = time.monotonic()
    export_model(folder / MODEL, job, start.info)
    state.seconds += time.monotonic() - began
    memory = devices.peak_memory_bytes(job.device)
    summary: Json = {
        "steps": state.step,
        "seconds": state.seconds,
        "peak_memory_bytes": memory,
        "skipped_updates": state.skipped,
        "eval_split": job.settings.eval_split,
        "scores": state.scores,
    }
    write_json(folder / SUMMARY, summary)
    if not quiet:
        _conclude(folder, summary, job, say)
    return folder


def export_model(place: Path, job: Job, info: RunInfo) -> None:
    """Write the fine-tuned model with its tokenizer, as `transformers.pipeline` loads it.

    Raises:
        StorageError: the file system refused.
    """
    card = {"max_length": info.max_length, "cache": info.cache_name, "cache_fingerprint": info.cache_fingerprint}
    with staging(place) as folder:
        with storage_errors(place), quiet_transformers():
            job.model.save_pretrained(folder)
            for path in job.split.cache.tokenizer_folder.iterdir():
                shutil.copyfile(path, folder / path.name)
        write_json(folder / CARD, card)
        if place.exists():  # of a run that was killed between this and its summary
            shutil.rmtree(place)
        publish(folder, place)


def _conclude(folder: Path, summary: Json, job: Job, say: Say) -> None:
    if summary["skipped_updates"]:
        say(f"skipped    {summary['skipped_updates']:,} updates, whose loss or gradients were not finite")
    memory = summary["peak_memory_bytes"]
    peak = f", peak memory {memory / 2**20:,.0f} MiB" if memory else ""
    say(f"time       {clock(summary['seconds'])}{peak}")
    say(f"model      {folder / MODEL}")
    split = job.settings.eval_split
    if split != NO_SPLIT:
        say(f"next       train eval {folder} --cache {job.settings.cache} --split {split}")
    say(f'next       train predict {folder} "a text of your own"')
