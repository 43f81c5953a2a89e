"""Tiny random encoders: one for the toy tokenizer, and one of each kind in use with a tokenizer of its kind."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from .tokenizers import (
    VOCAB,
    camembert_unigram,
    deberta_unigram,
    modernbert_bpe,
    roberta_bpe,
    tokenizer_json,
    trained_wordpiece,
    xlmr_unigram,
)

SPREAD = 0.2
"""Of the random weights: ten times what is usual, so that what a model gets wrong shows in its logits."""


SIZES: dict[str, Any] = {
    "vocab_size": 205,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
"""One layer of width 32, for the 205 tokens of `tokenizers.write_tokenizer`."""

IDS = dict.fromkeys(("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 0)
"""Special tokens of kinds whose own are beyond those 205."""

WINDOWED = {**IDS, "num_hidden_layers": 2, "local_attention": 8, "global_attn_every_n_layers": 2}
"""A ModernBERT with a window of 8 tokens in its second layer."""

STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""A BERT without dropout."""


def random_model(kind: str = "bert", auto: Any = None, *, seed: int = 0, **config: Any) -> Any:
    """A random model of `SIZES`, made by one of transformers' auto classes; a classifier where none is given."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from train.models.heads import quiet_transformers

    settings = AutoConfig.for_model(kind, **{**SIZES, **config})
    torch.manual_seed(seed)
    with quiet_transformers():
        return (auto or AutoModelForSequenceClassification).from_config(settings)


def write_model(
    folder: Path, *, seed: int = 0, classes: int | Sequence[str] | None = None, kind: str = "bert", **config: Any
) -> Path:
    """A random encoder saved as a folder; with `classes`, a classifier of so many or of those names."""
    from transformers import AutoModel

    if isinstance(classes, int):
        config["num_labels"] = classes
    elif classes is not None:
        config["id2label"] = dict(enumerate(classes))
        config["label2id"] = {name: number for number, name in enumerate(classes)}
    random_model(kind, AutoModel if classes is None else None, seed=seed, **config).save_pretrained(folder)
    return folder


def without_tensors(folder: Path, part: str) -> None:
    """Leave out of a model's weights those whose names hold this part."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if part not in name}
    save_file(kept, path, {"format": "pt"})


BERT_TOKENS = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
ROBERTA_TOKENS = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "pad": "<pad>"}


@dataclass(frozen=True)
class Kind:
    """A kind of encoder.

    Attributes:
        model: its model type.
        tokenizer: makes one of its kind.
        tokenizer_class: what its tokenizer_config.json names.
        tokens: its special tokens.
        config: of the model, beside the sizes.
        pad_id: of the tokenizer.
        longest: tokens of the longest row it takes, None for any; its position table has 40 entries.
        typed: whether it tells two texts apart by token types.
        pooled: whether its last layer can be computed for the pooled token alone.
    """

    model: str
    tokenizer: Callable[[], Tokenizer]
    tokenizer_class: str
    tokens: dict[str, str]
    config: dict[str, Any] = field(default_factory=dict)
    pad_id: int = 0
    longest: int | None = 40
    typed: bool = False
    pooled: bool = True


def bert(model: str, **more: Any) -> Kind:
    """A kind with BERT's tokenizer."""
    return Kind(model, trained_wordpiece, "BertTokenizer", BERT_TOKENS, **more)


DISTIL = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
ROBERTA: dict[str, Any] = {"pad_id": 1, "longest": 38}
ONE_TYPE = {"type_vocab_size": 1}
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_position_embeddings": 40,
    "max_relative_positions": -1,
}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 8, "hidden_size": 32}

KINDS = {
    "bert": bert("bert", typed=True),
    "minilm": bert("bert", typed=True, config={"hidden_act": "gelu", "num_attention_heads": 4}),
    "multilingual-minilm": Kind(  # a BERT that says its pad id is 0, with XLM-RoBERTa's tokenizer, whose is 1
        "bert", xlmr_unigram, "XLMRobertaTokenizer", ROBERTA_TOKENS, {"pad_token_id": 0}, pad_id=1, typed=True
    ),
    "distilbert": bert("distilbert", config=DISTIL),
    "electra": bert("electra", typed=True, config={"embedding_size": 16}),
    "roberta": Kind("roberta", roberta_bpe, "RobertaTokenizer", ROBERTA_TOKENS, ONE_TYPE, **ROBERTA),
    "xlm-roberta": Kind("xlm-roberta", xlmr_unigram, "XLMRobertaTokenizer", ROBERTA_TOKENS, ONE_TYPE, **ROBERTA),
    "camembert": Kind("camembert", camembert_unigram, "CamembertTokenizer", ROBERTA_TOKENS, ONE_TYPE, **ROBERTA),
    "deberta-v3": Kind(
        "deberta-v2", deberta_unigram, "DebertaV2Tokenizer", BERT_TOKENS, DEBERTA_V3, longest=None, pooled=False
    ),
    "modernbert-cls": Kind(
        "modernbert",
        modernbert_bpe,
        "PreTrainedTokenizerFast",
        BERT_TOKENS,
        {**MODERN, "classifier_pooling": "cls"},
        pad_id=VOCAB + 3,
        longest=None,
        pooled=False,
    ),
    "modernbert-mean": Kind(
        "modernbert",
        modernbert_bpe,
        "PreTrainedTokenizerFast",
        BERT_TOKENS,
        {**MODERN, "classifier_pooling": "mean"},
        pad_id=VOCAB + 3,
        longest=None,
        pooled=False,
    ),
}
"""The kinds by name."""


def write_encoder(folder: Path, kind: Kind, **config: Any) -> Path:
    """The model and its tokenizer in one folder, as on the Hub."""
    tokenizer = Tokenizer.from_str(tokenizer_json(kind.tokenizer))
    special = {name: tokenizer.token_to_id(token) for name, token in kind.tokens.items()}
    numbers = {f"{name}_token_id": special[name] for name in ("pad", "cls", "sep")}
    ends = {"bos_token_id": special["cls"], "eos_token_id": special["sep"]}
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "num_hidden_layers": 2, "max_position_embeddings": 40}
    sizes["initializer_range"] = SPREAD
    write_model(folder, kind=kind.model, **{**sizes, **numbers, **ends, **kind.config, **config})
    return write_tokenizer_of(folder, kind)


def write_tokenizer_of(folder: Path, kind: Kind) -> Path:
    """The tokenizer alone."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json(kind.tokenizer))
    said = {f"{name}_token": token for name, token in kind.tokens.items()}
    content = {"tokenizer_class": kind.tokenizer_class, "model_max_length": 512, **said}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder
