"""Whether a model fits a cache: vocabulary, positions, padding, task, labels and tokens.

Most of it is known from the configuration, before the weights are read: the model is built on torch's `meta` device,
which allocates no memory, and its embedding tables show what they can hold.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from cache import Cache
from cache.errors import MismatchError
from cache.format.tasks import MLM

from .folder import MAX_TOKENIZER_BYTES, TOKENIZER, ModelFolder, parse_tokenizer
from .heads import empty_model, has_trained_head, kind_of

POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
"""Names of the embedding table that limits a row's length."""


@dataclass(frozen=True)
class CacheRequirements:
    """What a cache requires of a model.

    Attributes:
        cache: the cache.
        width: columns of the widest batch.
        task: the kind of task, where it is not the one the cache was built for.
    """

    cache: Cache
    width: int
    task: str | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes, class 0 first; empty where there are no classes."""
        return () if self.kind == MLM else self.cache.manifest.task.label_names

    @property
    def kind(self) -> str:
        """The kind of task, one of `cache.format.tasks.KINDS`."""
        return self.task or self.cache.manifest.task.kind


def vocabulary_size(model: PreTrainedModel) -> int:
    """Entries of a model's table of token embeddings; 0 where it has none, as CANINE, which reads characters."""
    with suppress(NotImplementedError):
        return int(getattr(model.get_input_embeddings(), "num_embeddings", 0))
    return 0


def position_table(model: PreTrainedModel) -> torch.nn.Embedding | None:
    """A model's table of position embeddings, if it has one.

    RoBERTa and its relatives number positions from their padding id + 1, which is the table's padding index.
    """
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and isinstance(module, torch.nn.Embedding):
            return module
    return None


def usable_positions(model: PreTrainedModel) -> int | None:
    """The longest row a model can take, tokens; None where nothing limits it."""
    table = position_table(model)
    if table is None:
        return None
    unused = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - unused - int(getattr(table, "offset", 0))


def check_fit(
    folder: ModelFolder, config: PretrainedConfig, required: CacheRequirements, evaluated: bool = False
) -> None:
    """Refuse a model that cannot compute the cache's rows, or whose tokenizer gives their ids another meaning. A cache
    that it is `evaluated` on, not trained, may have some of its classes.

    Raises:
        MismatchError: all reasons, one per line, and what to do about them.
    """
    of_rows = [*_row_problems(config, required), *_token_problems(folder, required)]
    of_head = list(_head_problems(config, required, evaluated))
    if of_rows or of_head:
        remedies = ["another model"]
        if of_head and not evaluated:
            remedies.append("--new-head")
        if of_head:
            remedies.append("a --cache of the model's task and classes")
        if of_rows:
            remedies.append(f"build the cache with this model's tokenizer: prep build … --tokenizer {folder.path}")
        raise MismatchError(
            f"the model {folder.path} does not fit the cache {required.cache.folder}:\n  "
            + "\n  ".join([*of_rows, *of_head])
            + "\npass "
            + ", or ".join(remedies)
        )


def _row_problems(config: PretrainedConfig, required: CacheRequirements) -> Iterator[str]:
    """The model must be able to compute the cache's ids, in rows of their lengths."""
    model, tokenizer = empty_model(config, required.kind), required.cache.manifest.tokenizer
    entries = vocabulary_size(model)
    if entries < tokenizer.vocab_size:
        yield f"vocabulary: it has {entries:,} embeddings, the cache's ids go up to {tokenizer.vocab_size - 1:,}"
    positions = usable_positions(model)
    if positions is not None and positions < required.width:
        yield (
            f"positions: it takes rows of at most {positions:,} tokens, the cache's batches are up to "
            f"{required.width:,} wide; build it with --max-length {positions}"
        )
    position_embeddings = position_table(model)
    pad_id = None if position_embeddings is None else position_embeddings.padding_idx
    if pad_id not in (None, tokenizer.pad_id):
        yield f"padding: it numbers positions from its pad id {pad_id}, the cache's is {tokenizer.pad_id}"


def _head_problems(config: PretrainedConfig, required: CacheRequirements, evaluated: bool) -> Iterator[str]:
    """A trained head must be for the cache's task, and one that is trained on for its classes."""
    if required.kind == MLM or not has_trained_head(config):
        return  # a classifier's head is dropped, or a new one made
    by_name = evaluated and bool(required.label_names)
    outputs = 1 if required.kind == "regression" else len(required.label_names)
    if kind_of(config) != required.kind:
        yield f"task: its head was trained for {kind_of(config)}, the cache is for {required.kind}"
    elif not by_name and config.num_labels != outputs:
        names = ", ".join(required.label_names[:8])
        yield (
            f"labels: its classifier was trained for {config.num_labels} classes, the cache has "
            f"{len(required.label_names)} ({names})"
            if names
            else f"outputs: its head gives {config.num_labels} numbers, the cache has one for each row"
        )


def _token_problems(folder: ModelFolder, required: CacheRequirements) -> Iterator[str]:
    """The same ids must be the same tokens, where the model's folder holds a tokenizer."""
    data = folder.read(TOKENIZER, MAX_TOKENIZER_BYTES)
    if data is None or hashlib.sha256(data).hexdigest() == required.cache.manifest.tokenizer.sha256:
        return
    cached = parse_tokenizer(required.cache.tokenizer_files()[TOKENIZER], required.cache.tokenizer_folder / TOKENIZER)
    vocabulary = parse_tokenizer(data, folder.path / TOKENIZER).get_vocab()
    for token, number in cached.get_vocab().items():
        if vocabulary.get(token) != number:
            yield f"tokens: {token!r} is id {number} in the cache and {vocabulary.get(token)} in the model's tokenizer"
            return
