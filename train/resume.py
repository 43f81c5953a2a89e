"""Where an interrupted run is resumed, and whether it can be resumed exactly."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cache import Cache, open_cache
from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.common.hub import local_folder, user_path
from cache.errors import LengthwiseError, MismatchError
from cache.format.tasks import MLM, Task

from .forward.losses import BALANCED, resolve_weights
from .loop.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from .loop.checkpoints import clean, newest_checkpoint
from .loop.resolution import absolute_model, cache_requirements, keep_plan, main_metric
from .loop.setup import checkpoint_owner, environment, prepare_training
from .loop.state import Meter, ResumePoint, State
from .models.folder import CONFIG
from .models.loading import load_model, model_digest, model_folder
from .run_folder.folder import CHECKPOINTS, RUNS, Json, RunInfo, open_run, read_run, read_summary
from .runtime import device as devices
from .runtime.distributed import Ranks
from .runtime.launch import is_restarted, launch_id
from .settings import AUTO, FREE_ON_RESUME, Settings, contradictions


def resumed_settings(folder: Path, info: RunInfo, given: Mapping[str, Any]) -> Settings:
    """The settings of a run to resume, with those that were given where they may differ.

    Raises:
        MismatchError: what was given would change the run's numbers, or names another folder for them.
    """
    differences = contradictions(info.settings, _resolve_given(given, info))
    if "out" in given and user_path(given["out"]).resolve() != folder.resolve():
        differences.append(f"--out is {given['out']}, but a run is resumed in its own folder, {folder}")
    _refuse(folder, differences)
    return replace(info.settings, **{name: value for name, value in given.items() if name in FREE_ON_RESUME})


def _resolve_given(given: Mapping[str, Any], info: RunInfo) -> dict[str, Any]:
    """What was given on the command line, as the resolved settings of the run would hold it."""
    resolved, run = dict(given), info.settings
    if given.get("keep_best") == AUTO:
        # Of tagged words it depends on the tags, which only the cache has; but no tags have both of these scores.
        tasks = [Task(str(run.task), names) for names in ((), ("O",))]
        scores = [main_metric(task, run.task == MLM, info.metric) for task in tasks]
        resolved["keep_best"] = run.keep_best if run.keep_best in scores else scores[0]
    if "class_weights" in given and run.class_weights not in (None, BALANCED):
        task = Task(str(run.task), tuple(json.loads(run.class_weights)))
        resolved["class_weights"] = resolve_weights(given["class_weights"], 0, task, task.kind)
    if "model" in given:
        resolved["model"] = absolute_model(given["model"])
    if given.get("precision") == "auto":
        resolved["precision"] = devices.pick_precision("auto", devices.pick_device(given.get("device", run.device)))
    return resolved


def load_resume_point(
    run: Folder, settings: Settings, info: RunInfo, warn: Callable[[str], None], ranks: Ranks
) -> ResumePoint:
    """The newest intact checkpoint of a run, loaded; or its beginning, if it was killed before the first one.

    The first rank chooses it, each reads it.

    Raises:
        MismatchError: settings, cache, device or model are not those of the run.
    """
    found: Checkpoint | None = None
    with ranks.together():
        cache = open_cache(settings.cache, quiet=not ranks.first)
        device = devices.pick_device(settings.device, ranks.local_rank if ranks.several else None)
        _refuse(run.path, _differences(info, settings, cache, device))
        resolve_weights(settings.class_weights, 0, cache.manifest.task, str(settings.task))
        if ranks.first:
            with storage_errors(run.path / CHECKPOINTS):
                root = run.folder(CHECKPOINTS, make=True)
            clean(root)
            found = newest_checkpoint(root, checkpoint_owner(info), warn)
            keep_plan(cache, settings)
            if changed := _changes(info.environment, environment(device, ranks)):
                warn(f"warning: its numbers may differ from those of an uninterrupted run: {'; '.join(changed)}")
    name = ranks.gather(found and found.folder.path.name)[0]
    with ranks.together():
        if name and found is None:
            found = read_checkpoint(run.folder(CHECKPOINTS), name)
        source = model_folder(str(settings.model)) if found is None else found.folder.path
        new_head = settings.new_head and found is None  # a checkpoint's head is the run's
        model = load_model(source, cache_requirements(cache, settings), settings.seed, new_head=new_head)
        setup = prepare_training(model, cache, settings, device, ranks)
        if found is not None:
            return ResumePoint(setup, info, load_checkpoint(found, setup), found.records)
        torch.manual_seed(settings.seed)
        return ResumePoint(setup, info, State(Meter(device, ranks=ranks)), {})


def interrupted_run(settings: Settings) -> Path | None:
    """The unfinished run that an earlier attempt of this launch by torchrun made; None if this is the first attempt, or
    none was made."""
    if not is_restarted():
        return None
    runs = Path(RUNS)
    for path in [Path(settings.out)] if settings.out else sorted(runs.iterdir()) if runs.is_dir() else []:
        with suppress(LengthwiseError, OSError), open_run(path) as run:
            if read_run(run).environment.get("launch") == launch_id() and read_summary(run) is None:
                return path
    return None


def _differences(info: RunInfo, settings: Settings, cache: Cache, device: torch.device) -> list[str]:
    found = []
    if cache.manifest.fingerprint != info.cache_fingerprint:
        found.append(
            f"the cache {cache.folder} has the fingerprint {cache.manifest.fingerprint[:12]}, "
            f"the run was made with {info.cache_fingerprint[:12]}"
        )
    if device.type != info.settings.device.partition(":")[0]:
        found.append(f"--device is {info.settings.device} in the run, {device} here")
    source = local_folder(str(settings.model))
    if source is not None and (source / CONFIG).is_file() and model_digest(source) != info.model_digest:
        found.append(f"--model {settings.model}: its files are no longer those the run started from")
    return found


def _changes(before: Json, here: Json) -> list[str]:
    """What differs between two environments; a device's name counts the threads of a CPU, which matter there alone."""
    names = ("torch", "transformers", "device", "ranks")
    return [
        f"{name} was {before.get(name, 1)}, is {here.get(name, 1)}"
        for name in names
        if before.get(name) != here.get(name)
    ]


def _refuse(folder: Path, differences: list[str]) -> None:
    """Raise a MismatchError if there are differences."""
    if differences:
        raise MismatchError(
            f"{folder} cannot be resumed exactly, because of these differences:\n  "
            + "\n  ".join(differences)
            + "\nrestore what differs, or start a new run without --resume"
        )
