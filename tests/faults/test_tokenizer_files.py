"""Tokenizers made to crash, to fill memory or to give ids that wrap around: a typed error that names file or row."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import LengthwiseError
from cache.common.forked import Forked
from prep.tokenization.encoder import Encoder
from prep.tokenization.engines import ParityError
from prep.tokenization.tokenizer_files import find_tokenizer

from ..helpers.commands import GOOD, Prep, build, write
from ..helpers.fuzzing import mutated_bytes, mutated_json
from ..helpers.tokenizers import roberta_bpe, tokenizer_json, trained_wordpiece, write_tokenizer, xlmr_unigram

SLOW_REGEX = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
HARD = "x" * 40
"""A text on which that expression backtracks until the library panics."""


def changed(change: Callable[[dict[str, Any]], None], **config: str) -> None:
    """The toy tokenizer with a change in its tokenizer.json."""
    write_tokenizer(Path("tok"))
    raw = json.loads(Path("tok/tokenizer.json").read_text())
    change(raw)
    Path("tok/tokenizer.json").write_text(json.dumps(raw))
    if config:
        Path("tok/tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", **config}))


SOURCES = {
    "texts": lambda: write("a.csv", GOOD + f"{HARD},x\nword3,y\n"),
    "pairs": lambda: write("a.csv", f"text,text2,label\nword1,a,x\nword2,a,y\nword2,{HARD},x\n"),
    "words": lambda: write(
        "a.jsonl", [{"text": words, "label": ["O"] * len(words)} for words in (["word1"], ["word2"], ["word1", HARD])]
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_regular_expression_at_its_limit_names_the_row(prep: Prep, kind: str) -> None:
    changed(lambda raw: raw.update(pre_tokenizer=SLOW_REGEX), tokenizer_class="PreTrainedTokenizerFast")
    done = build(prep, SOURCES[kind](), *(["--text-pair", "text2"] if kind == "pairs" else []))
    assert done.code == 2
    assert "row 2 of split 'train' (counted from 0) cannot be tokenized: Onig: Regex search error" in done.err


@pytest.mark.parametrize("number", [1 << 22, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("engine", ["auto", "tokenizers"])
def test_an_id_that_no_vocabulary_has_is_refused(prep: Prep, number: int, engine: str) -> None:
    """The fast engines would make a table of that size."""
    changed(lambda raw: raw["model"]["vocab"].update(word1=number))
    done = build(prep, write("a.csv", GOOD), "--engine", engine)
    assert done.code == 2
    assert f"has a token with the id {number:,}, expected ids below 4,194,304" in done.err


@pytest.mark.parametrize("number", [205, 70_000, 1 << 31])
@pytest.mark.parametrize("source", ["texts", "words"])
def test_a_special_token_outside_the_vocabulary_is_refused_not_wrapped(prep: Prep, number: int, source: str) -> None:
    """65,536 in two bytes would be 0, the padding."""
    changed(lambda raw: raw["post_processor"]["special_tokens"]["[CLS]"].update(ids=[number]))
    done = build(prep, SOURCES[source]())
    assert done.code == 2
    assert f"row 0 of split 'train' (counted from 0) has the id {number:,}, but the tokenizer has only 205" in done.err


def encoded(folder: str, pair: bool) -> None:
    """What a build does with a tokenizer."""
    encoder = Encoder(find_tokenizer(folder), 16, pair=pair)
    if encoder.pairs:
        encoder.pairs.encode(["word1 a film", ""], ["", "word2"])
    else:
        encoder.encode(["word1 a film", ""])
        encoder.settle()


def survives(folder: Path, mutate: Callable[[random.Random], bytes], count: int) -> int:
    """Try mutated files; how many were taken. Each is read in a process of its own, so that a crash is seen."""

    def attempt(pair: bool) -> bool:
        try:
            encoded(str(folder), pair)
        except (LengthwiseError, ParityError):
            return False
        return True

    taken = 0
    for number in range(count):
        data = mutate(random.Random(number))
        (folder / "tokenizer.json").write_bytes(data)
        try:
            taken += Forked(1 << 30).call(folder, attempt, number % 3 == 0)
        except Exception as error:
            error.add_note(f"input {number}")
            raise
    return taken


KINDS = {"wordpiece": trained_wordpiece, "bpe": roberta_bpe, "unigram": xlmr_unigram}


@pytest.mark.slow
@pytest.mark.usefixtures("parsed_apart")
@pytest.mark.parametrize("count", [8, pytest.param(350, marks=pytest.mark.faults)])
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_tokenizers_are_refused_or_taken(tmp_path: Path, kind: str, count: int) -> None:
    text = tokenizer_json(KINDS[kind])
    content = json.loads(text)
    pad = "[PAD]" if kind == "wordpiece" else "<pad>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    taken = survives(tmp_path, lambda rest: json.dumps(mutated_json(rest, content)).encode(), count)
    taken += survives(tmp_path, lambda rest: mutated_bytes(rest, text.encode()), count)
    print(f"{2 * count:,} mutated tokenizers: {taken:,} taken, the others refused")
