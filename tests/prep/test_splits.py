"""Which split a table file is of: by its name, by that of its folder, as repositories of the Hub lay them out."""

from pathlib import Path

import pytest

from cache import InputError
from prep.corpus.splits import by_split

from ..helpers.builds import build_toy, check_rows
from ..helpers.corpora import toy_rows, write_rows

ROWS = toy_rows(60)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("Train.CSV", "train"),
        ("training.csv", "train"),
        ("dev.csv", "validation"),
        ("val.jsonl", "validation"),
        ("valid.tsv.gz", "validation"),
        ("validation.jsonl", "validation"),
        ("train-00000-of-00003.parquet", "train"),
        ("dev-00000-of-00001.parquet", "validation"),
        ("train-0.csv", "train"),
        ("test_2.csv", "test"),
        ("reviews_train.csv", "train"),
        ("imdb-test-00001-of-00002.parquet", "test"),
        ("imdb.train.csv", "train"),
        ("wiki.v2.valid.0.jsonl.gz", "validation"),
        ("train_data.csv", "train"),
        ("test-set (1).csv", "test"),
        ("validation_mismatched-00000-of-00001.parquet", "validation_mismatched"),
        ("unsupervised-00000-of-00001.parquet", "unsupervised"),
    ],
)
def test_a_name_says_the_split(name: str, split: str) -> None:
    beside = "test.csv" if split == "train" else "train.csv"
    assert by_split([Path(name), Path(beside)]) == {split: [Path(name)], Path(beside).stem: [Path(beside)]}


@pytest.mark.parametrize(
    "names",
    [
        ["part-0.parquet", "part-1.parquet"],
        ["0000.parquet", "0001.parquet"],
        ["part-00000-of-00002.parquet", "part-00001-of-00002.parquet"],
        ["reviews.csv"],
        ["contest.csv", "latest.csv"],
    ],
)
def test_files_without_the_name_of_a_split_are_parts_of_train(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        write_rows(tmp_path / "data" / name, ROWS[number * 20 : number * 20 + 20])
    cache = build_toy(tmp_path / "data", tmp_path).cache
    assert list(cache) == ["train"]
    check_rows(cache, ROWS[: len(names) * 20])


def test_two_names_that_begin_with_one_usual_name_are_splits_of_their_own() -> None:
    names = ("train_all", "validation_matched", "validation_mismatched")
    splits = by_split([Path(name).with_suffix(".csv") for name in names])
    assert list(splits) == ["train", *names[1:]]


def test_names_of_several_folders_say_the_split_where_those_of_files_do_not() -> None:
    train, more, dev = Path("train", "0.csv"), Path("train", "1.csv"), Path("d", "dev", "0.csv")
    assert by_split([train, more, dev]) == {"train": [train, more], "validation": [dev]}
    assert by_split([dev]) == {"train": [dev]}
    with pytest.raises(InputError, match=r"\(train/0.csv\) and some do not \(d/a.csv\)"):
        by_split([train, Path("d", "a.csv")])


@pytest.mark.parametrize("names", [["my_train_v2", "my_test_v2"], ["trainset", "testset"], ["a", "eval"]])
def test_files_that_may_be_several_splits_are_not_read_as_one(names: list[str]) -> None:
    with pytest.raises(InputError, match=f"{names[0]}.csv.*{names[1]}.csv: these names do not say plainly"):
        by_split([Path(name + ".csv") for name in names])
    assert by_split([Path(names[1] + ".csv")]) == {"train": [Path(names[1] + ".csv")]}


def test_where_some_names_say_the_split_all_have_to() -> None:
    paths = [Path("d", name) for name in ("extra.csv", "test.csv", "train.csv")]
    message = (
        r"some names say which split they are \(d/test.csv, d/train.csv\) and some do not \(d/extra.csv\); move those "
        r"away, or name the split of each: prep build train=FILE test=FILE"
    )
    with pytest.raises(InputError, match=message):
        by_split(paths)


@pytest.mark.parametrize(
    ("first", "second"), [("train.csv", "train.jsonl"), ("a_test.csv", "b_test.csv"), ("dev.csv", "validation.csv")]
)
def test_two_files_of_one_split_that_are_no_parts_are_refused(first: str, second: str) -> None:
    with pytest.raises(InputError, match=f"{first} and {second} would both be the split"):
        by_split([Path(first), Path(second)])


@pytest.mark.parametrize(("first", "second"), [("a.csv", "a.jsonl.gz"), ("d/train-0.csv.zip", "d/train-0.parquet")])
def test_two_files_that_differ_in_their_endings_alone_are_refused(first: str, second: str) -> None:
    """They may well be one corpus in two forms, of which each row would be there twice."""
    with pytest.raises(InputError, match=f"{first} and {second} differ in their endings alone"):
        by_split([Path(first), Path(second)])
    assert by_split([Path("part.0.parquet"), Path("part.1.parquet"), Path("x", "part.0.parquet")])


@pytest.mark.parametrize(
    "layout", ["{}-00000-of-00001", "data/{}-00000-of-00001", "plain_text/{}", "{}/0", "data/{}/0"]
)
def test_repositories_of_the_hub_are_read_as_they_lie(tmp_path: Path, layout: str) -> None:
    data = tmp_path / "films"
    for split, rows in (("train", ROWS[:40]), ("test", ROWS[40:])):
        write_rows(data / f"{layout.format(split)}.parquet", rows)
    (data / "README.md").write_text("---\nlicense: mit\n---\n")
    (data / "dataset_infos.json").write_text("{}")
    (data / ".git").mkdir()
    cache = build_toy(data, tmp_path).cache
    assert cache.folder.name == "films"
    assert set(cache) == {"train", "test"}
    check_rows(cache, ROWS[:40], "train")
    check_rows(cache, ROWS[40:], "test")


def test_a_folder_of_a_split_may_hold_many_parts(tmp_path: Path) -> None:
    for number in range(3):
        write_rows(tmp_path / "d" / "train" / f"{number}.jsonl", ROWS[number * 20 : number * 20 + 20])
    write_rows(tmp_path / "d" / "dev" / "all.csv", ROWS[:5])
    cache = build_toy(tmp_path / "d", tmp_path).cache
    assert set(cache) == {"train", "validation"}
    check_rows(cache, ROWS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ("en/train.csv", "de/train.csv"),
            r"d holds table files in several folders \(.*d/de, .*d/en\); build from one",
        ),
        (
            ("train/a.csv", "more/b.csv"),
            r"some names say which split they are \(.*d/train\) and some do not \(.*d/more\)",
        ),
        (("dev/a.csv", "val/b.csv"), r"d/dev, .*d/val: two of them would be one split"),
    ],
)
def test_folders_that_leave_it_open_are_refused(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        write_rows(tmp_path / "d" / name, ROWS[:5])
    with pytest.raises(InputError, match=message):
        build_toy(tmp_path / "d", tmp_path)
