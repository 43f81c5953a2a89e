"""Tokenizers of several kinds, trained on the spot, as the content of tokenizer.json."""

import json
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cache.common.hub import packaged_model
from prep.tokenization import engines
from prep.tokenization.engines import (
    GigatokenEngine,
    NanotokenEngine,
    Rules,
)

CORPUS = [
    "The film was good, wasn't it?",
    "It's 2 hours of naïve, über-long fun",
    "I'd see it again  and again",
    "中文 émigré",
]


def wordpiece() -> str:
    folder = packaged_model()
    assert folder is not None
    return (folder / "tokenizer.json").read_text()


def cased_wordpiece() -> str:
    """With accents kept, Chinese characters together, and added tokens of every kind."""
    tokenizer = Tokenizer.from_str(wordpiece())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False)
    tokenizer.add_tokens([AddedToken("new word", lstrip=True), AddedToken("<tag>", single_word=True), "Straße"])
    return str(tokenizer.to_str())


def byte_level(add_prefix_space: bool, normalizer: Any, ends: tuple[str, str]) -> str:
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [ends[0], "<pad>", ends[1], "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.add_tokens([AddedToken("||IP||", normalized=True)])
    if ends[0] == "<s>":
        tokenizer.post_processor = processors.RobertaProcessing(
            (ends[1], 2), (ends[0], 0), trim_offsets=True, add_prefix_space=add_prefix_space
        )
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{ends[0]} $A {ends[1]}", special_tokens=[(ends[0], 0), (ends[1], 2)]
        )
    return str(tokenizer.to_str())


def sentencepiece() -> str:
    """BPE with byte fallback, as Llama's and CamemBERT-like tokenizers have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if not token["content"].startswith("<0x")]
    steps = ({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"})
    last = ({"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    raw["decoder"] = {"type": "Sequence", "decoders": [*steps, *last]}
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


KINDS: dict[str, tuple[Callable[[Rules], engines.Engine], Callable[[], str]]] = {
    "bert": (NanotokenEngine, wordpiece),
    "bert cased": (NanotokenEngine, cased_wordpiece),
    "roberta": (GigatokenEngine, lambda: byte_level(False, None, ("<s>", "</s>"))),
    "roberta with a space before": (GigatokenEngine, lambda: byte_level(True, None, ("<s>", "</s>"))),
    "modernbert": (GigatokenEngine, lambda: byte_level(False, normalizers.NFC(), ("[CLS]", "[SEP]"))),
    "sentencepiece": (GigatokenEngine, sentencepiece),
}
