"""Texts, pairs and words with tags from files to caches: equal to transformers' tokenizer, alignment and collator."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, DataCollatorForTokenClassification, DataCollatorWithPadding

from cache import Cache, PlanSpec
from cache.common.hub import packaged_model
from tests.helpers.builds import build_toy
from tests.helpers.corpora import WORDS, reviews
from tests.helpers.files import edit_json, write_jsonl
from tests.helpers.tokenizers import engine_json

Encoded = dict[str, list[Any]]


def toy_pairs(count: int) -> list[dict[str, Any]]:
    """Pairs of texts of 0 to 39 words, with a label."""
    random = np.random.default_rng(0)

    def text() -> str:
        return " ".join(random.choice(WORDS, random.integers(0, 40)))

    return [{"a": text(), "b": text(), "label": ("no", "yes")[number % 2]} for number in range(count)]


def toy_sentences(count: int) -> list[dict[str, Any]]:
    """Sentences of 0 to 29 words, some of several tokens, each word with a tag."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        size = int(random.integers(0, 30))
        words = [" ".join(random.choice(WORDS, random.integers(1, 4))) for _ in range(size)]
        rows.append({"tokens": words, "tags": random.choice(["B-PER", "I-PER", "O", "B-LOC"], size).tolist()})
    return rows


