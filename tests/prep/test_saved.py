"""Folders of `save_to_disk`: read without `datasets`, as the dataset itself."""

import sys
from pathlib import Path
from typing import Any

import pytest

from cache import InputError
from prep import build_cache

from ..helpers.builds import build_toy, check_rows
from ..helpers.corpora import toy_rows
from ..helpers.files import content, edit_json

ROWS = toy_rows(60)


def dataset(rows: list[tuple[Any, Any]] = ROWS) -> Any:
    import datasets

    label = datasets.ClassLabel(names=["pos", "neg"])
    features = datasets.Features({"id": datasets.Value("int64"), "text": datasets.Value("string"), "label": label})
    columns = {"id": list(range(len(rows))), "text": [text for text, _ in rows], "label": [label for _, label in rows]}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "reviews"
    dataset().save_to_disk(folder, num_shards=3)
    return folder


def test_a_dataset_is_the_split_train_with_its_classes(tmp_path: Path, saved: Path) -> None:
    result = build_toy(saved, tmp_path)
    assert result.cache.folder.name == "reviews"
    assert result.cache.manifest.task.label_names == ("pos", "neg")
    check_rows(result.cache, ROWS)
    assert build_toy(saved, tmp_path).up_to_date
    assert list(build_toy(saved, tmp_path, name="held", holdout=0.2).cache) == ["train", "test"]


def test_a_dict_has_its_splits_and_rows_in_the_order_they_were_put_in(tmp_path: Path) -> None:
    import datasets

    order = list(range(59, -1, -1))
    parts = datasets.DatasetDict(train=dataset().select(order), validation=dataset(ROWS[:9]))
    parts.save_to_disk(tmp_path / "films")
    cache = build_toy(tmp_path / "films", tmp_path).cache
    assert list(cache) == ["train", "validation"]
    check_rows(cache, [ROWS[row] for row in order])
    check_rows(cache, ROWS[:9], "validation")


def test_it_is_the_same_corpus_as_the_dataset_in_memory(tmp_path: Path, saved: Path) -> None:
    cache = build_toy(saved, tmp_path).cache
    before = content(cache.folder)
    tokenizer = str(tmp_path / "tokenizer")
    given = build_cache(dataset(), name="reviews", out=tmp_path / "caches", tokenizer=tokenizer, epochs=1, quiet=True)
    assert given.manifest.fingerprint == cache.manifest.fingerprint
    assert content(cache.folder) == before


def test_datasets_is_not_needed(tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    check_rows(build_toy(saved, tmp_path).cache, ROWS)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("state.json", "_data_files", None, "state.json holds no '_data_files'"),
        ("state.json", "_data_files", [{"filename": "../x"}], "lists the file '../x', expected a name in this folder"),
        ("state.json", "_data_files", ["x"], "lists the file None"),
        ("state.json", "_data_files", [{"filename": "gone.arrow"}], "cannot read .*gone.arrow: "),
        ("dataset_info.json", "features", 3, "holds no 'features'"),
        ("dataset_info.json", "features", {"text": {}, "label": {}, "more": {}}, None),
        ("dataset_info.json", "features", {"text": {}, "stars": {}, "label": 3}, None),
    ],
)
def test_a_changed_description_is_refused_or_read(
    tmp_path: Path, saved: Path, file: str, key: str, value: Any, message: str | None
) -> None:
    edit_json(saved / file, **{key: value})
    if message is None:
        assert len(build_toy(saved, tmp_path).cache["train"]) == 60
        return
    with pytest.raises(InputError, match=message):
        build_toy(saved, tmp_path)


def test_a_column_that_is_listed_but_not_there_is_said(tmp_path: Path, saved: Path) -> None:
    edit_json(saved / "dataset_info.json", features={"text": {}, "stars": {}})
    with pytest.raises(InputError, match=r"has no column 'stars', though dataset_info.json lists it"):
        build_toy(saved, tmp_path, label="stars")


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_cut_file_is_refused(tmp_path: Path, saved: Path, keep: int) -> None:
    part = sorted(saved.glob("*.arrow"))[1]
    data = part.read_bytes()
    part.write_bytes(data[:keep] if keep >= 0 else data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=f"cannot read .*{part.name}: "):
        build_toy(saved, tmp_path)
    assert not (tmp_path / "caches" / "reviews").exists()


def test_bytes_that_are_no_json_are_refused(tmp_path: Path, saved: Path) -> None:
    (saved / "state.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match=r"state.json.*not UTF-8"):
        build_toy(saved, tmp_path)
