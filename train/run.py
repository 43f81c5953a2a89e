"""A training run from top to bottom: open the cache, load the model, check memory, train, evaluate, save, export.

Everything that can be refused is refused before the run folder is created.
"""

import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cache import open_cache
from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.common.hub import user_path
from cache.console.progress import waiting
from cache.errors import StorageError

from .forward.masked_lm import masked_tokens
from .loop.callbacks import RunCallbacks
from .loop.oom_check import HeaviestStep, check_memory
from .loop.parallel import check_agreement, seed_dropout, sum_gradients
from .loop.resolution import cache_requirements, keep_plan, resolve_settings
from .loop.setup import TrainingSetup, check_padding_free, prepare_training, run_info
from .loop.state import Meter, ResumePoint, State
from .loop.step import backward, update
from .models.loading import load_model, model_digest, model_folder
from .report import report_end, report_start, run_warnings
from .resume import interrupted_run, load_resume_point, resumed_settings
from .run_folder.console import Log
from .run_folder.creating import check_out, lock_run, remove_leftovers
from .run_folder.export import export_model
from .run_folder.folder import (
    METRICS,
    MODEL,
    TIMING,
    Json,
    Summary,
    open_run,
    read_run,
    read_summary,
    write_summary,
)
from .run_folder.launching import Launch, launched, make_run, open_run_trackers
from .run_folder.records import finite, joined_records, read_records
from .run_folder.trackers import Trackers, check_installed
from .runtime import device as devices
from .runtime.signals import Stopped
from .settings import Settings


def start_run(settings: Settings, log: Log, warn: Log, quiet: bool = False) -> Path:
    """Train with these settings, in a new run folder; as one of several ranks, if a launcher started this process so.

    Args:
        settings: of the run.
        log: prints a line of the report.
        warn: prints a warning, also where no report is wanted.
        quiet: show no progress and no report.

    Returns:
        The run folder.

    Raises:
        LengthwiseError: something does not fit; before the first step, nothing is left behind.
        MemoryError: memory lacks for something other than a batch.
        Stopped: by a signal; a checkpoint was written.
        FailedTogether: on ranks other than the first, where that raises an error.
    """
    if settings.out is not None:
        settings = replace(settings, out=str(user_path(settings.out)))
    with launched(log, warn, quiet) as launch:
        interrupted = launch.ranks.gather(interrupted_run(settings) if launch.ranks.first else None)[0]
        return _start(settings, launch) if interrupted is None else _resume(interrupted, {}, launch)


def resume_run(path: Path, given: Mapping[str, Any], log: Log, warn: Log, quiet: bool = False) -> Path:
    """Resume an interrupted run exactly where its newest checkpoint is, on any number of ranks.

    Args:
        path: the run folder.
        given: settings named on the command line; those that would change the result must equal the run's.
        log, warn, quiet: as for `start_run`.

    Raises:
        MismatchError: settings, cache or model are not those of the run.
        LengthwiseError, MemoryError, Stopped, FailedTogether: as for `start_run`.
    """
    with launched(log, warn, quiet) as launch:
        return _resume(path, given, launch)


def _start(settings: Settings, launch: Launch) -> Path:
    ranks, progress = launch.ranks, launch.progress
    with ranks.together():
        if ranks.first:
            check_out(settings.out)
        check_installed(settings)
        cache = open_cache(settings.cache, quiet=progress.quiet)
        settings, device = resolve_settings(settings, cache, ranks)
        if ranks.first:
            keep_plan(cache, settings)
    with ranks.together():
        source = model_folder(str(settings.model))
        required = cache_requirements(cache, settings)
        model = load_model(source, required, settings.seed, progress.log, settings.new_head)
        setup = prepare_training(model, cache, settings, device, ranks)
        info = run_info(setup, model_digest(source))
    start, heaviest = _checked(ResumePoint(setup, info, State(Meter(device, ranks=ranks)), {}), progress.quiet)
    torch.manual_seed(settings.seed)
    launch.stop.graceful = True
    run, trackers = make_run(launch, info)
    for warning in run_warnings(setup):
        progress.warn(warning)
    report_start(setup, info.environment["device"], heaviest, progress.log)
    return _train_to_end(run, start, launch, trackers)


def _resume(path: Path, given: Mapping[str, Any], launch: Launch) -> Path:
    ranks, progress = launch.ranks, launch.progress
    with ranks.together():
        run = launch.stack.enter_context(open_run(path))
        if ranks.first:
            launch.stack.enter_context(lock_run(run))
        info = read_run(run)
        settings = resumed_settings(path, info, given)
        finished = read_summary(run) is not None
        check_installed(settings)
    if finished:
        progress.warn(f"{path} is finished; evaluate it with `train eval {path} --cache CACHE`")
        return path
    if ranks.first:
        with storage_errors(path):
            remove_leftovers(run)
    start, _ = _checked(load_resume_point(run, settings, info, progress.warn, ranks), progress.quiet)
    launch.stop.graceful = True
    trackers = open_run_trackers(launch, run, info, settings, start.state.step)
    progress.log(f"resuming {path} at step {start.state.step:,} of {start.setup.total_steps:,}")
    return _train_to_end(run, start, launch, trackers)


