"""Long texts in several rows, `--long-texts chunk`: the chunks that transformers makes of them, every token in one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from cache import InputError, MismatchError
from prep.inspect.report import make_report, report_page
from prep.inspect.summary import format_splits
from prep.tokenization import parity
from prep.tokenization.chunks import ChunkEncoder
from prep.tokenization.engines import ParityError, Rules, TokenizersEngine, fast_engine, split_rows
from prep.tokenization.parity import ParityCheck

from ..helpers.builds import build_toy
from ..helpers.corpora import write_rows
from ..helpers.tokenizers import ENGINE_KINDS, engine_json, write_tokenizer

TEXTS = [f"word{number} " * (number % 23) + "word1" for number in range(60)]
"""Of one token to 23 of them: 4 are a row of max length 6, 5 are a row and a token, 8 are two rows."""


@pytest.mark.parametrize("kind", ENGINE_KINDS)
@pytest.mark.parametrize("name", ["auto", "tokenizers"])
def test_chunks_are_those_of_tokenizers(kind: str, name: str) -> None:
    """Of texts without tokens, of full chunks alone, and with a rest; any vocabulary kind, any engine; and where the
    tokenizer truncates on the left, too, which for chunks makes no difference."""
    random = np.random.default_rng(2)
    texts = [
        "",
        *("the " * size for size in range(1, 20)),
        *map(" ".join, random.choice(["Größe", "film", "ok."], (9, 9))),
    ]
    rules = Rules(engine_json(kind), 7, "left" if name == "tokenizers" else "right")
    reference = Tokenizer.from_str(engine_json(kind))
    reference.no_padding()
    reference.enable_truncation(7)
    engine = fast_engine(name, rules)
    assert (engine is None) == (name == "tokenizers")
    encoding = TokenizersEngine(rules)
    ids, lengths, rows = ChunkEncoder(encoding, ParityCheck(engine, encoding) if engine else None).encode(texts)
    expected = [
        (text, chunk.ids)
        for text, whole in enumerate(reference.encode_batch(texts))
        for chunk in (whole, *whole.overflowing)
    ]
    assert [(text, row.tolist()) for text, row in zip(rows.tolist(), split_rows(ids, lengths), strict=True)] == expected


@pytest.mark.parametrize("long_token", [1000, 10], ids=["whole", "the beginning"])
def test_a_wrong_engine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_token: int) -> None:
    """By all tokens of a text; of one too long to be encoded again, by the beginning."""
    monkeypatch.setattr(parity, "LONG_TOKEN", long_token)
    rules = Rules((write_tokenizer(tmp_path / "t") / "tokenizer.json").read_text(), 8, "right")

    class Wrong(TokenizersEngine):
        name, token = "wrong", -1

        def encode(self, texts: Any, bare: bool = False) -> Any:
            ids, lengths = super().encode(texts, bare)
            ids[self.token] += 1
            return ids, lengths

    engine: Any = Wrong(rules)
    check = ParityCheck(engine, TokenizersEngine(rules))
    if long_token == 10:
        ChunkEncoder(check.reference, check).encode(["word1 " * 20])  # the last word is not looked at
        engine.token = 0
    with pytest.raises(ParityError, match="wrong and tokenizers disagree"):
        ChunkEncoder(check.reference, check).encode(["word1 " * 20])


def test_a_cache_holds_every_token_of_every_text(tmp_path: Path) -> None:
    """As chunks by transformers' own tokenizer; all chunks of a text are in one split, and name its row."""
    from transformers import AutoTokenizer

    source = write_rows(tmp_path / "a.jsonl", [(text, 0) for text in TEXTS])
    cache = build_toy(source, tmp_path, task="mlm", long_texts="chunk", max_length=6, holdout=0.3, limit=50).cache
    reference = AutoTokenizer.from_pretrained(cache.tokenizer_folder)
    found: dict[int, list[list[int]]] = {}
    for split in cache.values():
        chunks: dict[int, list[list[int]]] = {}
        for row in split:
            chunks.setdefault(row.source_row, []).append(row.input_ids.tolist())
        assert found.keys().isdisjoint(chunks)
        found |= chunks
    assert len(found) == 50
    for text, rows in found.items():
        expected = reference(TEXTS[text], truncation=True, max_length=6, return_overflowing_tokens=True)["input_ids"]
        assert sorted(rows) == sorted(expected)
    assert list(cache.verify())
    assert format_splits(cache).splitlines()[0].endswith("in chunks of")
    report = make_report(cache)
    [title] = [figure.title for figure in report.figures if figure.name == "truncation"]
    assert title.endswith("of the rows are 6 tokens long, the limit")
    assert "rows cut" not in report_page(report)


def test_chunks_are_another_cache_than_truncated_texts(tmp_path: Path) -> None:
    """Of the same name, it is not taken for it."""
    source = write_rows(tmp_path / "a.jsonl", [(text, 0) for text in TEXTS])
    build_toy(source, tmp_path, task="mlm", max_length=6)
    with pytest.raises(MismatchError, match=r"long_texts None there, 'chunk' asked for.*--name OTHER"):
        build_toy(source, tmp_path, task="mlm", max_length=6, long_texts="chunk")


def test_chunks_are_for_texts_alone(tmp_path: Path) -> None:
    """Neither where a label belongs to the whole text, nor where a row has two."""
    source = write_rows(tmp_path / "a.jsonl", [("word1", "word2")], ("text", "second"))
    with pytest.raises(InputError, match="--long-texts chunk is for --task mlm"):
        build_toy(source, tmp_path, long_texts="chunk")
    with pytest.raises(InputError, match=r"--long-texts chunk takes one text per row, but .*a\.jsonl has two"):
        build_toy(source, tmp_path, task="mlm", text_pair="second", long_texts="chunk")
