"""Finding and loading a model that is to be used, not trained: a run, its model folder, or any classifier."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from cache.errors import InputError, MismatchError
from cache.format.tasks import MLM

from .. import device as devices
from ..run import CARD
from ..run_folder.records import MODEL, SETTINGS
from .cpu_attention import use_cpu_kernels
from .loading import (
    PROBLEMS,
    Needs,
    check_fit,
    check_weights,
    empty_model,
    has_trained_head,
    is_masked,
    kind_of,
    label_names,
    load_weights,
    model_folder,
    read_config,
    usable_positions,
)
from .pooled import use_pooled_only

LONGEST_DEFAULT = 512
"""Tokens a text is cut to where neither the model nor its folder says more."""


def finished_model(name: str) -> Path:
    """The model folder of a run, or of a folder or Hub id that is a model itself.

    Raises:
        InputError: the run is not finished, or there is no such model.
    """
    run = Path(name)
    if (run / SETTINGS).is_file():
        if not (run / MODEL / "config.json").is_file():
            raise InputError(f"{run} is not finished, so it has no model yet; go on with `train run --resume {run}`")
        return run / MODEL
    return model_folder(name)


def load_classifier(folder: Path, device: torch.device, needs: Needs | None = None) -> PreTrainedModel:
    """A trained classifier, ready to predict on `device`.

    Args:
        folder: from `finished_model`.
        device: where it shall be.
        needs: of the cache it is to be evaluated on, if any.

    Raises:
        InputError: it is no trained classifier.
        MismatchError: it does not fit the cache, or its labels are others.
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
            f"{folder} is no trained classifier ({config.architectures}); train it with `train run --model`"
        )
    if needs is not None:
        _check_labels(folder, needs)
        check_fit(folder, config, needs)
        names = label_names(config)
        if needs.label_names and names != needs.label_names and not all(name.startswith("LABEL_") for name in names):
            raise MismatchError(
                f"the labels of {folder} are {', '.join(names[:8])}, those of the cache {needs.folder} are "
                f"{', '.join(needs.label_names[:8])}; evaluate it on a cache with the same labels in the same order"
            )
        config.pad_token_id = needs.manifest.tokenizer.pad_id
    kind = kind_of(config)
    config.problem_type = PROBLEMS[kind]
    model, _ = load_weights(folder, config, kind)
    use_pooled_only(model)  # the same logits
    return _ready(model, device)


def load_scored(folder: Path, device: torch.device, needs: Needs) -> PreTrainedModel:
    """A model to be evaluated on a cache: a masked language model, for which any will do, or a trained classifier.

    Raises:
        InputError, MismatchError: as for `load_classifier`; or a masked language model has no head for tokens.
    """
    config = read_config(folder)
    if not is_masked(config):
        return load_classifier(folder, device, needs)
    check_weights(folder)
    check_fit(folder, config, replace(needs, asked=MLM))
    config.pad_token_id = needs.manifest.tokenizer.pad_id
    model, new = load_weights(folder, config, MLM)
    if new:
        raise InputError(
            f"the weights in {folder} have no head that predicts tokens; train one: "
            f"train run --cache {needs.folder} --task mlm --model {folder}"
        )
    return _ready(model, device)


def _ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    devices.prepare(device)
    model.to(device)  # type: ignore[arg-type]  # transformers types `to` as for half-loaded models
    use_cpu_kernels(model, device)
    model.eval()
    return model


def _check_labels(folder: Path, needs: Needs) -> None:
    """Refuse a cache that holds no labels, or texts alone for a model of pairs, or the other way round."""
    task = needs.manifest.task
    if not task.labelled:
        raise MismatchError(
            f"{folder} is a classifier, but the cache {needs.folder} holds no labels (built with --task mlm); "
            "build one that does, under another name: prep build SOURCE --label COLUMN --name OTHER"
        )
    pair = _json(folder / CARD).get("pair")
    if isinstance(pair, bool) and pair != task.pair:
        words = {True: "pairs of texts", False: "single texts"}
        remedy = "with" if pair else "without"
        raise MismatchError(
            f"the model {folder} was trained on {words[pair]}, the cache {needs.folder} holds {words[task.pair]}; pass "
            f"another one, or build it {remedy} --text-pair"
        )


def longest_text(folder: Path) -> int:
    """Tokens that a text is cut to: the length the model was trained at, or the longest that it can take."""
    length = _json(folder / CARD).get("max_length")
    if isinstance(length, int) and length > 0:
        return length
    config = read_config(folder)
    positions = usable_positions(empty_model(config, kind_of(config)))
    stated = _json(folder / "tokenizer_config.json").get("model_max_length")
    limits = [n for n in (positions, stated) if isinstance(n, int) and 0 < n < 1 << 20]
    return min(limits, default=LONGEST_DEFAULT)


def takes_pairs(folder: Path) -> bool:
    """Whether the model was trained on pairs of texts."""
    return _json(folder / CARD).get("pair") is True


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
