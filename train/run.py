"""A run from its settings to its folder: prepare, train, export; or take up where it was left.

Everything that can be refused is refused before the run folder is made.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cache import Cache, open_cache
from cache.common.files import storage_errors
from cache.common.hub import local_folder
from cache.common.progress import clock
from cache.errors import LengthwiseError, MismatchError, StorageError
from cache.writing.publishing import publish, staging

from . import device as devices
from .checkpoint import clean, load_checkpoint, newest
from .loop import Job, train
from .models.inputs import PADDING_SIDE
from .models.loading import (
    fresh_model,
    load_model,
    model_digest,
    model_folder,
    quiet_transformers,
    read_config,
)
from .prepare import absolute, describe, make_job, needs_of, owner_of, resolve, training_split
from .run_folder.console import Screen
from .run_folder.model_card import README, model_card
from .run_folder.records import (
    CHECKPOINTS,
    METRICS,
    MODEL,
    SETTINGS,
    SUMMARY,
    Json,
    RunInfo,
    check_out,
    joined_records,
    lock_run,
    make_run_folder,
    read_run,
    write_json,
)
from .run_folder.trackers import Trackers, check_installed, open_trackers
from .settings import FREE_ON_RESUME, NO_SPLIT, Settings, contradictions
from .signals import Stopped, StopRequest
from .state import Meter, State
from .trial import try_heaviest
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
        check_installed(settings)
        cache = open_cache(settings.cache)
        split = training_split(cache)
        resolved, device = resolve(settings, cache, split)
        folder = model_folder(str(resolved.model))
        told: list[str] = []
        model = load_model(folder, needs_of(cache, split, resolved), resolved.seed, told.append)
        job = make_job(model, split, resolved, device)
        start = Start(job, describe(job, cache, model_digest(folder)), State(Meter(device)), {})
        heaviest = try_heaviest(job, start.state)
        torch.manual_seed(resolved.seed)
        screen = Screen(job.total_steps, 0, quiet, say, warn)
        stop.gentle, stop.notice = True, screen.warn
        place = _begin_folder(start.info)
        lock = lock_run(place)
        try:
            trackers = _open_trackers(place, start.info, screen.warn, quiet)
            for line in told:
                screen.say(line)
            _announce(start, heaviest, screen.say)
            return _go(place, start, screen, stop, trackers)
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
    _refuse(folder, contradictions(info.settings, _found_out(given)))
    free = {name: value for name, value in given.items() if name in FREE_ON_RESUME}
    settings = replace(info.settings, **free)
    if (folder / SUMMARY).exists():
        warn(f"{folder} is finished: {info.total_steps:,} steps; evaluate it with `train eval {folder} --cache CACHE`")
        return folder
    check_installed(settings)
    lock = lock_run(folder)
    try:
        with StopRequest(warn) as stop:
            start = _take_up(folder, settings, info, warn)
            step, total = start.state.step, start.job.total_steps
            screen = Screen(total, step, quiet, say, warn)
            stop.gentle, stop.notice = True, screen.warn
            trackers = open_trackers(settings, folder, info, step, screen.warn, quiet)
            screen.say(f"resuming {folder} at step {step:,} of {total:,}")
            return _go(folder, start, screen, stop, trackers)
    finally:
        os.close(lock)


def _found_out(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line as a run's settings would hold it."""
    found = dict(given)
    if "model" in given:
        found["model"] = absolute(given["model"])
    if given.get("precision") == "auto":
        found["precision"] = devices.pick_precision("auto", devices.pick_device(given.get("device", "auto")))
    return found


def _take_up(folder: Path, settings: Settings, info: RunInfo, warn: Say) -> Start:
    cache = open_cache(settings.cache)
    split = training_split(cache)
    device = devices.pick_device(settings.device)
    _refuse(folder, _differences(info, settings, cache, device))
    clean(folder / CHECKPOINTS)
    found = newest(folder / CHECKPOINTS, owner_of(info), warn)
    if found is None:  # killed before its first checkpoint: the same beginning gives the same run
        model = load_model(model_folder(str(settings.model)), needs_of(cache, split, settings), settings.seed)
        job = make_job(model, split, settings, device)
        state, sizes = State(Meter(device)), {}
        torch.manual_seed(settings.seed)
    else:
        place, content = found
        model = fresh_model(read_config(place), str(settings.task))
        job = make_job(model, split, settings, device)
        state, sizes = load_checkpoint(place, content, job), dict(content["records"])
    if state.step < job.total_steps:
        try_heaviest(job, state)
    return Start(job, info, state, sizes)


def _begin_folder(info: RunInfo) -> Path:
    """The new run's folder, with its settings in it."""
    place = make_run_folder(info.settings.out, info.cache_name)
    try:
        write_json(place / SETTINGS, info.to_json())
    except StorageError:
        place.rmdir()
        raise
    return place


def _open_trackers(place: Path, info: RunInfo, warn: Say, quiet: bool) -> Trackers:
    """The trackers of a new run; if one cannot be opened, nothing is left behind."""
    try:
        return open_trackers(info.settings, place, info, None, warn, quiet)
    except LengthwiseError:
        shutil.rmtree(place, ignore_errors=True)
        raise


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


