"""The training loss: the model's own, or cross-entropy with class weights and label smoothing.

Evaluation always uses the model's own loss, so that runs with different training losses can be compared.

Shapes: B rows, W columns, N rows of a split, C classes.
"""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from cache import Split
from cache.common.arrays import Array
from cache.common.hub import user_path
from cache.errors import InputError
from cache.format.tasks import IGNORED, TOKENS, Task

BALANCED = "balanced"
"""The `class_weights` that are computed from the training split."""

ONE_CLASS = ("classification", TOKENS)
"""Kinds of tasks whose loss is a cross-entropy over classes."""

Loss = Callable[[Callable[..., Any], dict[str, torch.Tensor]], torch.Tensor]
"""From a model's forward and its inputs to the mean loss () over the batch's targets."""


def model_loss(forward: Callable[..., Any], inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss that the model computes itself."""
    loss: torch.Tensor = forward(**inputs).loss
    return loss


def class_loss(
    weights: torch.Tensor | None, smoothing: float, forward: Callable[..., Any], inputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Cross-entropy with class weights (C,), None for all alike, and label smoothing (Szegedy et al. 2016).

    The mean is over targets and not over their weights, so that micro-batches add up to the loss of the whole batch.
    """
    inputs = dict(inputs)
    labels = inputs.pop("labels").flatten()  # (B,) or (B·W,)
    logits = forward(**inputs).logits.flatten(0, -2).float()  # (B, C) or (B·W, C)
    summed = cross_entropy(logits, labels, weights, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)
    return summed / (labels != IGNORED).sum()


def training_loss(split: Split, weights: str | None, smoothing: float, device: torch.device) -> Loss:
    """The loss to train with; the class weights are from `resolve_weights`."""
    if weights is None and not smoothing:
        return model_loss
    values = None
    if weights == BALANCED:
        values = balanced_weights(split)
    elif weights is not None:
        values = np.array([json.loads(weights)[name] for name in split.task.label_names], np.float32)
    return partial(class_loss, None if values is None else torch.from_numpy(values).to(device), smoothing)


def balanced_weights(split: Split) -> Array:
    """(C,) float32, for each class N / (C x its rows), as scikit-learn's `compute_class_weight("balanced")`; over
    labelled tokens in token classification. 1 for a class that does not occur. Their mean over the rows is 1.
    """
    labels = split.labels[split.labels != IGNORED]
    classes = len(split.task.label_names)
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.ones(classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights


def resolve_weights(given: str | None, smoothing: float, task: Task, kind: str) -> str | None:
    """The class weights as they are kept in a run's settings: "balanced", or a JSON object of the weight of each class.

    Args:
        given: "balanced", the path of a JSON file, or what this function returned before.
        smoothing: of the labels, checked along with them.
        task: of the cache.
        kind: of the task to train for.

    Raises:
        InputError: the task has no such loss, or the file does not give each class a weight above 0.
    """
    flags = [flag for flag, used in (("--class-weights", given), ("--label-smoothing", smoothing)) if used]
    if flags and kind not in ONE_CLASS:
        raise InputError(f"{' and '.join(flags)}: for {' and '.join(ONE_CLASS)} only, but this run is for {kind}")
    if given in (None, BALANCED):
        return given
    source, text = "--class-weights", str(given)
    if not text.startswith("{"):
        source, text = f"--class-weights {given}", _read(user_path(text))
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: is not JSON ({error}); expected {_example(task)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected a JSON object such as {_example(task)}")
    wrong = sorted(set(content) ^ set(task.label_names))
    wrong += [name for name in content if name in task.label_names and not _is_weight(content[name])]
    if wrong:
        raise InputError(
            f"{source}: wrong for {', '.join(map(repr, wrong[:8]))}; expected a number above 0 for each class of the "
            f"cache and no other, such as {_example(task)}"
        )
    return json.dumps({name: float(content[name]) for name in task.label_names}, ensure_ascii=False)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise InputError(f"--class-weights {path}: {reason}; expected {BALANCED} or a JSON file") from None


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _example(task: Task) -> str:
    return json.dumps(dict.fromkeys(task.label_names[:3], 1.0), ensure_ascii=False)
