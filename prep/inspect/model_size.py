"""The sizes of a model that its memory depends on, from its config.json alone."""

from dataclasses import dataclass
from typing import Any

from cache.common.folder import Folder
from cache.common.hub import hub_folder, local_folder
from cache.errors import CorruptCacheError, InputError
from cache.format.checksummed_json import Json, parse_json

CONFIG = "config.json"
MAX_CONFIG_BYTES = 1 << 24
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
}
ROBERTA = {**BASE, "vocab_size": 50265}
DEFAULTS: dict[str, Json] = {
    "bert": BASE,
    "roberta": ROBERTA,
    "camembert": {**ROBERTA, "vocab_size": 30522},
    "xlm-roberta": {**ROBERTA, "vocab_size": 30522},
    "electra": {**BASE, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "embedding_size": 128},
    "distilbert": {**BASE, "num_hidden_layers": 6, "type_vocab_size": 0},
}
"""Model types whose memory is predicted, and transformers' values for what a config.json leaves out."""
COUNT_FROM_PADDING = ("roberta", "camembert", "xlm-roberta")
"""Model types that number positions from their pad id + 1, which is 2."""
DISTILBERT_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "activation": "hidden_act",
}


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a sequence classifier that its memory depends on.

    Attributes:
        kind: transformers' model type.
        layers: L.
        hidden: H.
        intermediate: I.
        heads: N.
        embedding: width of the embedding tables; H but in ELECTRA.
        entries: rows of all embedding tables together.
        outputs: numbers the head gives for a row.
        positions: tokens of the longest row it takes.
        hidden_dropout, attention_dropout: whether there is any.
    """

    kind: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    embedding: int
    entries: int
    outputs: int
    positions: int
    hidden_dropout: bool
    attention_dropout: bool

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers, biases aside."""
        hidden = self.hidden
        projection = self.embedding * hidden if self.embedding != hidden else 0
        layer = 4 * hidden**2 + 2 * hidden * self.intermediate
        return projection + self.layers * layer + hidden**2 + self.outputs * hidden

    @property
    def parameters(self) -> int:
        """All of them: tables and norm of the embeddings, linear layers with biases, norms."""
        hidden = self.hidden
        tables = self.entries * self.embedding + 2 * self.embedding + (hidden if self.embedding != hidden else 0)
        layer = 4 * hidden + self.intermediate + hidden + 4 * hidden  # biases, two norms
        return tables + self.linear_weights + self.layers * layer + hidden + self.outputs


def read_size(name: str, outputs: int) -> ModelSize:
    """The sizes of a model, from its config.json.

    Args:
        name: folder, Hub id, or `minilm`.
        outputs: numbers the head gives for a row.

    Raises:
        InputError: it cannot be found or read, or is of a type whose memory is not predicted.
    """
    folder = local_folder(name) or hub_folder(name, [CONFIG], "--model")
    if folder is None:
        raise InputError(f"--model {name!r}: no such folder here, and the Hugging Face Hub cannot be reached")
    path = folder / CONFIG
    try:
        file = path.resolve(strict=True)  # files of the Hub's local cache are links
        with Folder.open(file.parent) as parent:
            config = parse_json(parent.read(file.name, MAX_CONFIG_BYTES))
    except (OSError, ValueError, RuntimeError, CorruptCacheError) as error:  # a loop of links is a RuntimeError
        raise InputError(f"--model {name}: cannot read {path}: {error}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in DEFAULTS:
        raise InputError(
            f"--model {name} is of type {kind!r}, and memory is predicted for {', '.join(DEFAULTS)} only; "
            "train run tries its largest batch before the first step"
        )
    found = {DISTILBERT_NAMES.get(key, key) if kind == "distilbert" else key: value for key, value in config.items()}
    sizes: dict[str, Any] = DEFAULTS[kind] | {key: value for key, value in found.items() if key in DEFAULTS[kind]}
    for key, value in sizes.items():
        whole = type(value) is int and int(key != "type_vocab_size") <= value < 1 << 32
        if isinstance(DEFAULTS[kind][key], int) and not whole:
            raise InputError(f"--model {name}: its {CONFIG} has {key} {value!r}, expected a whole number")
    if sizes["hidden_act"] != "gelu":
        raise InputError(f"--model {name}: its activation is {sizes['hidden_act']!r}; memory is predicted for gelu")
    return ModelSize(
        kind=kind,
        layers=sizes["num_hidden_layers"],
        hidden=sizes["hidden_size"],
        intermediate=sizes["intermediate_size"],
        heads=sizes["num_attention_heads"],
        embedding=sizes.get("embedding_size", sizes["hidden_size"]),
        entries=sizes["vocab_size"] + sizes["max_position_embeddings"] + sizes["type_vocab_size"],
        outputs=outputs,
        positions=sizes["max_position_embeddings"] - 2 * (kind in COUNT_FROM_PADDING),
        hidden_dropout=bool(sizes["hidden_dropout_prob"]),
        attention_dropout=bool(sizes["attention_probs_dropout_prob"]),
    )
