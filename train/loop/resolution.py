"""The settings of a run with nothing left open: every default and `auto` replaced by what it stands for on this cache
and this machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cache import Cache, Split
from cache.common.hub import user_path
from cache.errors import InputError
from cache.format.tasks import MLM, Task
from cache.plans.spec import PlanSpec
from cache.remote.urls import is_url

from ..declarations import flag
from ..forward.losses import ONE_CLASS, resolve_weights
from ..forward.masked_lm import PROBABILITY
from ..metrics.evaluation import score_names
from ..metrics.scores import main_score
from ..models.fit import CacheRequirements
from ..models.folder import CONFIG
from ..runtime import device as devices
from ..runtime.distributed import ALONE, Ranks
from ..settings import AUTO, NO_SPLIT, OFF, Settings

VALIDATION = ("validation", "validation_matched", "valid", "val", "dev")
"""Splits to evaluate where none is given, the first that is there; the second is MNLI's, the others are synonyms."""


def resolve_settings(settings: Settings, cache: Cache, ranks: Ranks = ALONE) -> tuple[Settings, torch.device]:
    """The settings with every default and `auto` replaced by what it stands for here, so that they give the same run
    anywhere; and the device of this rank.

    Raises:
        InputError: the cache or this machine does not provide what they ask for.
    """
    device = devices.pick_device(settings.device, ranks.local_rank if ranks.several else None)
    task = _resolve_task(settings, cache)
    eval_split = _resolve_split("--eval-split", settings.eval_split, cache, (*VALIDATION, "test"))
    _check_evaluated(settings, eval_split)
    after = () if eval_split in ("test", NO_SPLIT) else ("test",)
    test_split = _resolve_split("--test-split", settings.test_split, cache, after)
    spec = settings.plan_spec(training_split(cache).default_spec())
    resolved = replace(
        settings,
        strategy=spec.strategy,
        batch_size=spec.batch_size,
        max_tokens=spec.max_tokens,
        plan_seed=spec.seed,
        task=task,
        mlm_probability=(settings.mlm_probability or PROBABILITY) if task == MLM else None,
        class_weights=resolve_weights(settings.class_weights, settings.label_smoothing, cache.manifest.task, task),
        cache=settings.cache if is_url(settings.cache) else str(cache.folder.resolve()),
        model=_resolve_model(settings, cache),
        device=device.type if ranks.several else str(device),
        precision=devices.pick_precision(settings.precision, device),
        pad_to_multiple_of=settings.pad_to_multiple_of or (8 if device.type == "cuda" else 1),
        eval_split=eval_split,
        test_split=test_split,
        keep_best=_resolve_metric(settings, cache, task),
        tensorboard=_absolute_folder(settings.tensorboard),
    )
    _check_skipping(resolved, device)
    return resolved, device


def _check_skipping(settings: Settings, device: torch.device) -> None:
    """Refuse settings by which an update may be skipped where torch would make it all the same."""
    asked = {"--on-nonfinite skip": settings.on_nonfinite == "skip", "--precision fp16": settings.precision == "fp16"}
    flags = [flag for flag, given in asked.items() if given]
    if flags and not devices.skips_updates(device):
        raise InputError(
            f"{' and '.join(flags)}: torch {torch.__version__} cannot skip updates on {device}; leave it out, or "
            "install a newer torch"
        )


def _resolve_split(flag: str, given: str | None, cache: Cache, usual: Sequence[str]) -> str:
    """The split to evaluate: the one given, else the first of the usual ones that has rows, else none."""
    if given is None:
        return next((name for name in usual if name in cache and len(cache[name])), NO_SPLIT)
    if given != NO_SPLIT and not len(cache[given]):
        raise InputError(f"{flag} {given}: it has no rows; pass another one, or {flag} {NO_SPLIT}")
    return given


def _check_evaluated(settings: Settings, eval_split: str) -> None:
    """Refuse settings about evaluations where there is none."""
    for name in ("keep_best", "early_stopping", "eval_steps"):
        if getattr(settings, name) and eval_split == NO_SPLIT:
            raise InputError(
                f"{flag(name)} needs evaluations, but there is no split for them; build the cache with "
                "--validation 0.1, or pass --eval-split"
            )


def _resolve_metric(settings: Settings, cache: Cache, task: str) -> str | None:
    """The score by which the best model is found; None where the last one is exported.

    Raises:
        InputError: the task has no such score.
    """
    metric = settings.keep_best or (AUTO if settings.early_stopping else None)
    if metric is None:
        return None
    if metric == AUTO:
        return main_metric(cache.manifest.task, task == MLM, corpus_metric(cache, task))
    names = score_names(cache.manifest.task, task == MLM)
    if metric not in names:
        raise InputError(f"--keep-best {metric}: no score of this task; expected one of {', '.join(names)}")
    return metric


