"""Rows whose text or label is missing: an error that offers to leave them out, or left out, counted and named."""

import json
from pathlib import Path
from typing import Any

import pytest

from cache import CorruptCacheError, InputError, open_cache
from prep import build_cache

from ..helpers.commands import Prep, build, write, write_parquet
from ..helpers.hostile import at, resealed
from ..helpers.tokenizers import write_tokenizer

CSV = 'text,label\nword1,x\n,y\nword2,\nword3,y\n"",x\nword4,""\n"  ",x\nword5,y\n'
"""Rows 0, 3 and 7 are whole."""
WHOLE = {0: ([2, 6, 3], "x"), 3: ([2, 8, 3], "y"), 7: ([2, 10, 3], "y")}
LINE = "rows left out, for a text or label is missing: 5 of 'train'\n"


def rows(folder: Path = Path("cache/a"), split: str = "train") -> dict[int, tuple[list[int], Any]]:
    cache = open_cache(folder, verify=True)
    names = cache.manifest.task.label_names
    return {row.source_row: (row.input_ids.tolist(), names[row.label] if names else row.label) for row in cache[split]}


def test_rows_without_text_or_label_are_left_out_counted_and_named(prep: Prep) -> None:
    done = build(prep, write("a.csv", CSV), "--missing", "drop")
    assert (done.code, done.err) == (0, "")
    assert rows() == WHOLE, "a row keeps its number in the source"
    assert LINE in done.out
    source = open_cache("cache/a").manifest.source
    assert (source["missing"], source["missing_rows"]) == ("drop", {"train": 5})
    assert LINE in prep("info", "cache/a").out
    assert json.loads(prep("info", "cache/a", "--json").out)["source"]["missing_rows"] == {"train": 5}
    assert build(prep, "a.csv", "--missing", "drop").out.startswith("cache/a is up to date")


def test_where_nothing_is_missing_nothing_is_said(prep: Prep) -> None:
    done = build(prep, write("a.csv", "text,label\nword1,x\nword2,y\n"), "--missing", "drop")
    assert (done.code, done.err) == (0, "")
    assert "left out" not in done.out
    assert "missing_rows" not in open_cache("cache/a").manifest.source
    build(prep, "a.csv", "--out", "plain")
    assert not {"missing", "missing_rows"} & set(open_cache("plain/a").manifest.source)
    again = build(prep, "a.csv")
    assert again.code == 2
    assert "missing 'drop' there, None asked for" in again.err


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_nulls_and_nan_are_missing(prep: Prep, ending: str) -> None:
    texts, labels = ["word1", None, "word2", "word3", "", "word5"], [1.0, 2.0, None, float("nan"), 1.0, 2.0]
    if ending == "parquet":
        write_parquet("a.parquet", text=texts, label=labels)
    else:
        write("a.jsonl", [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)])
    done = build(prep, f"a.{ending}", "--missing", "drop")
    assert (done.code, done.err) == (0, "")
    assert rows() == {0: ([2, 6, 3], "1"), 5: ([2, 10, 3], "2")}


KINDS: dict[str, tuple[list[dict[str, Any]], tuple[str, ...], list[int]]] = {
    "pairs": (
        [{"a": "word1", "b": "word2", "y": 0}, {"a": "word1", "b": None, "y": 1}, {"a": "word1", "b": "word3", "y": 1}],
        ("--text", "a", "--text-pair", "b", "--label", "y"),
        [0, 2],
    ),
    "numbers": (
        [{"text": "word1", "label": 0.5}, {"text": "word2", "label": None}, {"text": "word3", "label": 1.5}],
        (),
        [0, 2],
    ),
    "lists of classes, which may be empty": (
        [{"text": "word1", "label": ["x"]}, {"text": "word2", "label": None}, {"text": "word3", "label": []}],
        (),
        [0, 2],
    ),
    "a column for each class": (
        [{"text": "word1", "a": 1, "b": 0}, {"text": "word2", "a": 1, "b": None}, {"text": "word3", "a": 0, "b": 1}],
        ("--label", "a", "--label", "b"),
        [0, 2],
    ),
    "words": (
        [{"tokens": [], "tags": []}, {"tokens": ["word1"], "tags": ["x"]}, {"tokens": ["word2"], "tags": None}],
        (),
        [1],
    ),
    "texts alone": ([{"text": ""}, {"text": "word1"}, {"text": None}, {"text": "word2"}], ("--task", "mlm"), [1, 3]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_task_are_left_out(prep: Prep, kind: str) -> None:
    data, options, left = KINDS[kind]
    assert build(prep, write("a.jsonl", data), *options).code == 2 or kind in ("words", "texts alone")
    done = build(prep, "a.jsonl", *options, "--missing", "drop", "--force")
    assert done.code == 0, done
    cache = open_cache("cache/a", verify=True)
    assert sorted(row.source_row for row in cache["train"]) == left
    assert cache.manifest.source["missing_rows"] == {"train": len(data) - len(left)}


def test_what_is_left_out_is_neither_held_out_nor_drawn(prep: Prep) -> None:
    write("a.csv", "text,label\n" + "".join(f"word{row},{'xy'[row % 2] * (row % 5 > 0)}\n" for row in range(100)))
    build(prep, "a.csv", "--missing", "drop", "--holdout", "0.25", "--validation", "0.25")
    parts = {split: rows(split=split) for split in ("train", "test", "validation")}
    assert sorted(row for part in parts.values() for row in part) == [row for row in range(100) if row % 5]
    assert [len(part) for part in parts.values()] == [40, 20, 20]
    for part in parts.values():
        assert all(found == ([2, 5 + row, 3], "xy"[row % 2]) for row, found in part.items())
    assert open_cache("cache/a").manifest.source["missing_rows"] == {"train": 20}
    build(prep, "a.csv", "--missing", "drop", "--limit", "10", "--out", "few")
    assert len(rows(Path("few/a"))) == 10


def test_splits_are_counted_one_by_one(prep: Prep) -> None:
    write("d/train.csv", "text,label\nword1,x\nword2,y\n")
    write("d/test.csv", CSV)
    write("d/dev.csv", "text,label\n,x\n")
    done = build(prep, "d", "--missing", "drop")
    assert done.code == 0, done
    assert "missing: 1 of 'validation', 5 of 'test'\n" in done.out
    assert rows(split="validation") == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (",y\n", "row 1 of split 'train' (counted from 0) has no text; fill it in or remove the row"),
        ("word2,\n", "row 1 of split 'train' (counted from 0) has no label; give it one or remove the row"),
        ('word2,""\n', "has the label '', which names no class; give the row a label or remove it"),
    ],
)
def test_the_error_offers_it(prep: Prep, data: str, message: str) -> None:
    done = build(prep, write("a.csv", "text,label\nword1,x\n" + data))
    assert done.code == 2
    assert f"{message}, or leave such rows out with --missing drop\n" in done.err
    assert build(prep, "a.csv", "--missing", "drop").code == 0


