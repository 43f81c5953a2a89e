"""Loading a trained model, for evaluation or prediction."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from cache.errors import InputError, MismatchError
from cache.format.tasks import MLM

from ..forward.pooled import use_pooled_only
from ..kernels.cpu_attention import use_cpu_kernels
from ..runtime import device as devices
from .classes import map_classes
from .configuration import read_config
from .fit import CacheRequirements, check_fit, usable_positions
from .folder import MAX_LENGTH, MAX_TOKENIZER_BYTES, TOKENIZER, TOKENIZER_CONFIG, ModelFolder, parse_tokenizer
from .heads import PROBLEMS, has_trained_head, is_masked, kind_of
from .library_errors import library_errors
from .loading import load_weights

DEFAULT_MAX_LENGTH = 512
"""Tokens a text is truncated to where neither the model nor its folder gives a limit."""


def load_text_classifier(path: Path, device: torch.device) -> tuple[PreTrainedModel, Any, bool | None]:
    """A trained classifier of texts.

    Returns:
        The model, on its device; its `tokenizers.Tokenizer`, which truncates to what the model takes, without padding;
        and whether it takes pairs of texts, None where its folder does not say so.

    Raises:
        InputError: it is not a trained classifier, or it has no tokenizer.
        LengthwiseError: its files cannot be used.
    """
    with ModelFolder(path) as folder:
        data = folder.read(TOKENIZER, MAX_TOKENIZER_BYTES)
        if data is None:
            read_config(folder)  # refuses a folder that is no model
            raise InputError(
                f"{path} holds no {TOKENIZER}, expected one beside the model; copy it there from the folder tokenizer/ "
                "of the cache that the model was trained on, or save it with save_pretrained(…)"
            )
        tokenizer = parse_tokenizer(data, path / TOKENIZER)
        model = _load_classifier(folder, device, None)
        max_length = _max_length(folder, model)
        side = "left" if (folder.read_json(TOKENIZER_CONFIG) or {}).get("truncation_side") == "left" else "right"
    with library_errors(InputError, f"{path / TOKENIZER}: cannot truncate to {max_length:,} tokens"):
        tokenizer.enable_truncation(max_length, direction=side)
    return model, tokenizer, folder.pair


def _load_classifier(folder: ModelFolder, device: torch.device, required: CacheRequirements | None) -> PreTrainedModel:
    config, path = read_config(folder), folder.path
    if not has_trained_head(config):
        kind = f"not a trained classifier ({config.architectures})"
        if is_masked(config):
            kind = "a masked language model, which gives no labels"
        raise InputError(f"{path} is {kind}; train a classifier from it: train run --cache CACHE --model {path}")
    if required is not None:
        _check_labels(folder, required)
        check_fit(folder, config, required, evaluated=True)
        map_classes(config, required.cache.manifest.task, device)
        config.pad_token_id = required.cache.manifest.tokenizer.pad_id
    kind = kind_of(config)
    if kind == "regression" and config.num_labels != 1:
        raise InputError(f"{path} gives {config.num_labels} numbers for each text, expected one; pass another model")
    config.problem_type = PROBLEMS[kind]
    model = _with_trained_head(folder, config, kind)
    use_pooled_only(model)  # the same logits
    return _ready(model, device)


def load_for_evaluation(path: Path, device: torch.device, required: CacheRequirements) -> PreTrainedModel:
    """A model to evaluate on a cache: a masked language model, which fits any cache, or a trained classifier.

    Raises:
        InputError: it is neither.
        MismatchError: it does not fit the cache, or lacks one of its classes.
        LengthwiseError: its files cannot be used.
    """
    with ModelFolder(path) as folder:
        config = read_config(folder)
        if not is_masked(config):
            return _load_classifier(folder, device, required)
        check_fit(folder, config, replace(required, task=MLM), evaluated=True)
        config.pad_token_id = required.cache.manifest.tokenizer.pad_id
        return _ready(_with_trained_head(folder, config, MLM), device)


def _with_trained_head(folder: ModelFolder, config: PretrainedConfig, kind: str) -> PreTrainedModel:
    model, new = load_weights(folder, config, kind)
    if new:
        task = " --task mlm" if kind == MLM else ""
        raise InputError(
            f"the weights in {folder.path} have no head for {kind}, though its configuration says so; train one: "
            f"train run --cache CACHE{task} --model {folder.path}"
        )
    return model


def _ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    devices.prepare(device)
    with devices.memory_errors():
        model.to(device)  # type: ignore[arg-type]  # transformers types `to` as for half-loaded models
    use_cpu_kernels(model, device)
    model.eval()
    return model


def _check_labels(folder: ModelFolder, required: CacheRequirements) -> None:
    """Refuse a cache without labels, and a cache of single texts for a model of pairs or the other way round."""
    task = required.cache.manifest.task
    if not task.labelled:
        raise MismatchError(
            f"{folder.path} is a classifier, but the cache {required.cache.folder} holds no labels (built "
            "with --task mlm); build one that does, under another name: prep build SOURCE --label COLUMN --name OTHER"
        )
    if folder.pair not in (None, task.pair):
        words = {True: "pairs of texts", False: "single texts"}
        remedy = "with" if folder.pair else "without"
        raise MismatchError(
            f"the model {folder.path} was trained on {words[not task.pair]}, the cache {required.cache.folder} "
            f"holds {words[task.pair]}; pass another one, or build it {remedy} --text-pair"
        )


def _max_length(folder: ModelFolder, model: PreTrainedModel) -> int:
    """Tokens that a text is truncated to: the length the model was trained at, or the longest that it can take."""
    trained, positions = folder.max_length, usable_positions(model)
    stated = trained or (folder.read_json(TOKENIZER_CONFIG) or {}).get("model_max_length")
    limits = [n for n in (positions, stated) if type(n) is int and 0 < n <= MAX_LENGTH]
    return min(limits, default=DEFAULT_MAX_LENGTH)