def pair_of_halves(text: str) -> dict[str, Any]:
    return {"a": text[: len(text) // 2], "b": text[len(text) // 2 :], "label": ("no", "yes")[len(text) % 2]}


def tagged_words(text: str) -> dict[str, Any]:
    """Cut at spaces, tags by a rule."""
    words = text.split()
    return {"tokens": words, "tags": ["B-NAME" if word[:1].isupper() else "O" for word in words]}


def encode_pairs(tokenizer: Any, rows: list[dict[str, Any]], names: tuple[str, ...], max_length: int) -> Encoded:
    pairs = [row["a"] for row in rows], [row["b"] for row in rows]
    encoded = tokenizer(*pairs, truncation=True, max_length=max_length)
    return {**encoded, "labels": [names.index(row["label"]) for row in rows]}


def encode_words(tokenizer: Any, rows: list[dict[str, Any]], names: tuple[str, ...], max_length: int) -> Encoded:
    """As the course and examples of transformers do it: the first token of each word has its tag."""
    words = [row["tokens"] for row in rows]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    labels: list[list[int]] = []
    for number, row in enumerate(rows):
        before = None
        labels.append([])
        for word in encoded.word_ids(number):
            labels[-1].append(-100 if word is None or word == before else names.index(row["tags"][word]))
            before = word
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": labels}


@dataclass(frozen=True)
class Kind:
    """What a kind of input looks like, and how transformers reads it.

    Attributes:
        toys: so many rows of the toy tokenizer's words.
        of_review: a row made of a real text.
        options: of the build.
        names: the classes of the toys.
        encode: every row as transformers encodes it, by the names of a model's inputs.
        collator: transformers' own for such rows.
    """

    toys: Callable[[int], list[dict[str, Any]]]
    of_review: Callable[[str], dict[str, Any]]
    options: dict[str, Any]
    names: tuple[str, ...]
    encode: Callable[[Any, list[dict[str, Any]], tuple[str, ...], int], Encoded]
    collator: Callable[[Any], Any]


KINDS = {
    "pairs": Kind(
        toy_pairs, pair_of_halves, {"text": "a", "text_pair": "b"}, ("no", "yes"), encode_pairs, DataCollatorWithPadding
    ),
    "words": Kind(
        toy_sentences,
        tagged_words,
        {},
        ("O", "B-LOC", "B-PER", "I-PER"),
        encode_words,
        DataCollatorForTokenClassification,
    ),
}


def check_equal(kind: Kind, cache: Cache, rows: list[dict[str, Any]], tokenizer: Any, max_length: int) -> None:
    """Every row and every padded batch is what transformers' tokenizer and collator give."""
    encoded = kind.encode(tokenizer, rows, cache.manifest.task.label_names, max_length)
    split = cache["train"]
    assert sorted(row.source_row for row in split) == list(range(len(rows)))
    for row in split:
        assert row.input_ids.tolist() == encoded["input_ids"][row.source_row]
        assert row.label == encoded["labels"][row.source_row]
        if row.first_length is not None:
            types = [0] * row.first_length + [1] * (len(row.input_ids) - row.first_length)
            assert types == encoded["token_type_ids"][row.source_row]
    collate = kind.collator(tokenizer)
    for batch in split.batches(0, PlanSpec("dynamic", 16), always_mask=True):
        chosen = split.source_rows[batch.rows].tolist()
        expected = collate([{name: encoded[name][row] for name in encoded} for row in chosen])
        found = batch.model_inputs()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


CASES = [
    ("pairs", 20, "nanotoken"),
    ("pairs", 21, "tokenizers"),
    ("pairs", 64, "nanotoken"),
    ("words", 7, "tokenizers"),
    ("words", 20, "nanotoken"),
    ("words", 128, "tokenizers"),
]
"""Max lengths that truncate most rows, some and none, with either engine in turn."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "max_length", "engine"), CASES)
def test_rows_and_batches_equal_transformers(tmp_path: Path, name: str, max_length: int, engine: str) -> None:
    """Ids, token types, masks and labels, under truncation; in one shard or many, held in memory or spilled."""
    kind = KINDS[name]
    rows = kind.toys(240)
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    options = {"max_length": max_length, "engine": engine, **kind.options}
    cache = build_toy(source, tmp_path, **options).cache
    assert cache.manifest.build["engine"] == engine
    assert cache.manifest.task.label_names == kind.names
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    check_equal(kind, cache, rows, tokenizer, max_length)
    pieces = build_toy(source, tmp_path, shard_bytes=5000, memory_bytes=1 << 12, name="cut", **options).cache
    assert len(pieces["train"].info.shards) > 2
    check_equal(kind, pieces, rows, tokenizer, max_length)
    assert list(pieces.verify())


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_reviews_equal_transformers(tmp_path: Path, name: str) -> None:
    """Real texts, by the fast engine, under truncation."""
    kind, model = KINDS[name], packaged_model()
    rows = [kind.of_review(text) for text in reviews()[:200]]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    cache = build_toy(source, tmp_path, max_length=128, tokenizer=str(model), **kind.options).cache
    assert cache.manifest.build["engine"] == "nanotoken"
    assert cache.manifest.build["rows_checked"] >= 200
    check_equal(kind, cache, rows, AutoTokenizer.from_pretrained(model), 128)


def unigram() -> str:
    """As XLM-RoBERTa and ALBERT have it."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{w}", -5.0) for w in WORDS)]
    pieces += [(letter, -9.0) for letter in "▁word0123456789"]
    tokenizer = Tokenizer(models.Unigram(pieces, 3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=specials)
    return str(tokenizer.to_str())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "unigram"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokenizers_of_other_kinds_equal_transformers(tmp_path: Path, kind: str, side: str) -> None:
    """Byte-level ones are given a space before each word, as transformers asks for; the cache keeps them so."""
    text = engine_json("roberta") if kind == "roberta" else unigram()
    folder = tmp_path / "tok"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(text)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "truncation_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rows = toy_sentences(150)
    cache = build_toy(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path, tokenizer=str(folder), max_length=20).cache
    assert cache.manifest.build["engine"] == ("gigatoken" if kind == "roberta" else "tokenizers")
    check_equal(KINDS["words"], cache, rows, AutoTokenizer.from_pretrained(cache.tokenizer_folder), 20)
    if kind == "roberta":
        edit_json(folder / "tokenizer.json", lambda raw: raw["pre_tokenizer"].update(add_prefix_space=True))
    check_equal(KINDS["words"], cache, rows, AutoTokenizer.from_pretrained(folder), 20)
