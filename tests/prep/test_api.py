"""`build_cache`: data in memory gives the cache that its file gives, whichever library holds it."""

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest

import prep
from cache import Cache, InputError, MismatchError
from cache.console.sizes import parse_bytes
from prep import build_cache
from prep.settings import BuildSettings
from tests.helpers.builds import build_toy, check_rows
from tests.helpers.corpora import toy_rows, write_rows
from tests.helpers.files import content, write_jsonl
from tests.helpers.python import run_python
from tests.helpers.tokenizers import write_tokenizer

ROWS = [*toy_rows(60), ("wörd1 word2\nword3", "neg"), ("", "pos")]
TEXTS, LABELS = [text for text, _ in ROWS], [label for _, label in ROWS]


class Capsule:
    """A table of a library nobody has heard of: all it has is Arrow's C stream, and its text is in views."""

    def __init__(self, columns: dict[str, Any]) -> None:
        views = {name: pa.array(values, pa.string_view()) for name, values in columns.items()}
        self.table = pa.table(views)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


def pandas_frame(columns: dict[str, Any]) -> Any:
    """With an index as a filter leaves it, and a column Arrow has no type for."""
    frame = pandas.DataFrame({**columns, "odd": [1, "x"] * (len(TEXTS) // 2)}, index=range(len(TEXTS), 0, -1))
    return frame.astype({"label": "category"})


def polars_frame(columns: dict[str, Any]) -> Any:
    polars = pytest.importorskip("polars")
    return polars.DataFrame(columns).with_columns(polars.col("label").cast(polars.Categorical))


def hub_dataset(columns: dict[str, Any]) -> Any:
    """Rows reached through a selection, out of their order in memory."""
    import datasets

    turned = {name: [*values[::-1], values[0]] for name, values in columns.items()}
    return datasets.Dataset.from_dict(turned).select(range(len(TEXTS) - 1, -1, -1))


TABLES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pandas": pandas_frame,
    "polars": polars_frame,
    "arrow": pa.table,
    "arrow in chunks": lambda columns: pa.concat_tables([pa.table(columns).slice(0, 7), pa.table(columns).slice(7)]),
    "capsule": Capsule,
    "datasets": hub_dataset,
    "splits": lambda columns: {"train": pa.table(columns)},
    "columns of datasets": lambda columns: dict(
        zip(columns, map(hub_dataset(columns).__getitem__, columns), strict=True)
    ),
    "columns of arrow": lambda columns: {name: pa.chunked_array([values]) for name, values in columns.items()},
    "dicts": lambda columns: [{**row, "odd": object()} for row in pa.table(columns).to_pylist()],
    "a dict of lists": lambda columns: {**columns, "odd": [object(), 1] * (len(TEXTS) // 2)},
}


def give(tmp_path: Path, *data: Any, **settings: Any) -> Cache:
    tokenizer = tmp_path / "tokenizer"
    if not tokenizer.exists():
        write_tokenizer(tokenizer)
    settings = {"name": "a", "tokenizer": str(tokenizer), "epochs": 1, "quiet": True, **settings}
    return build_cache(*data, out=tmp_path / "given", **settings)


def same_but_for_the_source(given: Path, built: Path) -> None:
    """All files are the same but manifest and plan.json, and these but for where the text came from."""
    files, expected = content(given), content(built)
    assert list(files) == list(expected)
    for name, data in files.items():
        if not name.endswith(".json") or name.startswith("tokenizer"):
            assert data == expected[name], name
            continue
        found, wanted = json.loads(data), json.loads(expected[name])
        for key in ("source", "fingerprint", "cache", "created", "checksum"):
            assert (key in found) == (key in wanted)
            found[key] = wanted[key] = None
        assert found == wanted, name


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_lists_give_the_bytes_that_their_file_gives(tmp_path: Path, holdout: float) -> None:
    built = build_toy(write_rows(tmp_path / "a.jsonl", ROWS), tmp_path, holdout=holdout).cache
    given = give(tmp_path, TEXTS, LABELS, holdout=holdout)
    same_but_for_the_source(given.folder, built.folder)
    assert given.manifest.source["kind"] == "tables"
    assert list(given) == list(built)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_is_the_same_corpus(tmp_path: Path, kind: str) -> None:
    """The rows are right, and lists of the same content find the cache up to date: nothing is written."""
    cache = give(tmp_path, TABLES[kind]({"text": TEXTS, "label": LABELS}))
    check_rows(cache, ROWS)
    before = content(cache.folder)
    again = give(tmp_path, TEXTS, LABELS)
    assert again.manifest.fingerprint == cache.manifest.fingerprint
    assert content(again.folder) == before


def test_whatever_changes_the_rows_is_another_corpus(tmp_path: Path) -> None:
    give(tmp_path, TEXTS, LABELS)
    moved = [TEXTS[0] + TEXTS[1][:1], TEXTS[1][1:], *TEXTS[2:]]  # the same letters end to end
    for texts, labels in (
        (moved, LABELS),
        (TEXTS, ["pos", *LABELS[1:]]),
        (TEXTS[::-1], LABELS[::-1]),
        (TEXTS[:-1], LABELS[:-1]),
    ):
        with pytest.raises(MismatchError, match="holds a different cache: the texts or labels"):
            give(tmp_path, texts, labels)
    give(tmp_path, moved, LABELS, force=True)


@pytest.mark.parametrize("labels", [[0.5, 1.0, 2.5], [[0], [0, 1], []], [["a"], ["b"], ["a", "b"]]])
def test_tasks_are_found_as_from_a_file(tmp_path: Path, labels: list[Any]) -> None:
    built = build_toy(write_rows(tmp_path / "a.jsonl", list(zip(TEXTS[:3], labels, strict=True))), tmp_path).cache
    same_but_for_the_source(give(tmp_path, TEXTS[:3], labels).folder, built.folder)


def test_pairs_come_as_two_lists_as_one_of_pairs_or_as_columns(tmp_path: Path) -> None:
    firsts, seconds, labels = TEXTS[:20], TEXTS[20:40], LABELS[:20]
    rows = [{"text": a, "text_pair": b, "label": c} for a, b, c in zip(firsts, seconds, labels, strict=True)]
    built = build_toy(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path, text_pair="text_pair").cache
    table = pa.table({"one": firsts, "two": seconds, "label": labels})
    for number, cache in enumerate(
        (
            give(tmp_path, firsts, labels, text_pairs=seconds, name="a"),
            give(tmp_path, list(zip(firsts, seconds, strict=True)), labels, name="a"),
            give(tmp_path, table, text="one", text_pair="two", name="b"),
        )
    ):
        assert cache.manifest.task.pair
        if number < 2:
            same_but_for_the_source(cache.folder, built.folder)
        assert np.array_equal(cache["train"].first_lengths, built["train"].first_lengths)


def test_arrays_and_series_are_lists(tmp_path: Path) -> None:
    cache = give(tmp_path, np.array(TEXTS), np.arange(len(TEXTS)) % 3)
    assert cache.manifest.task.label_names == ("0", "1", "2")
    before = content(cache.folder)
    give(tmp_path, pandas.Series(TEXTS), pandas.Series(np.arange(len(TEXTS)) % 3))
    columns = hub_dataset({"text": TEXTS})["text"], pa.chunked_array([np.arange(len(TEXTS)) % 3])
    give(tmp_path, *columns)
    assert content(cache.folder) == before
    gaps = pandas.Series(["a", None, "c", float("nan")]), pandas.Series([0, 1, pandas.NA, 1], dtype="Int64")
    assert give(tmp_path, *gaps, missing="drop", force=True)["train"].source_rows.tolist() == [0]
    with pytest.raises(InputError, match=r"row 1 of split 'train' \(counted from 0\) has no text"):
        give(tmp_path, *gaps)


def test_splits_keep_their_names_and_classes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])})
    parts = {
        name: datasets.Dataset.from_dict({"text": TEXTS[part], "label": LABELS[part]}, features=features)
        for name, part in (("train", slice(0, 40)), ("test", slice(40, 62)))
    }
    parts["hidden"] = datasets.Dataset.from_dict({"text": TEXTS[:3], "label": [-1] * 3}, features=features)
    cache = give(tmp_path, datasets.DatasetDict(parts))
    assert list(cache) == ["train", "test"], "labels of -1 are answers kept back"
    assert cache.manifest.task.label_names == ("pos", "neg")
    check_rows(cache, ROWS[:40])
    check_rows(cache, ROWS[40:], "test")


