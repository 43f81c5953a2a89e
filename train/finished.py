"""Finding and loading a model that is to be used, not trained: a run, its model folder, or any classifier."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from cache.errors import InputError, MismatchError

from . import device as devices
from .attention import use_cpu_kernels
from .model import (
    PROBLEMS,
    Needs,
    check_fit,
    check_weights,
    empty_classifier,
    has_trained_head,
    kind_of,
    label_names,
    load_weights,
    model_folder,
    read_config,
    usable_positions,
)
from .pooled import use_pooled_only
from .records import MODEL, SETTINGS
from .run import CARD

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
    if not has_trained_head(config):
        raise InputError(
            f"{folder} is no trained classifier ({config.architectures}); train it with `train run --model`"
        )
    if needs is not None:
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
    devices.prepare(device)
    model = load_weights(folder, config, kind)
    model.to(device)  # type: ignore[arg-type]  # transformers types `to` as for half-loaded models
    use_cpu_kernels(model, device)
    use_pooled_only(model)  # the same logits
    model.eval()
    return model


def longest_text(folder: Path) -> int:
    """Tokens that a text is cut to: the length the model was trained at, or the longest that it can take."""
    length = _json(folder / CARD).get("max_length")
    if isinstance(length, int) and length > 0:
        return length
    config = read_config(folder)
    positions = usable_positions(empty_classifier(config, kind_of(config)))
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
