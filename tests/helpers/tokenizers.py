"""Tokenizers made on the spot: one of 205 tokens for the toys, one of each kind in use trained on real sentences, and
those that the fast engines are held to."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cache.common.hub import packaged_model
from prep.tokenization.engines import FastEngine, GigatokenEngine, NanotokenEngine, Rules

from .corpora import WORDS, sentences

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

CORPUS = [
    "The film was good, wasn't it?",
    "It's 2 hours of naïve, über-long fun",
    "I'd see it again  and again",
    "中文 émigré",
]
"""Texts with apostrophes, accents, spaces in a row and Chinese characters."""

VOCAB = 600
"""Tokens of a tokenizer that is trained."""


def write_tokenizer(folder: Path) -> Path:
    """A WordPiece tokenizer of 205 tokens as a folder that transformers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: number for number, token in enumerate(SPECIALS + WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = """{"tokenizer_class": "BertTokenizer", "model_max_length": 128, "pad_token": "[PAD]",
 "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "do_lower_case": true}
"""
    (folder / "tokenizer_config.json").write_text(config)
    return folder


def texts() -> list[str]:
    """The sentences that tokenizers are trained on."""
    return [text for text, _ in sentences()]


def trained_wordpiece() -> Tokenizer:
    """BERT's, uncased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCAB, special_tokens=SPECIALS, show_progress=False)
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
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCAB,
        special_tokens=specials,
        unk_token=unknown,
        n_sub_iterations=1,
        shrinking_factor=0.4,  # a rough vocabulary, in a fifth of the time
        show_progress=False,
    )
    trained.train_from_iterator(texts()[::2], trainer)
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


@functools.cache
def tokenizer_json(make: Callable[[], Tokenizer]) -> str:
    """What a tokenizer's maker makes, as the content of tokenizer.json."""
    return str(make().to_str())


def packaged_wordpiece() -> Tokenizer:
    """BERT's own, of 30,522 tokens."""
    folder = packaged_model()
    assert folder is not None
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def cased(tokenizer: Tokenizer) -> Tokenizer:
    """A WordPiece with accents kept, Chinese characters together, and added tokens of every kind."""
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False)
    tokenizer.add_tokens([AddedToken("new word", lstrip=True), AddedToken("<tag>", single_word=True), "Straße"])
    return tokenizer


def added(tokenizer: Tokenizer) -> Tokenizer:
    """With an added token that is looked for in the normalized text."""
    tokenizer.add_tokens([AddedToken("||IP||", normalized=True)])
    return tokenizer


def spaced_bpe() -> Tokenizer:
    """RoBERTa's, with a space before the text."""
    tokenizer = added(roberta_bpe())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """BPE with byte fallback, as Llama's and CamemBERT-like tokenizers have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if not token["content"].startswith("<0x")]
    steps = ({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"})
    last = ({"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    raw["decoder"] = {"type": "Sequence", "decoders": [*steps, *last]}
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


ENGINE_KINDS: dict[str, tuple[Callable[[Rules], FastEngine], Callable[[], Tokenizer]]] = {
    "bert": (NanotokenEngine, packaged_wordpiece),
    "bert cased": (NanotokenEngine, lambda: cased(packaged_wordpiece())),
    "roberta": (GigatokenEngine, lambda: added(roberta_bpe())),
    "roberta with a space before": (GigatokenEngine, spaced_bpe),
    "modernbert": (GigatokenEngine, lambda: added(modernbert_bpe())),
    "sentencepiece": (GigatokenEngine, sentencepiece_bpe),
}
"""What a fast engine takes, by name: the engine, and the maker of a tokenizer for it."""


SMALL = {"bert": trained_wordpiece, "bert cased": lambda: cased(trained_wordpiece())}
"""The same kinds with `VOCAB` tokens: BERT's own vocabulary takes longer to read than a test to run."""


def engine_json(kind: str, small: bool = False) -> str:
    """The tokenizer of a kind of `ENGINE_KINDS`, as the content of tokenizer.json; if `small`, with few tokens."""
    return tokenizer_json(SMALL.get(kind, ENGINE_KINDS[kind][1]) if small else ENGINE_KINDS[kind][1])