def test_what_the_command_takes_is_taken(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS[:60])
    cache = give(tmp_path, path)
    shard, built = "train/shard-00000.safetensors", build_toy(path, tmp_path).cache
    assert (cache.folder / shard).read_bytes() == (built.folder / shard).read_bytes()
    assert cache.manifest.source["kind"] == "files"


class Lazy:
    """Like polars' LazyFrame and others that wait to be told."""

    def collect(self) -> None: ...


ONE = pa.table({"text": ["a"], "label": [1]})
WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "no name": ((TEXTS, LABELS), {"name": None}, "name= is missing"),
    "no labels": ((TEXTS,), {}, "labels= is missing"),
    "lengths": ((TEXTS, LABELS[1:]), {}, r"different lengths \(62 in text, 61 in label\)"),
    "a number": ((["a", 3], [0, 1]), {}, r"row 1 of texts \(counted from 0\) is int 3, expected text"),
    "no text": ((["a", None], [0, 1]), {}, r"row 1 of split 'train' \(counted from 0\) has no text"),
    "no label": ((["a", "b"], [0, None]), {}, r"row 1 of split 'train' \(counted from 0\) has no label"),
    "half a character": ((["a", "b\ud800"], [0, 1]), {}, "row 1 of texts .* is not valid text: surrogates"),
    "mixed labels": ((["a", "b"], [0, "x"]), {}, r"row 1 of labels \(counted from 0\): Could not convert 'x'"),
    "huge labels": ((["a"], [1 << 70]), {}, r"row 0 of labels \(counted from 0\): "),
    "one of a pair": (([("a", "b"), "c"], [0, 1]), {}, "row 1 of the texts .* is str 'c', expected two texts"),
    "labels of a file": (("a.csv", [1]), {}, "'a.csv' is taken for a preset, a file"),
    "columns of lists": ((TEXTS, LABELS), {"label": "x"}, "name the columns of a table, but lists are given"),
    "labels of a table": ((ONE, [1]), {}, "go with lists; of a table name the columns"),
    "a text alone": ((ONE,), {"text_pairs": "b"}, "go with lists"),
    "a column": ((ONE,), {"label": "stars"}, "the data given, split 'train' has no column 'stars' for --label"),
    "a number for text": ((pa.table({"text": [1], "label": [1]}),), {}, "holds int64, expected text"),
    "nothing": (({},), {}, "data is an empty dict"),
    "a dict, a list": (([{"text": "a", "label": 1}, ["b", 0]],), {}, r"row 1 of split 'train' .* is list .* a dict"),
    "a dict without a label": (([{"text": "a", "label": 1}, {"text": "b"}],), {}, "row 1 of split 'train' .* no label"),
    "mixed in dicts": (({"test": [{"text": "a", "label": 1}, {"text": 2, "label": 1}]},), {}, "row 1 of 'text', split"),
    "labels of dicts": (([{"text": "a"}], [1]), {}, "go with lists; of a table name the columns"),
    "columns of other lengths": (({"text": ["a"], "label": [0, 1]},), {}, "split 'train' cannot be made into"),
    "an unknown option": ((TEXTS, LABELS), {"max_lenght": 8}, "no option max_lenght; it has .* max_length"),
    "wrong types": ((TEXTS, LABELS), {"max_length": "5", "force": 1}, "max_length is '5', expected int .*; force is 1"),
    "a list of labels": ((TEXTS, LABELS), {"label": 5}, "label is 5, expected str"),
    "no memory": ((TEXTS, LABELS), {"memory_bytes": 0}, "--memory 0 is not 1 byte or more"),
    "a tokenizer": (
        (TEXTS, LABELS),
        {"tokenizer": type("Loaded", (), {"save_pretrained": None})()},
        r"tokenizer is a Loaded, expected a folder or a Hub id; save it with tokenizer.save_pretrained\(FOLDER\)",
    ),
    "columns without names": ((pandas.DataFrame([["a", 1]]),), {}, "It has none whose name is a text"),
    "no table": ((3,), {}, "split 'train' is int 3, expected texts="),
    "lazy": ((Lazy(),), {}, r"call collect\(\) first"),
    "a generator": ((({} for _ in "ab"),), {}, r"make it a list first: list\("),
    "a split's name": (({"../x": ONE},), {}, "is not a valid name for a split"),
    "no rows": (([], []), {}, "the data given holds no rows"),
    "broken text": (
        (pa.table([pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")), [1]],
                  names=["text", "label"]),),
        {},
        "split 'train': .*Invalid UTF8",
    ),
    "a strategy": ((TEXTS, LABELS), {"strategy": "budget"}, "max-tokens"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, case: str) -> None:
    data, settings, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        give(tmp_path, *data, **settings)
    assert not (tmp_path / "given" / "a").exists()


def test_splits_that_name_their_classes_differently_are_refused(tmp_path: Path) -> None:
    import datasets

    def part(names: list[str]) -> Any:
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        return datasets.Dataset.from_dict({"text": ["a"], "label": [0]}, features=features)

    with pytest.raises(InputError, match=r"differently \(train: a, b; test: b, a\)"):
        give(tmp_path, {"train": part(["a", "b"]), "test": part(["b", "a"])})


def test_a_dataset_whose_texts_are_made_by_a_transform_is_refused(tmp_path: Path) -> None:
    made = hub_dataset({"text": TEXTS, "label": LABELS}).with_transform(lambda rows: rows)
    with pytest.raises(InputError, match=r"split 'train' has a transform.*map\(…, batched=True\).*with_format\(None\)"):
        give(tmp_path, made)


@pytest.mark.slow
def test_the_package_is_light_and_its_names_are_two() -> None:
    assert prep.__all__ == ["build_cache", "to_dataset"]
    code = (
        "import sys, prep\n"
        "assert not {'numpy', 'torch', 'datasets', 'pyarrow', 'pandas'} & set(sys.modules)\n"
        "from prep import build_cache, to_dataset\n"
        "assert not {'torch', 'datasets', 'pandas', 'polars'} & set(sys.modules)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_its_settings_are_the_commands(tmp_path: Path) -> None:
    """Every option of `prep build` is a keyword argument with the same default, and its docstring describes it."""
    import prep.cli
    from prep.settings import BuildOptions

    defaults = {item.name: item.default for item in fields(BuildSettings)}
    options = {option.name: option.default for option in prep.cli.build.params}
    assert parse_bytes(options.pop("memory")) == defaults["memory_bytes"]
    assert set(BuildOptions.__annotations__) == set(defaults) - {"source", "shard_bytes", "part_bytes"}
    assert set(options) - {"source", "quiet", "as_json"} == set(BuildOptions.__annotations__) - {"memory_bytes"}
    for name in BuildOptions.__annotations__:
        assert re.search(rf"^ {{8}}(\w+, )*{name}(, \w+)*: ", build_cache.__doc__ or "", re.MULTILINE), name
        default = options.get(name)  # click's own object where there is none, a tuple for labels
        if isinstance(default, str | int):
            assert default == defaults[name], name
        else:
            assert name == "memory_bytes" or not defaults[name], name


SENTENCES = [["Paris", "is", "old"], ["no", "names", "here"], ["Ada", "met", "Paul", "in", "Rome"]] * 4
TAGS = [["B-LOC", "O", "O"], ["O", "O", "O"], ["B-PER", "O", "B-PER", "O", "B-LOC"]] * 4


def test_words_with_tags_are_the_same_from_lists_tables_datasets_and_a_file(tmp_path: Path) -> None:
    """Ids and labels of each token, and `to_dataset` gives them back."""
    import datasets

    from prep import to_dataset

    columns = {"tokens": SENTENCES, "ner_tags": TAGS}
    rows = ({"tokens": words, "ner_tags": tags} for words, tags in zip(SENTENCES, TAGS, strict=True))
    file = write_jsonl(tmp_path / "sentences.jsonl", rows)
    shared: dict[str, Any] = {"tokenizer": "minilm", "out": tmp_path, "quiet": True}
    caches = [
        build_cache(SENTENCES, TAGS, name="lists", task="token-classification", **shared),
        build_cache(pa.table(columns), name="table", **shared),
        build_cache(datasets.Dataset.from_dict(columns), name="dataset", **shared),
        build_cache(file, name="file", **shared),
    ]
    expected = [(row.input_ids.tolist(), row.label) for row in caches[-1]["train"]]
    assert caches[-1].manifest.task.label_names == ("O", "B-LOC", "B-PER")
    for cache in caches:
        assert [(row.input_ids.tolist(), row.label) for row in cache["train"]] == expected
        rows = to_dataset(cache["train"])
        assert [(ids, labels) for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)] == expected


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([["a", 1]], "row 0 of texts"),
        (["a b"], "expected a list of words"),
        ([["a", None]], "a word that is null"),
        ([None], "row 0 of split 'train' .* has no text"),
    ],
)
def test_words_that_are_none_are_refused(texts: list[Any], says: str, tmp_path: Path) -> None:
    """By row."""
    with pytest.raises(InputError, match=says):
        build_cache(texts, [["O", "O"]], name="x", task="token-classification", tokenizer="minilm", out=tmp_path)