def main_metric(task: Task, masked: bool, corpus: str) -> str:
    """The score that --keep-best stands for without a metric: the `corpus_metric`, or that of the cache's task;
    `masked`: that of a masked language model."""
    names = score_names(task, masked)
    main = main_score(dict.fromkeys(names, 0.0), corpus)
    return main[0] if main else names[0]


def corpus_metric(cache: Cache, task: str) -> str:
    """Title of the score that the corpus is known for; empty where there is none."""
    return "" if task == MLM else str(cache.manifest.source.get("metric", ""))


def _resolve_task(settings: Settings, cache: Cache) -> str:
    """The kind of task to train for.

    Raises:
        InputError: the cache does not provide it.
    """
    built = cache.manifest.task
    kind = settings.task or built.kind
    if kind not in (built.kind, MLM):
        reason = f"is for {built.kind}" if built.labelled else "holds no labels, for it was built with --task mlm"
        raise InputError(
            f"--task {kind}: the cache {cache.folder} {reason}; build one for it, under another name: "
            f"prep build SOURCE --task {kind} --name OTHER"
        )
    if kind in ONE_CLASS and len(built.label_names) == 1:
        raise InputError(
            f"the cache {cache.folder} has only the class {built.label_names[0]!r}, and a classifier needs at least "
            f"two; build it with other labels, or pass --task {MLM}"
        )
    if settings.mlm_probability is not None and kind != MLM:
        raise InputError(f"--mlm-probability is for --task mlm, but this run is for {kind}; leave it out")
    return kind


def _absolute_folder(folder: str | None) -> str | None:
    """A tracker's folder as an absolute path, so that a resumed run finds it from any working directory."""
    return folder if folder in (None, AUTO, OFF) else str(user_path(str(folder)).resolve())


def _resolve_model(settings: Settings, cache: Cache) -> str:
    """The model to start from: the one given, else the one whose tokenizer made the cache.

    Raises:
        InputError: none is given, and the tokenizer's folder holds no model.
    """
    model = absolute_model(settings.model or cache.manifest.tokenizer.name)
    if settings.model is None and Path(model).is_dir() and not (Path(model) / CONFIG).is_file():
        raise InputError(
            f"--model is missing: {model}, whose tokenizer made the cache, holds no {CONFIG}, so it is not a model; "
            "pass --model with a model that takes this tokenizer's ids"
        )
    return model


def absolute_model(model: str) -> str:
    """A model's name, a local folder as an absolute path, so that it is found from any working directory."""
    path = user_path(model)
    return str(path.resolve()) if path.is_dir() else model


def cache_requirements(cache: Cache, settings: Settings) -> CacheRequirements:
    """What the rows to train on and to evaluate require of a model."""
    others = [cache[name] for name in (settings.eval_split, settings.test_split) if name not in (None, NO_SPLIT)]
    longest = max(split.info.longest for split in [training_split(cache), *others])
    multiple, most = settings.pad_to_multiple_of or 1, cache.manifest.max_length
    width = most if settings.strategy == "fixed" else min(-(-longest // multiple) * multiple, most)
    return CacheRequirements(cache, width, settings.task)


def training_split(cache: Cache) -> Split:
    """The split to train on.

    Raises:
        InputError: there is none, or it has no rows.
    """
    split = cache["train"]
    if not len(split):
        raise InputError(f"{cache.folder}: its split 'train' has no rows, so there is nothing to train on")
    return split


# --- its plan


def keep_plan(cache: Cache, settings: Settings) -> None:
    """Store the plan of a run's epochs in the cache, where that can be written."""
    split = training_split(cache)
    spec = settings.plan_spec(split.default_spec())
    split.try_keep_plan(spec, epochs_reached(split, spec, settings))


def epochs_reached(split: Split, spec: PlanSpec, settings: Settings) -> int:
    """Epochs that a run begins at most, known without drawing their plans."""
    if settings.max_steps is None:
        return settings.epochs
    fewest = -(-len(split) // spec.batch_size) if spec.batch_size else -(-split.info.tokens // (spec.max_tokens or 1))
    return min(settings.epochs, -(-settings.max_steps // max(1, fewest)))


def epoch_steps(split: Split, spec: PlanSpec, settings: Settings) -> tuple[int, ...]:
    """Optimizer steps of each epoch, the last one cut to `max_steps`."""
    stored = split.stored_plans().get(spec)
    known = [epoch.batches for epoch in stored.epochs] if stored else []
    steps: list[int] = []
    left = settings.max_steps if settings.max_steps is not None else 1 << 62
    for epoch in range(settings.epochs):
        count = known[epoch] if epoch < len(known) else len(split.draw(spec, epoch))
        steps.append(min(count, left))
        left -= steps[-1]
        if left == 0:
            break
    return tuple(steps)
