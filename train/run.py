"""A training run from top to bottom: open the cache, load the model, check memory, train, evaluate, save, export.

Everything that can be refused is refused before the run folder is created.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cache import open_cache
from cache.common.files import storage_errors
from cache.errors import LengthwiseError, StorageError

from . import device as devices
from .loop.callbacks import Callbacks, RunCallbacks
from .loop.oom_check import check_memory
from .loop.setup import (
    TrainingSetup,
    cache_requirements,
    check_padding_free,
    checkpoint_owner,
    prepare_training,
    resolve_settings,
    run_info,
)
from .loop.state import Meter, State
from .loop.step import backward, update
from .models.loading import load_model, model_digest, model_folder
from .models.masked_lm import masked_tokens
from .report import report_end, report_start
from .resume import ResumePoint, load_resume_point, resumed_settings
from .run_folder.console import ConsoleProgress
from .run_folder.export import export_model
from .run_folder.records import (
    CHECKPOINTS,
    MODEL,
    SETTINGS,
    SUMMARY,
    Json,
    RunInfo,
    check_out,
    create_run_folder,
    joined_records,
    lock_run,
    read_run,
    write_json,
)
from .run_folder.trackers import Trackers, check_installed, open_trackers
from .settings import Settings
from .signals import Stopped, StopRequest

Log = Callable[[str], None]


def start_run(settings: Settings, log: Log, warn: Log, quiet: bool = False) -> Path:
    """Train with these settings, in a new run folder.

    Args:
        settings: of the run.
        log: prints a line of the report.
        warn: prints a warning, also where no report is wanted.
        quiet: show no progress and no report.

    Returns:
        The run folder.

    Raises:
        LengthwiseError: something does not fit; before the first step, nothing is left behind.
        Stopped: by a signal; a checkpoint was written.
    """
    progress = ConsoleProgress(quiet, log, warn)
    with StopRequest(progress.warn) as stop:
        if settings.out is not None:
            check_out(settings.out)
        check_installed(settings)
        cache = open_cache(settings.cache)
        settings, device = resolve_settings(settings, cache)
        source = model_folder(str(settings.model))
        model = load_model(source, cache_requirements(cache, settings), settings.seed, progress.log)
        setup = prepare_training(model, cache, settings, device)
        state = State(Meter(device))
        check_padding_free(setup)
        heaviest = check_memory(setup, state)
        torch.manual_seed(settings.seed)
        info = run_info(setup, model_digest(source))
        stop.graceful = True
        folder = _create_folder(info)
        with lock_run(folder):
            trackers = _open_new_trackers(folder, info, progress.warn, quiet)
            report_start(setup, info.environment["device"], heaviest, progress.log)
            return _train_to_end(folder, ResumePoint(setup, info, state, {}), progress, stop, trackers)


def resume_run(folder: Path, given: Mapping[str, Any], log: Log, warn: Log, quiet: bool = False) -> Path:
    """Resume an interrupted run exactly where its newest checkpoint is.

    Args:
        folder: the run folder.
        given: settings named on the command line; those that would change the result must equal the run's.
        log, warn, quiet: as for `start_run`.

    Raises:
        MismatchError: settings, cache or model are not those of the run.
        LengthwiseError, Stopped: as for `start_run`.
    """
    info = read_run(folder)
    settings = resumed_settings(folder, info, given)
    if (folder / SUMMARY).exists():
        warn(f"{folder} is finished: {info.total_steps:,} steps; evaluate it with `train eval {folder} --cache CACHE`")
        return folder
    check_installed(settings)
    progress = ConsoleProgress(quiet, log, warn)
    with lock_run(folder), StopRequest(progress.warn) as stop:
        point = load_resume_point(folder, settings, info, progress.warn)
        step, total = point.state.step, point.setup.total_steps
        if step < total:
            check_padding_free(point.setup)
            check_memory(point.setup, point.state)
        stop.graceful = True
        trackers = open_trackers(settings, folder, info, step, progress.warn, quiet)
        progress.log(f"resuming {folder} at step {step:,} of {total:,}")
        return _train_to_end(folder, point, progress, stop, trackers)


def train(setup: TrainingSetup, state: State, callbacks: Callbacks) -> bool:
    """Train from `state` to the end of the run; False if it was told to stop before."""
    while state.epoch < len(setup.steps):
        setup.model.train()
        for batch in setup.batches(state.epoch, state.epoch_step):
            loss = backward(setup, batch)
            state.meter.add(batch, loss, None if setup.masking is None else masked_tokens(batch))
            if not batch.last:
                continue
            update(setup, state)
            epoch_ends = state.epoch_step == setup.steps[state.epoch]
            if epoch_ends or state.step % setup.settings.logging_steps == 0:
                callbacks.on_log()
            if not epoch_ends and callbacks.on_step_end():
                return False
        if callbacks.on_epoch_end():
            return False
    return True


def _train_to_end(
    folder: Path, start: ResumePoint, progress: ConsoleProgress, stop: StopRequest, trackers: Trackers
) -> Path:
    """Train, export the model, write the summary; the trackers are closed last, for that may be slow."""
    setup, state = start.setup, start.state
    with trackers:
        with storage_errors(folder):
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
        owner = checkpoint_owner(start.info)
        callbacks = RunCallbacks(setup, state, folder, owner, start.sizes, progress, stop, trackers)
        if trackers.open:
            trackers.catch_up(joined_records(folder))
        progress.begin(setup.total_steps, state.step)
        try:
            finished = train(setup, state, callbacks)
        finally:
            callbacks.close()
        if not finished:
            position = f"step {state.step:,} of {setup.total_steps:,}"
            progress.warn(f"stopped at {position}; go on with: train run --resume {folder}")
            raise Stopped(stop.signum or 0)
        summary = _finish(folder, start)
        report_end(folder, summary, setup, trackers, progress.log)
    return folder


def _finish(folder: Path, start: ResumePoint) -> Json:
    """Export the model, then write and return the summary."""
    setup, state = start.setup, start.state
    began = time.monotonic()
    export_model(folder / MODEL, setup.model, setup.cache, start.info, joined_records(folder))
    state.seconds += time.monotonic() - began
    summary: Json = {
        "steps": state.step,
        "seconds": state.seconds,
        "peak_memory_bytes": devices.peak_memory_bytes(setup.device),
        "skipped_updates": state.skipped,
        "eval_split": setup.settings.eval_split,
        "scores": state.scores,
    }
    write_json(folder / SUMMARY, summary)
    return summary


def _create_folder(info: RunInfo) -> Path:
    """Create the new run's folder with its settings.json."""
    folder = create_run_folder(info.settings.out, info.cache_name)
    try:
        write_json(folder / SETTINGS, info.to_json())
    except StorageError:
        folder.rmdir()
        raise
    return folder


def _open_new_trackers(folder: Path, info: RunInfo, warn: Log, quiet: bool) -> Trackers:
    """The trackers of a new run; if one cannot be opened, nothing is left behind."""
    try:
        return open_trackers(info.settings, folder, info, None, warn, quiet)
    except LengthwiseError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def run_facts(folder: Path) -> Json:
    """The output of `train run --json`: a finished run's summary and settings."""
    info = read_run(folder)
    summary = json.loads((folder / SUMMARY).read_text("utf-8"))
    facts = {"run": str(folder), "model": str(folder / MODEL), "cache_fingerprint": info.cache_fingerprint}
    return {**facts, **summary, "settings": info.settings.to_json()}