def _announce(start: Start, heaviest: tuple[int, int], say: Say) -> None:
    job, settings = start.job, start.job.settings
    rows, width = heaviest
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    aim = _labels(job) if job.masking is None else f"{job.masking.probability:.0%} of the tokens hidden"
    say(f"model      {settings.model} ({parameters / 1e6:,.1f} M parameters, {aim})")
    say(f"cache      {settings.cache} ({len(job.split):,} rows, {job.split.info.tokens:,} tokens), plan {job.spec.id}")
    if job.split.tokenizer.padding_side != PADDING_SIDE:
        say(f"padding    on the {PADDING_SIDE}, which the model needs; the tokenizer asks for the other side")
    part, alone = ("logits", "the hidden tokens") if job.masking else ("last layer", "the pooled token")
    say(f"{part:10} {f'for every token: {job.stock}' if job.stock else f'for {alone} alone'}")
    if job.device.type == "cpu":
        say(f"attention  {f'by torch: {job.torchs}' if job.torchs else 'by blocks, dropout from raw bits'}")
    say(f"device     {start.info.environment['device']}, {settings.precision}{', compiled' * settings.compile}")
    say(f"steps      {job.total_steps:,} in {len(job.steps)} epochs; the heaviest batch, {rows} x {width}, fits")


def _labels(job: Job) -> str:
    task = job.split.task
    if task.kind == "regression":
        return "regression"
    names = task.label_names
    more = f", … {len(names)} labels" if len(names) > 4 else ""
    return "labels " + ", ".join(names[:4]) + more


def _go(folder: Path, start: Start, screen: Screen, stop: StopRequest, trackers: Trackers) -> Path:
    """Train to the end, write the model, then the summary; the trackers end last, for one of them may be slow."""
    with trackers:
        _train(folder, start, screen, stop, trackers)
        summary = _finish(folder, start)
        _conclude(folder, summary, start.job, trackers, screen.say)
    return folder


def _train(folder: Path, start: Start, screen: Screen, stop: StopRequest, trackers: Trackers) -> None:
    job, state = start.job, start.state
    with storage_errors(folder):
        (folder / CHECKPOINTS).mkdir(exist_ok=True)
    watch = Watch(job, state, folder, owner_of(start.info), start.sizes, screen, stop, trackers)
    if trackers.open:
        trackers.catch_up(joined_records(folder))
    screen.begin()
    try:
        finished = train(job, state, watch)
    finally:
        watch.close()
    if not finished:
        stop.notice(f"stopped at step {state.step:,} of {job.total_steps:,}; go on with: train run --resume {folder}")
        raise Stopped(stop.signum or 0)


def _finish(folder: Path, start: Start) -> Json:
    """Write the model, then the summary, which is returned."""
    job, state = start.job, start.state
    began = time.monotonic()
    export_model(folder / MODEL, job, start.info, joined_records(folder))
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
    return summary


def export_model(place: Path, job: Job, info: RunInfo, records: list[Json]) -> None:
    """Write the fine-tuned model with its tokenizer, as `transformers.pipeline` loads it, and its model card.

    Args:
        place: folder to write.
        job: what was trained.
        info: what settings.json says.
        records: of the run, as `joined_records` gives them.

    Raises:
        StorageError: the file system refused.
    """
    card: Json = {"max_length": info.max_length, "cache": info.cache_name, "cache_fingerprint": info.cache_fingerprint}
    card |= {"task": job.settings.task, "pair": job.split.task.pair}
    with staging(place) as folder:
        with storage_errors(place), quiet_transformers():
            job.model.save_pretrained(folder)
            _copy_tokenizer(job.split.cache, folder)
            card_text = model_card(
                place.parent.resolve().name, info, job.model.config, job.split.cache.manifest, records
            )
            (folder / README).write_text(card_text, "utf-8")
        write_json(folder / CARD, card)
        if place.exists():  # of a run that was killed between this and its summary
            shutil.rmtree(place)
        publish(folder, place)


def _copy_tokenizer(cache: Cache, folder: Path) -> None:
    """Put the cache's tokenizer beside the model, which was trained with padding on the right and needs it there."""
    for path in cache.tokenizer_folder.iterdir():
        shutil.copyfile(path, folder / path.name)
    if cache.manifest.tokenizer.padding_side != PADDING_SIDE:
        path = folder / "tokenizer_config.json"
        write_json(path, {**json.loads(path.read_text("utf-8")), "padding_side": PADDING_SIDE})


def run_facts(folder: Path) -> Json:
    """What `train run --json` says of a finished run."""
    info = read_run(folder)
    summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    facts = {"run": str(folder), "model": str(folder / MODEL), "cache_fingerprint": info.cache_fingerprint}
    return {**facts, **summary, "settings": info.settings.to_json()}


def _conclude(folder: Path, summary: Json, job: Job, trackers: Trackers, say: Say) -> None:
    for name, step in trackers.lost.items():
        say(f"{name:10} incomplete: it failed after step {step:,}; {METRICS} has every record")
    if summary["skipped_updates"]:
        say(f"skipped    {summary['skipped_updates']:,} updates, whose loss or gradients were not finite")
    memory = summary["peak_memory_bytes"]
    peak = f", peak memory {memory / 2**20:,.0f} MiB" if memory else ""
    say(f"time       {clock(summary['seconds'])}{peak}")
    say(f"model      {folder / MODEL}")
    split = job.settings.eval_split
    if split != NO_SPLIT:
        say(f"next       train eval {folder} --cache {job.settings.cache} --split {split}")
    if job.masking is not None:
        cache = job.settings.cache if job.split.task.labelled else "CACHE-WITH-LABELS"
        say(f"next       train run --cache {cache} --model {folder / MODEL}")
        return
    example = "$'first text\\tsecond text'" if job.split.task.pair else '"a text of your own"'
    say(f"next       train predict {folder} {example}")