def _checked(start: ResumePoint, quiet: bool) -> tuple[ResumePoint, str]:
    """Check that the steps to come fit into memory, and that all ranks are about to do the same; a terminal shows it.

    Returns:
        `start`, its gradients summed over the ranks; and the size of its largest micro-batch, in words.
    """
    setup, state, heaviest = start.setup, start.state, HeaviestStep("none")
    with setup.ranks.together(), waiting("trying the largest batch", quiet):
        if not state.is_finished(len(setup.steps), setup.settings.early_stopping):
            check_padding_free(setup)
            heaviest = check_memory(setup, state)
    check_agreement(start)
    return replace(start, setup=sum_gradients(setup, heaviest.some_unused)), heaviest.size


def train(setup: TrainingSetup, state: State, callbacks: RunCallbacks) -> bool:
    """Train from `state` to the end of the run; False if it was told to stop before."""
    while not state.is_finished(len(setup.steps), setup.settings.early_stopping):
        setup.model.train()
        for batch in setup.batches(state.epoch, state.epoch_step):
            seed_dropout(setup, state)
            loss = backward(setup, batch)
            state.meter.add(batch, loss, None if setup.masking is None else masked_tokens(batch))
            if not batch.last:
                continue
            update(setup, state)
            epoch_ends = state.epoch_step == setup.steps[state.epoch]
            if epoch_ends or setup.logs_at(state.step):
                callbacks.on_log()
            if not epoch_ends and callbacks.on_step_end():
                return False
        if callbacks.on_epoch_end():
            return False
    return True


def _train_to_end(run: Folder, start: ResumePoint, launch: Launch, trackers: Trackers) -> Path:
    """Train, export the model, write the summary; the trackers are closed last, for that may be slow."""
    progress, stop = launch.progress, launch.stop
    setup, state = start.setup, start.state
    with trackers:
        with setup.ranks.together():
            callbacks = RunCallbacks(start, run, progress, stop, trackers)
        try:
            if start.kept and any(tracker.fresh for tracker in trackers.open.values()):
                for record in joined_records(read_records(run, METRICS), read_records(run, TIMING)):
                    trackers.log(record, fresh_only=True)
            progress.begin(setup.total_steps, state.step)
            trained = not callbacks.on_resume() and train(setup, state, callbacks)
            summary = _finish(run, start, callbacks) if trained else None
        except StorageError as error:
            raise StorageError(f"{error}; once that is mended, go on with: train run --resume {run.path}") from error
        finally:
            callbacks.close()
        if summary is None:
            position = f"step {state.step:,} of {setup.total_steps:,}"
            progress.warn(f"stopped at {position}; go on with: train run --resume {run.path}")
            raise Stopped(stop.signum or signal.SIGTERM)  # another rank may have got the signal
        report_end(run.path, summary, setup, trackers, progress.log)
    return run.path


def _finish(run: Folder, start: ResumePoint, callbacks: RunCallbacks) -> Json | None:
    """Export the model, then write and return the summary; None if told to stop before."""
    setup, state = start.setup, start.state
    test = callbacks.on_end()
    if test is None:
        return None
    began = time.monotonic()
    with setup.ranks.together():
        if setup.ranks.first:
            export_model(run, setup.model, setup.tokenizer, setup.cache.manifest, start.info, callbacks.results())
    state.seconds += time.monotonic() - began
    facts: Json = {
        "steps": state.step,
        "seconds": state.seconds,
        **callbacks.speed.of_run(callbacks.results()),
        "peak_memory_bytes": devices.peak_memory_bytes(setup.device),
        "skipped_updates": state.skipped,
        "eval_split": setup.settings.eval_split,
        "scores": state.scores if state.best is None else state.best["scores"],
    }
    if state.best is not None:
        facts |= {"best_epoch": state.best["epoch"], "best_step": state.best["step"]}
    if test:
        facts["test"] = test
    with setup.ranks.together():
        if setup.ranks.first:
            write_summary(run, Summary(finite(facts), callbacks.sync()))
    return facts


def run_facts(path: Path) -> Json:
    """The output of `train run --json`: a finished run's summary and settings."""
    with open_run(path) as run:
        info, summary = read_run(run), read_summary(run)
    facts = {"run": str(path), "model": str(path / MODEL), "cache_fingerprint": info.cache_fingerprint}
    return {**facts, **(summary.facts if summary else {}), "settings": info.settings.to_json()}
