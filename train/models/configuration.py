"""Reading a model's configuration: the settings of its architecture, and nothing else that config.json may hold.

Keys of config.json become attributes of transformers' configuration, and some make it import code, load adapters or
kernels from the Hub, or read other files. Only the keys that describe an architecture are taken, with values of bounded
size, so that no configuration can ask for more than its weights hold.
"""

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from cache.errors import InputError
from cache.format.checksummed_json import Json

from .folder import CONFIG, ModelFolder
from .heads import ENCODERS, has_trained_head, label_names, quiet_transformers
from .library_errors import library_errors

COMMON = frozenset({"architectures", "id2label", "label2id", "num_labels", "problem_type", "tie_word_embeddings"})
"""Keys of every model type."""

UNDECLARED = frozenset({
    "attention_head_size", "attention_windows", "classifier_dropout", "cls_dropout", "conv_act", "conv_groups",
    "conv_kernel_size", "embedding_size", "global_attn_every_n_layers", "global_rope_theta", "head_dim",
    "local_rope_theta", "norm_rel_ebd", "partial_rotary_factor", "pooler_hidden_size", "position_buckets",
    "rope_scaling", "rope_theta", "rotary_emb_base", "rotary_pct", "share_att_key", "summary_activation",
    "summary_type", "talking_head",
})  # fmt: skip
"""Keys that models of transformers read although their configurations do not declare them; a test finds them."""

OBJECTS = ("id2label", "label2id", "rope_parameters", "rope_scaling")
"""Keys whose values are objects."""

MAX_NUMBER = 1 << 20
"""Largest number of a configuration, above the largest vocabulary."""
MAX_LAYERS = 1024


def read_config(folder: ModelFolder) -> PretrainedConfig:
    """The configuration in a model's folder.

    Raises:
        InputError: there is none, its type is unknown to transformers, whose own code alone is run, a value is out of
            bounds, two classes have one name, or the model reads the last column of a batch, as XLNet does.
    """
    raw = folder.read_json(CONFIG)
    if raw is None:
        other = folder.path / "model"
        remedy = str(other) if (other / CONFIG).is_file() else "a folder written by save_pretrained"
        raise InputError(f"{folder.path} holds no {CONFIG}, so it is not a model; pass {remedy}")
    path, model_type = folder.path / CONFIG, raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise InputError(
            f"{path}: model_type is {model_type!r:.80}, which this release of transformers does not have, and code in "
            f"a model's folder is not run; pass {ENCODERS}"
        )
    with quiet_transformers(), library_errors(InputError, f"{path} cannot be used", f"; pass {ENCODERS}"):
        config = CONFIG_MAPPING[model_type](**_taken(raw, CONFIG_MAPPING[model_type], path))
        layers = getattr(config, "num_hidden_layers", 0)
        assert isinstance(config, PretrainedConfig)
    if not isinstance(layers, int) or layers > MAX_LAYERS:
        raise InputError(f"{path}: asks for {layers!r:.80} layers, expected at most {MAX_LAYERS:,}")
    names = label_names(config) if has_trained_head(config) else ()
    if len(set(names)) < len(names):
        double = Counter(names).most_common(1)[0][0]
        raise InputError(f"{path}: 'id2label' calls two classes {double!r:.80}; give each class a name of its own")
    if getattr(config, "summary_type", None) == "last":
        raise InputError(
            f"{folder.path}: a model of type {model_type!r} reads the last column of a batch, so it needs padding on "
            f"the left, which is not supported; pass {ENCODERS}"
        )
    return config


def _taken(raw: Json, kind: type[PretrainedConfig], path: Path) -> Json:
    """The keys that describe an architecture, each with a value of bounded size."""
    machinery = {field.name for field in fields(PretrainedConfig)}
    names = {field.name for field in fields(kind)} - machinery | set(kind.attribute_map) | COMMON | UNDECLARED
    taken = {key: value for key, value in raw.items() if key in names}
    classes = taken.get("architectures")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise InputError(f"{path}: 'architectures' is {classes!r:.80}, expected a list of names of classes")
    for key, value in taken.items():
        if not _bounded(value, key in OBJECTS or key.endswith("_theta")):
            expected = "an object of numbers and names" if key in OBJECTS else "a number, a name or a list of these"
            raise InputError(f"{path}: {key!r} is {value!r:.80}, expected {expected}, none above {MAX_NUMBER:,}")
    return taken


def _bounded(value: Any, free: bool) -> bool:
    if isinstance(value, list):
        return all(_bounded(item, free) for item in value)
    if isinstance(value, dict):
        return free and all(_bounded(item, True) for item in value.values())
    return free or type(value) is not int or abs(value) <= MAX_NUMBER
