"""Labels of every task from files to caches: found, kept with their rows; bad input is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cache import Cache, InputError, MismatchError
from prep.columns import LABEL, TEXT, in_split
from prep.labels.class_labels import Coded, code_labels, find_task, resolve_classes
from prep.labels.tags import Tags, tagged_words
from prep.labels.values import class_of
from prep.rows.labelling import _oddities
from tests.helpers.builds import build_toy
from tests.helpers.files import write_jsonl


def labels_by_source_row(cache: Cache, split: str = "train") -> dict[int, Any]:
    return {row.source_row: row.label for row in cache[split]}


def test_fractions_are_numbers(tmp_path: Path) -> None:
    """Found from the labels in JSON and in csv alike; a holdout is drawn from all rows."""
    labels = [number / 4 for number in range(40)]
    texts = [f"word{number}" for number in range(40)]
    json_rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    lines = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "b.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    for source in (write_jsonl(tmp_path / "a.jsonl", json_rows), tmp_path / "b.csv"):
        cache = build_toy(source, tmp_path, holdout=0.25).cache
        assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("regression", ())
        assert (len(cache["train"]), len(cache["test"])) == (30, 10)
        found = labels_by_source_row(cache) | labels_by_source_row(cache, "test")
        assert found == dict(enumerate(labels))


def test_whole_numbers_are_numbers_where_the_user_says_so(tmp_path: Path) -> None:
    """And classes where nobody does; the two caches are different ones."""
    source = write_jsonl(tmp_path / "stars.jsonl", [{"text": "word1", "label": n % 5} for n in range(20)])
    assert build_toy(source, tmp_path).cache.manifest.task.label_names == tuple("01234")
    with pytest.raises(MismatchError, match="task None there, 'regression' asked for"):
        build_toy(source, tmp_path, task="regression")
    cache = build_toy(source, tmp_path, task="regression", force=True).cache
    assert labels_by_source_row(cache) == {n: float(n % 5) for n in range(20)}


def test_lists_are_sets_of_classes(tmp_path: Path) -> None:
    """Of names or of numbers; a row may have none."""
    held = [[], ["b"], ["a", "b"], ["c", "a"]]
    source = write_jsonl(tmp_path / "names.jsonl", [{"text": "word1", "label": labels} for labels in held])
    cache = build_toy(source, tmp_path).cache
    assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("multi-label", ("a", "b", "c"))
    assert labels_by_source_row(cache) == {0: [0, 0, 0], 1: [0, 1, 0], 2: [1, 1, 0], 3: [1, 0, 1]}
    source = write_jsonl(tmp_path / "ids.jsonl", [{"text": "word1", "label": labels} for labels in ([10, 2], [2], [])])
    cache = build_toy(source, tmp_path).cache
    assert cache.manifest.task.label_names == ("2", "10")
    assert labels_by_source_row(cache) == {0: [1, 1], 1: [1, 0], 2: [0, 0]}


@pytest.mark.parametrize("kind", [int, float, bool])
def test_lists_of_0_and_1_are_marks_of_classes(kind: type) -> None:
    """As transformers takes several labels a row; lists of unequal length, or of other numbers, name classes."""
    marks = [[0, 1, 0], [1, 1, 0], [0, 0, 0]]

    def resolved(rows: Any, known: tuple[str, ...] | None = None) -> tuple[Any, list[list[int]]]:
        names, labels = resolve_classes({"train": [code_labels(pa.array(rows))]}, known)
        return names, labels["train"].tolist()

    assert resolved([[kind(mark) for mark in row] for row in marks]) == (("0", "1", "2"), marks)
    assert resolved(pa.array(marks, pa.list_(pa.int64(), 3))) == (("0", "1", "2"), marks)
    assert resolved([[0, 1], [1, 0]]) == (("0", "1"), [[0, 1], [1, 0]])
    assert resolved([[0, 1], [1]]) == (("0", "1"), [[1, 1], [0, 1]])
    assert resolved([[0, 2], [1, 0]]) == (("0", "1", "2"), [[1, 0, 1], [1, 1, 0]])
    assert resolved([[0, 1], [1, 0]], ("a", "b")) == (("a", "b"), [[1, 1], [1, 1]])


def test_a_split_of_single_classes_beside_one_of_lists_has_sets_of_one() -> None:
    pieces = {"train": [code_labels(pa.array([["a", "b"], []]))], "test": [code_labels(pa.array(["b", "a"]))]}
    assert find_task("multi-label", pieces, None) == find_task("auto", pieces, None) == "multi-label"
    names, labels = resolve_classes(pieces, None)
    assert names == ("a", "b")
    assert {split: found.tolist() for split, found in labels.items()} == {
        "train": [[1, 1], [0, 0]],
        "test": [[0, 1], [1, 0]],
    }


def test_a_single_class_is_odd_unless_rows_may_have_none_and_a_class_without_rows_only_in_train() -> None:
    marks, classes = np.array([[1], [0]], np.uint8), np.array([0, 0])
    assert list(_oddities(("a",), {"train": marks})) == []
    assert list(_oddities(("a",), {"train": classes})) == ["all rows have the label 'a': there is nothing to learn"]
    assert list(_oddities(("a", "b"), {"test": classes})) == []
    assert list(_oddities(("a", "b"), {"train": classes})) == ["no row of 'train' has the label 'b'"]


def test_columns_of_yes_and_no_are_sets_of_classes(tmp_path: Path) -> None:
    """One column a class, in the order given, from csv."""
    (tmp_path / "c.csv").write_text("text,mild,toxic\nword1,0,1\nword2,1,true\nword3,False,0\n")
    cache = build_toy(tmp_path / "c.csv", tmp_path, label=("toxic", "mild")).cache
    assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("multi-label", ("toxic", "mild"))
    assert labels_by_source_row(cache) == {0: [1, 0], 1: [1, 1], 2: [0, 0]}


def test_the_classes_a_source_knows_are_kept(tmp_path: Path) -> None:
    """Tags may then be names or ids, labels true and false."""
    assert [class_of(value, ("no", "yes")) for value in (True, "yes", 0, "0")] == [1, 1, 0, 0]
    with pytest.raises(ValueError, match=r"not one of the classes no, yes \(0 to 1\)"):
        class_of("maybe", ("no", "yes"))
    tags = Tags(("O", "B-X", "I-X"))
    marks = tags.marks(Coded([2, "O"], np.array([0, 1, 0]), np.array([3])))
    names, table = tags.table()
    assert names == ("O", "B-X", "I-X")
    assert table[marks].tolist() == [2, 0, 2]
    assert table[0] == -100
    with pytest.raises(InputError, match=r"row 4 .* label 3, which is not one of the classes"), in_split("train", 3):
        tags.marks(Coded([3], np.array([0]), np.array([0, 1])))
    with pytest.raises(InputError, match=r"holds list.*int64.*, expected lists of words as text"), in_split("train", 0):
        tagged_words(pa.record_batch({TEXT: [[1]], LABEL: [["O"]]}), tags)


BAD: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"text": "a", "label": "0.5"}, {"text": "b", "label": "x"}], {"task": "regression"}, r"row 1 .* label 'x'"),
    ([{"text": "a", "label": "nan"}], {"task": "regression"}, r"row 0 .* not a finite number"),
    ([{"text": "a", "label": 1e39}], {"task": "regression"}, r"row 0 .* not a finite number"),
    ([{"text": "a", "label": 0.5}], {"task": "classification"}, r"numbers are for --task regression"),
    ([{"text": "a", "label": "x"}], {"task": "multi-label"}, r"takes a column of lists"),
    ([{"text": "a", "label": ["x"]}], {"task": "classification"}, r"takes one label per row"),
    ([{"text": "a", "label": [["x"]]}], {}, r"expected lists of classes"),
    ([{"text": "a", "label": []}, {"text": "b", "label": []}], {}, r"0 different labels"),
    ([{"text": "a", "label": ["x"]}, {"text": "b", "label": ["x", None]}], {}, r"row 1 .* label that is null"),
    ([{"text": "a", "label": ["x"]}, {"text": "b", "label": ["x", ""]}], {}, r"row 1 .* names no class"),
    ([{"text": "a", "x": 1, "y": 2}], {"label": ("x", "y")}, r"row 0 .* has 2 in column 'y', expected 0 or 1"),
    ([{"text": "a", "x": 1, "y": None}], {"label": ("x", "y")}, r"row 0 .* has no label in column 'y'"),
    ([{"text": "a", "x": [], "y": 1}], {"label": ("x", "y")}, r"column 'x' holds lists, expected 0 or 1"),
    ([{"text": "a", "x": 1}], {"label": ("x", "x")}, r"named twice with --label"),
    ([{"text": "a", "label": "x"}], {"text_pair": "b"}, r"no column 'b' for --text-pair"),
    ([{"text": "a", "label": "x"}], {"text_pair": "text"}, r"cannot be both texts of a pair"),
    ([{"text": "a", "b": None, "label": "x"}], {"text_pair": "b"}, r"row 0 .* has no text"),
    ([{"text": "a", "b": "c", "label": "x"}], {"text_pair": "b", "max_length": 4}, r"no room for two texts"),
    ([{"text": "a", "label": "x"}], {"task": "ranking"}, r"--task 'ranking' is not one of auto"),
    ([{"text": "a", "label": "x"}], {"engine": "fastest"}, r"--engine 'fastest' is not one of auto, nanotoken"),
    ([{"tokens": ["a"], "tags": ["x"]}, {"tokens": ["a", "b"], "tags": ["x"]}], {}, r"row 1 .* 2 words and 1 tags"),
    ([{"tokens": ["a", None], "tags": ["x", "y"]}], {}, r"row 0 .* a word that is null"),
    ([{"tokens": ["a"], "tags": ["x"]}, {"tokens": None, "tags": ["x"]}], {}, r"row 1 .* has no text"),
    ([{"tokens": ["a"], "tags": [None]}], {}, r"row 0 .* label that is null"),
    ([{"tokens": ["a"], "tags": None}], {}, r"row 0 .* no label"),
    ([{"tokens": ["a"], "tags": ["x"]}, {"tokens": ["b", "c"], "tags": ["y", ""]}], {}, r"row 1 .* names no class"),
    ([{"tokens": ["a"], "tags": "x"}], {}, r"the label column holds string, expected one column of lists of tags"),
    ([{"tokens": ["a"], "tags": [0.5]}], {}, r"row 0 .* label 0.5, which is not a class"),
    ([{"tokens": [["a"]], "tags": ["x"]}], {}, r"cannot read"),
    ([{"tokens": [], "tags": []}], {}, r"no word has a tag, so there is none to learn"),
    ([{"tokens": ["word1"], "tags": [-100]}], {}, r"no word has a tag, so there is none to learn"),
    ([{"text": "a", "ner_tags": ["x"]}], {}, r"which column is the label\?"),
    ([{"tokens": ["a"], "label": 1}], {}, r"which column is the label\?"),
    ([{"tokens": ["a"], "label": 1}], {"label": "label"}, r"label column holds int64, expected one column of lists"),
    ([{"tokens": ["a"], "x": 1, "y": 0}], {"label": ("x", "y")}, r"the label is in several columns"),
    ([{"tokens": ["a"], "tags": ["x"]}], {"task": "classification"}, r"--task classification takes texts"),
    ([{"tokens": ["a"], "b": "c", "tags": ["x"]}], {"text_pair": "b"}, r"--text-pair takes texts"),
    ([{"text": "a", "label": ["x"]}], {"task": "token-classification"}, r"takes a column of lists of words"),
    ([{"text": "a", "label": "x"}], {"task": "token-classification"}, r"takes a column of lists of words"),
]


@pytest.mark.parametrize(("rows", "settings", "complaint"), BAD, ids=[complaint for *_, complaint in BAD])
def test_bad_input_is_named(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], complaint: str
) -> None:
    """What is wrong, where, and the way out; nothing is left behind."""
    source = write_jsonl(tmp_path / "bad.jsonl", rows)
    with pytest.raises(InputError, match=complaint):
        build_toy(source, tmp_path, **settings)
    assert not (tmp_path / "caches" / "bad").exists()