def test_other_errors_say_that_rows_left_out_are_not_counted(prep: Prep) -> None:
    write("a.csv", "text,label\n,1\nword1,1\nword2,2.5\n")
    done = build(prep, "a.csv", "--missing", "drop", "--task", "classification")
    assert done.code == 2
    assert "row 1 of split 'train' (counted from 0) has the label '2.5'" in done.err
    assert done.err.endswith("(rows that --missing drop leaves out are not counted)\n")
    write("b.csv", "text,label\n,1\n")
    assert "b.csv holds no rows with a text and a label" in build(prep, "b.csv", "--missing", "drop").err
    assert "Invalid value for '--missing'" in build(prep, "b.csv", "--missing", "skip").err


def test_from_python(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tok")
    texts, labels = ["word1", None, "word2", "word3"], ["x", "x", None, "y"]
    options: dict[str, Any] = {"out": tmp_path, "tokenizer": str(tmp_path / "tok"), "name": "a", "quiet": True}
    with pytest.raises(InputError, match=r"row 1 .* has no text; .* --missing drop"):
        build_cache(texts, labels, **options)
    with pytest.raises(InputError, match="--missing 'skip' is not one of error, drop"):
        build_cache(texts, labels, missing="skip", **options)
    cache = build_cache(texts, labels, missing="drop", **options)
    assert sorted(row.source_row for row in cache["train"]) == [0, 3]
    assert cache.manifest.source["missing_rows"] == {"train": 2}
    moved = build_cache(["word1", "word3"], ["x", "y"], missing="drop", **{**options, "name": "b"})
    assert moved.manifest.fingerprint != cache.manifest.fingerprint, "other rows of the source"


def test_a_manifest_with_other_counts_is_damaged(prep: Prep) -> None:
    for value in ("x", [1], {"train": -1}, {"train": "5"}):
        build(prep, write("a.csv", CSV), "--missing", "drop", "--force")
        resealed(Path("cache/a/manifest.json"), at("source", "missing_rows", value=value))
        with pytest.raises(CorruptCacheError, match=r"manifest\.json"):
            open_cache("cache/a")


# --- classes that are rarely meant


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        (["neg ", "neg", "pos"], "classes that differ only in white space or case: 'neg' and 'neg '"),
        (["Neg", "neg", "pos", "POS"], "'Neg' and 'neg', 'POS' and 'pos'; if they are one, correct the labels"),
        (["x", "NaN", "None"], "classes that look like missing labels: 'NaN', 'None'; if they are, remove their rows"),
        (["x", " "], "classes that look like missing labels: ' '"),
        (["[0, 2]", "['a', 'b']", "[]"], "'[0, 2]', '[]'; csv holds no lists, so if they are, give lists from Python"),
        (["x", "nano", "[x]"], ""),
    ],
)
def test_classes_that_look_alike_or_missing_are_named(prep: Prep, labels: list[str], warning: str) -> None:
    done = build(prep, write("a.jsonl", [{"text": "word1", "label": label} for label in labels]))
    assert done.code == 0
    assert done.err.startswith("warning: ") == bool(warning)
    assert warning in done.err


def test_tags_that_look_alike_are_named(prep: Prep) -> None:
    done = build(prep, write("a.jsonl", [{"tokens": ["word1", "word2"], "tags": ["O", "o"]}]))
    assert "warning: classes that differ only in white space or case: 'O' and 'o'" in done.err
