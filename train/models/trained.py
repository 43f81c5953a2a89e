"""Loading a trained model, for evaluation or prediction."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from cache.errors import InputError, MismatchError
from cache.format.tasks import MLM

from .. import device as devices
from .cpu_attention import use_cpu_kernels
from .fit import CacheRequirements, check_fit, usable_positions
from .heads import PROBLEMS, empty_model, has_trained_head, is_masked, kind_of, label_names
from .loading import check_weights, load_weights, read_config
from .pooled import use_pooled_only

DETAILS = "lengthwise.json"
"""File in a trained model's folder: maximum length, task, pairs or not, and the cache it was trained on."""

DEFAULT_MAX_LENGTH = 512
"""Tokens a text is truncated to where neither the model nor its folder gives a limit."""


def load_classifier(folder: Path, device: torch.device, required: CacheRequirements | None = None) -> PreTrainedModel:
    """A trained classifier, ready to predict on `device`.

    Args:
        folder: of the model.
        device: where to put it.
        required: requirements of the cache to evaluate it on, if any.

    Raises:
        InputError: it is not a trained classifier.
        MismatchError: it does not fit the cache, or its labels differ.
    """
    config = read_config(folder)
    check_weights(folder)
    if is_masked(config):
        raise InputError(
            f"{folder} is a masked language model, which gives no labels; train a classifier from it: "
            f"train run --cache CACHE --model {folder}"
        )
    if not has_trained_head(config):
        raise InputError(
            f"{folder} is not a trained classifier ({config.architectures}); train it with `train run --model`"
        )
    if required is not None:
        _check_labels(folder, required)
        check_fit(folder, config, required)
        names = label_names(config)
        if (
            required.label_names
            and names != required.label_names
            and not all(name.startswith("LABEL_") for name in names)
        ):
            raise MismatchError(
                f"the labels of {folder} are {', '.join(names[:8])}, those of the cache {required.folder} are "
                f"{', '.join(required.label_names[:8])}; evaluate it on a cache with the same labels in the same order"
            )
        config.pad_token_id = required.manifest.tokenizer.pad_id
    kind = kind_of(config)
    config.problem_type = PROBLEMS[kind]
    model, _ = load_weights(folder, config, kind)
    use_pooled_only(model)  # the same logits
    return _ready(model, device)


def load_for_evaluation(folder: Path, device: torch.device, required: CacheRequirements) -> PreTrainedModel:
    """A model to evaluate on a cache: a masked language model, which fits any cache, or a trained classifier.

    Raises:
        InputError, MismatchError: as for `load_classifier`; or a masked language model without a head.
    """
    config = read_config(folder)
    if not is_masked(config):
        return load_classifier(folder, device, required)
    check_weights(folder)
    check_fit(folder, config, replace(required, task=MLM))
    config.pad_token_id = required.manifest.tokenizer.pad_id
    model, new = load_weights(folder, config, MLM)
    if new:
        raise InputError(
            f"the weights in {folder} have no head that predicts tokens; train one: "
            f"train run --cache {required.folder} --task mlm --model {folder}"
        )
    return _ready(model, device)


def _ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    devices.prepare(device)
    model.to(device)  # type: ignore[arg-type]  # transformers types `to` as for half-loaded models
    use_cpu_kernels(model, device)
    model.eval()
    return model


def _check_labels(folder: Path, required: CacheRequirements) -> None:
    """Refuse a cache without labels, and a cache of single texts for a model of pairs or the other way round."""
    task = required.manifest.task
    if not task.labelled:
        raise MismatchError(
            f"{folder} is a classifier, but the cache {required.folder} holds no labels (built with --task mlm); "
            "build one that does, under another name: prep build SOURCE --label COLUMN --name OTHER"
        )
    pair = _json(folder / DETAILS).get("pair")
    if isinstance(pair, bool) and pair != task.pair:
        words = {True: "pairs of texts", False: "single texts"}
        remedy = "with" if pair else "without"
        raise MismatchError(
            f"the model {folder} was trained on {words[pair]}, the cache {required.folder} holds {words[task.pair]}; "
            f"pass another one, or build it {remedy} --text-pair"
        )


def max_text_length(folder: Path) -> int:
    """Tokens that a text is truncated to: the length the model was trained at, or the longest that it can take."""
    length = _json(folder / DETAILS).get("max_length")
    if isinstance(length, int) and length > 0:
        return length
    config = read_config(folder)
    positions = usable_positions(empty_model(config, kind_of(config)))
    stated = _json(folder / "tokenizer_config.json").get("model_max_length")
    limits = [n for n in (positions, stated) if isinstance(n, int) and 0 < n < 1 << 20]
    return min(limits, default=DEFAULT_MAX_LENGTH)


def takes_pairs(folder: Path) -> bool:
    """Whether the model was trained on pairs of texts."""
    return _json(folder / DETAILS).get("pair") is True


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
