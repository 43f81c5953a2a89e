"""A training run from top to bottom: open the cache, load the model, check memory, train, evaluate, save, export.

Everything that can be refused is refused before the run folder is created.
"""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cache import open_cache
from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.common.hub import user_path
from cache.console.text import counted
from cache.errors import LengthwiseError, StorageError

from .forward.masked_lm import masked_tokens
from .loop.callbacks import Callbacks, RunCallbacks
from .loop.oom_check import check_memory
from .loop.parallel import check_agreement, seed_dropout, sum_gradients
from .loop.resolution import cache_requirements, resolve_settings
from .loop.setup import (
    TrainingSetup,
    check_padding_free,
    checkpoint_owner,
    keep_plan,
    prepare_training,
    run_info,
)
from .loop.state import Meter, State
from .loop.step import backward, update
from .models.loading import load_model, model_digest, model_folder
from .report import report_end, report_start, run_warnings
from .resume import ResumePoint, interrupted_run, load_resume_point, resumed_settings
from .run_folder.console import TrainingProgress
from .run_folder.creating import check_out, lock_run, new_run, remove_leftovers
from .run_folder.export import export_model
from .run_folder.folder import (
    METRICS,
    MODEL,
    TIMING,
    Json,
    RunInfo,
    Summary,
    open_run,
    open_shared_run,
    read_run,
    read_summary,
    write_settings,
    write_summary,
)
from .run_folder.records import finite, joined_records, read_records
from .run_folder.trackers import Trackers, check_installed, open_trackers
from .runtime import device as devices
from .runtime.distributed import Ranks, process_group
from .runtime.launch import launched_ranks
from .runtime.signals import Stopped, StopRequest
from .settings import Settings

Log = Callable[[str], None]


@devices.memory_errors()
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
    ranks = launched_ranks()
    progress = TrainingProgress.of_rank(ranks, quiet, log, warn)
    with process_group(ranks):
        interrupted = ranks.gather(interrupted_run(settings) if ranks.first else None)[0]
        if interrupted is not None:
            return _resume(interrupted, {}, ranks, progress)
        return _start(settings, ranks, progress)


@devices.memory_errors()
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
    ranks = launched_ranks()
    with process_group(ranks):
        return _resume(path, given, ranks, TrainingProgress.of_rank(ranks, quiet, log, warn))


def _start(settings: Settings, ranks: Ranks, progress: TrainingProgress) -> Path:
    with StopRequest(progress.warn) as stop, ExitStack() as stack:
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
            state = State(Meter(device, ranks=ranks))
            check_padding_free(setup)
            heaviest = check_memory(setup, state)
            info = run_info(setup, model_digest(source))
        check_agreement(setup, state, info.model_digest)
        setup = sum_gradients(setup, heaviest.some_unused)
        torch.manual_seed(settings.seed)
        stop.graceful = True
        run, trackers = _make_run(stack, ranks, info, progress)
        for warning in run_warnings(setup):
            progress.warn(warning)
        report_start(setup, info.environment["device"], heaviest.size, progress.log)
        return _train_to_end(run, ResumePoint(setup, info, state, {}), progress, stop, trackers)


def _resume(path: Path, given: Mapping[str, Any], ranks: Ranks, progress: TrainingProgress) -> Path:
    with ExitStack() as stack, StopRequest(progress.warn) as stop:
        with ranks.together():
            run = stack.enter_context(open_run(path))
            if ranks.first:
                stack.enter_context(lock_run(run))
            info = read_run(run)
            settings = resumed_settings(path, info, given)
            finished = read_summary(run) is not None
            check_installed(settings)
        if finished:
            progress.warn(
                f"{path} is finished: {counted(info.total_steps, 'step')}; evaluate it with `train eval {path} "
                "--cache CACHE`"
            )
            return path
        if ranks.first:
            with storage_errors(path):
                remove_leftovers(run)
        point = load_resume_point(run, settings, info, progress.warn, ranks)
        step, total = point.state.step, point.setup.total_steps
        some_unused = False
        with ranks.together():
            if not point.state.is_finished(len(point.setup.steps), settings.early_stopping):
                check_padding_free(point.setup)
                some_unused = check_memory(point.setup, point.state).some_unused
        check_agreement(point.setup, point.state, info.model_digest, point.kept)
        point = replace(point, setup=sum_gradients(point.setup, some_unused))
        stop.graceful = True
        with ranks.together():
            trackers = Trackers(progress.warn)
            if ranks.first:
                trackers = open_trackers(settings, run, info, step, progress.warn, progress.quiet)
        progress.log(f"resuming {path} at step {step:,} of {total:,}")
        return _train_to_end(run, point, progress, stop, trackers)


def train(setup: TrainingSetup, state: State, callbacks: Callbacks) -> bool:
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


def _make_run(stack: ExitStack, ranks: Ranks, info: RunInfo, progress: TrainingProgress) -> tuple[Folder, Trackers]:
    """The folder of a new run, made by the first rank and opened by the others, and its trackers; if anything fails,
    nothing is left behind."""
    path, settings, trackers = Path(), b"", Trackers(progress.warn)
    with ranks.together():
        if ranks.first:
            run = stack.enter_context(new_run(info.settings.out, info.cache_name))
            path = run.path
    try:
        with ranks.together():
            if ranks.first:
                settings = write_settings(run, info)
        path, settings = ranks.gather((path, settings))[0]
        with ranks.together():
            if not ranks.first:
                run = stack.enter_context(open_shared_run(path, settings))
        with ranks.together():
            if ranks.first:
                trackers = open_trackers(info.settings, run, info, None, progress.warn, progress.quiet)
    except LengthwiseError:  # on the first rank, whichever failed
        for name in run.names():
            run.remove(name)
        run.path.rmdir()
        raise
    return run, trackers


def _train_to_end(
    run: Folder, start: ResumePoint, progress: TrainingProgress, stop: StopRequest, trackers: Trackers
) -> Path:
    """Train, export the model, write the summary; the trackers are closed last, for that may be slow."""
    setup, state = start.setup, start.state
    with trackers:
        with setup.ranks.together():
            owner = checkpoint_owner(start.info)
            callbacks = RunCallbacks(setup, state, run, owner, start.kept, progress, stop, trackers)
        try:
            if trackers.fresh and start.kept:
                trackers.catch_up(joined_records(read_records(run, METRICS), read_records(run, TIMING)))
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
