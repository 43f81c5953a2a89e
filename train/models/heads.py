"""Task heads: the model classes of transformers for each task, and what a saved model's head was trained for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging as transformers_logging

from cache.errors import InputError
from cache.format.tasks import MLM, TOKENS

from .library_errors import library_errors

MAX_TENSORS = 1 << 16
"""Most parameters of a model, so that no configuration makes building one take forever."""

ENCODERS = "an encoder such as BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa or ModernBERT"


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and its reports about new heads."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


CLASSES: dict[str, tuple[Any, str]] = {
    MLM: (AutoModelForMaskedLM, "masked language model"),
    TOKENS: (AutoModelForTokenClassification, "token classifier"),
}
"""Kind of a task to the class of its models and what these are called; other kinds use a sequence classifier."""


def empty_model(config: PretrainedConfig, kind: str) -> PreTrainedModel:
    """A task's model on torch's `meta` device, which allocates no memory for its weights; they are not initialized.

    Raises:
        InputError: transformers has no model of this type for the task, or cannot build one of this configuration.
    """
    auto_class, name = CLASSES.get(kind, (AutoModelForSequenceClassification, "sequence classifier"))
    tensors = 0

    def count(*_: object) -> None:
        nonlocal tensors
        tensors += 1
        if tensors > MAX_TENSORS:
            raise ValueError(f"it has more than {MAX_TENSORS:,} tensors")

    hook = register_module_parameter_registration_hook(count)
    what = f"a model of type {config.model_type!r} cannot be built from its configuration"
    try:
        with torch.device("meta"), no_init_weights(), quiet_transformers(), library_errors(InputError, what):
            model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=False)
            return model
    except InputError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise InputError(
            f"a model of type {config.model_type!r} has no {name} in transformers; pass {ENCODERS}"
        ) from None
    finally:
        hook.remove()


def has_trained_head(config: PretrainedConfig) -> bool:
    """Whether the model was saved as a classifier, with a trained head."""
    heads = ("ForSequenceClassification", TOKEN_HEAD)
    return any(head in name for name in config.architectures or [] for head in heads)


TOKEN_HEAD = "ForTokenClassification"
"""How the names of token classifiers end."""


def is_masked(config: PretrainedConfig) -> bool:
    """Whether the model was saved as a masked language model."""
    return any(name.endswith("ForMaskedLM") for name in config.architectures or [])


def label_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Names of a classifier's classes, class 0 first."""
    names = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    return tuple(names.get(number, f"LABEL_{number}") for number in range(config.num_labels or 0))


PROBLEMS: dict[str, Any] = {
    TOKENS: None,  # token classifiers have only one loss
    "classification": "single_label_classification",
    "regression": "regression",
    "multi-label": "multi_label_classification",
}
"""Kind of a task to what transformers calls it."""


def kind_of(config: PretrainedConfig) -> str:
    """The kind of task that a trained classifier's head is for."""
    if any(TOKEN_HEAD in name for name in config.architectures or []):
        return TOKENS
    kinds = {problem: kind for kind, problem in PROBLEMS.items()}
    return kinds.get(str(config.problem_type), "regression" if config.num_labels == 1 else "classification")
