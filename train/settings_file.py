"""How users write settings: the file that `train run --config` names, and what the Hugging Face Trainer calls them."""

import json
import tomllib
from pathlib import Path
from typing import Any

from cache.errors import InputError

TRAINER_NAMES = {
    "adam_beta1": "--beta1",
    "adam_beta2": "--beta2",
    "adam_epsilon": "--eps",
    "bf16": "--precision bf16",
    "data_seed": "--plan-seed",
    "dataset_name": "--cache",
    "eval_strategy": "--eval-steps",
    "fp16": "--precision fp16",
    "group_by_length": "--strategy",
    "label_smoothing_factor": "--label-smoothing",
    "learning_rate": "--lr",
    "load_best_model_at_end": "--keep-best",
    "max_length": "--max-length of `prep build`",
    "max_seq_length": "--max-length of `prep build`",
    "metric_for_best_model": "--keep-best",
    "model_name_or_path": "--model",
    "num_train_epochs": "--epochs",
    "output_dir": "--out",
    "per_device_eval_batch_size": "--eval-batch-size",
    "per_device_train_batch_size": "--batch-size",
    "report_to": "--tensorboard or --wandb",
    "resume_from_checkpoint": "--resume",
    "save_total_limit": "--keep-checkpoints",
    "tokenizer_name": "--tokenizer of `prep build`",
    "torch_compile": "--compile",
    "train_file": "--cache, made by `prep build`",
}
"""Names of arguments of the Hugging Face Trainer and its examples, and what is nearest to them here."""


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML file, a JSON file, or the settings.json of a run, without the run's own folder.

    Raises:
        InputError: the file cannot be read, or is not a table of settings.
    """
    kind = "TOML" if path.suffix.lower() == ".toml" else "JSON"
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; expected a .toml or .json file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--config {path} does not parse as {kind}: {error}; expected a .toml or .json file") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = {name: value for name, value in content["settings"].items() if name != "out"}
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds a {type(content).__name__}, expected names and values of settings")
    return {name.replace("-", "_"): value for name, value in content.items()}
