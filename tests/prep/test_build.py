"""The build: which rows go where, what is there is found, same inputs give the same bytes."""

from pathlib import Path

import numpy as np
import pytest

from cache import InputError, MismatchError, open_cache
from cache.common import forked
from prep.parsing import readers
from prep.rows import assembly

from ..helpers.builds import build_toy, check_rows, decoded, ids_by_transformers
from ..helpers.commands import Prep
from ..helpers.commands import build as run_build
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.files import content, edit_json, without_time
from ..helpers.python import run_python
from ..helpers.tokenizers import write_tokenizer

ROWS = [*toy_rows(60), ('word1, word2\nword3 "word4"', "neg"), ("word5", "pos")]


# --- which rows


def test_the_holdout_is_stratified_and_always_the_same(tmp_path: Path) -> None:
    rows = toy_rows(90, classes=("a", "a", "b"))
    path = write_rows(tmp_path / "a.csv", rows)
    cache = build_toy(path, tmp_path, holdout=0.1).cache
    labels = {name: [label for _, label in decoded(cache, name).values()] for name in cache}
    assert {name: (found.count("a"), found.count("b")) for name, found in labels.items()} == {
        "train": (54, 27),
        "test": (6, 3),
    }
    held = set(decoded(cache, "test"))
    assert held | set(decoded(cache)) == set(range(90))
    expected = ids_by_transformers([text for text, _ in rows], cache.tokenizer_folder)
    assert all(ids == expected[row] for name in cache for row, (ids, _) in decoded(cache, name).items())
    again = build_toy(path, tmp_path, holdout=0.1, name="again").cache
    assert set(decoded(again, "test")) == held


def test_a_part_held_out_for_validation_leaves_test_as_it_is(tmp_path: Path) -> None:
    """Both are stratified, no row is in two splits, and a test split of the source's own may stand beside it."""
    path = write_rows(tmp_path / "a.csv", toy_rows(90, classes=("a", "a", "b")))
    without = build_toy(path, tmp_path, holdout=0.2, name="without").cache
    cache = build_toy(path, tmp_path, holdout=0.2, validation=0.1).cache
    labels = {name: [label for _, label in decoded(cache, name).values()] for name in cache}
    assert {name: (found.count("a"), found.count("b")) for name, found in labels.items()} == {
        "train": (42, 21),
        "test": (12, 6),
        "validation": (6, 3),
    }
    assert decoded(cache, "test") == decoded(without, "test")
    assert sorted(row for name in cache for row in decoded(cache, name)) == list(range(90))
    assert cache.manifest.fingerprint != without.manifest.fingerprint
    write_rows(tmp_path / "data" / "train.csv", toy_rows(50))
    write_rows(tmp_path / "data" / "test.csv", toy_rows(6, seed=1))
    both = build_toy(tmp_path / "data", tmp_path, validation=0.1).cache
    assert {name: len(split) for name, split in both.items()} == {"train": 46, "test": 6, "validation": 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout": 0.5, "validation": 0.5}, "--holdout 0.5 and --validation 0.5 leave no rows to train on"),
        ({"validation": 1.5}, "--validation 1.5 is not a fraction from 0 to below 1"),
        ({"validation": 0.001}, "a holdout of 0.001 of 60 rows, taken from each class, leaves no row to validation"),
    ],
)
def test_a_validation_split_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    path = write_rows(tmp_path / "a.csv", toy_rows(60))
    with pytest.raises(InputError, match=message):
        build_toy(path, tmp_path, **options)


def test_rows_with_numbers_are_not_said_to_be_taken_from_each_class(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", toy_rows(60, classes=(0.5, 1.5)))
    with pytest.raises(InputError, match=r"a holdout of 0.001 of 60 rows leaves no row to validation"):
        build_toy(path, tmp_path, validation=0.001)


def test_rows_longer_than_the_tokenizers_model_takes_are_said(tmp_path: Path, prep: Prep) -> None:
    """The toy tokenizer's config says 128."""
    path = write_rows(tmp_path / "a.csv", toy_rows(12))
    said = [run_build(prep, str(path), "--max-length", str(length), "--force").err for length in (128, 129)]
    assert "warning" not in said[0]
    assert (
        "warning: --max-length 129, but tok is the tokenizer of a model whose rows have at most 128 tokens" in said[1]
    )


def test_rows_without_text_are_said_once(tmp_path: Path, prep: Prep) -> None:
    """Also with --quiet, which leaves out all else; they are those of special tokens alone."""
    path = write_rows(tmp_path / "a.jsonl", [*toy_rows(12), ("", "pos"), ("  ", "neg")])
    done = run_build(prep, str(path), "--quiet", "--holdout", "0.5")
    assert (done.out, done.err) == (
        "",
        "warning: 2 rows without text, of special tokens alone; --missing drop leaves such rows out\n",
    )
    assert run_build(prep, str(path), "--quiet", "--missing", "drop", "--force").err == ""


def test_the_limit_draws_rows_of_every_split_before_the_holdout(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train.csv", toy_rows(50))
    write_rows(tmp_path / "data" / "test.csv", toy_rows(6, seed=1))
    cache = build_toy(tmp_path / "data", tmp_path, limit=10).cache
    assert {name: len(split) for name, split in cache.items()} == {"train": 10, "test": 6}
    assert sorted(decoded(cache)) != list(range(10)), "at random, not from the front"
    lone = build_toy(tmp_path / "data" / "train.csv", tmp_path, limit=10, holdout=0.2).cache
    assert {name: len(split) for name, split in lone.items()} == {"train": 8, "test": 2}
    assert set(decoded(lone)) | set(decoded(lone, "test")) == set(decoded(cache))


def test_a_split_that_is_too_large_to_keep_is_read_twice_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    kept = build_toy(path, tmp_path, holdout=0.2).cache
    monkeypatch.setattr(assembly, "KEPT_BYTES", 10)
    read_twice = build_toy(path, tmp_path, holdout=0.2, name="twice").cache
    for split in ("train", "test"):
        assert decoded(kept, split) == decoded(read_twice, split)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 0, 10, 2], ("0", "1", "2", "10")),
        (["b", "a", "B", "a b"], ("B", "a", "a b", "b")),
        ([True, False, True, True], ("false", "true")),
        ([1.0, 0.0, 2.0, 1.0], ("0", "1", "2")),
        ([-1, 1, -1, 1], ("-1", "1")),
        (["1", "x", "007", "-0"], ("-0", "007", "1", "x")),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_labels_of_any_type_become_classes_alike_in_every_format(
    tmp_path: Path, labels: list, names: tuple[str, ...], ending: str
) -> None:
    """Numbers in their order, text alphabetically; csv files, which know no types, give the same classes."""
    rows = [(f"word{number}", label) for number, label in enumerate(labels)]
    if ending == "csv" and isinstance(labels[0], bool):
        rows = [(text, str(label).lower()) for text, label in rows]
    cache = build_toy(write_rows(tmp_path / f"a.{ending}", rows), tmp_path).cache
    assert cache.manifest.task.label_names == names
    found = {row: label for row, (_, label) in decoded(cache).items()}
    text_of = {False: "false", True: "true"} if isinstance(labels[0], bool) else {}
    expected = [text_of.get(label, str(int(label) if isinstance(label, float) else label)) for label in labels]
    assert [found[row] for row in range(len(labels))] == expected


# --- what is there already


def test_the_same_build_again_is_up_to_date_and_touches_nothing(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    first = build_toy(path, tmp_path).cache
    times = {name: (first.folder / name).stat().st_mtime_ns for name in content(first.folder)}
    again = build_toy(path, tmp_path)
    assert again.up_to_date
    assert again.planned == 0
    assert {name: (first.folder / name).stat().st_mtime_ns for name in content(first.folder)} == times


def test_a_moved_or_touched_source_is_the_same_source_and_a_changed_one_is_not(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    build_toy(path, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "a.csv")
    assert build_toy(moved, tmp_path).up_to_date
    write_rows(moved, ROWS[1:])
    with pytest.raises(MismatchError, match="the content of the source's files"):
        build_toy(moved, tmp_path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_length": 9}, "max length 128 there, 9 asked for"),
        ({"limit": 5}, "limit None there, 5 asked for"),
        ({"holdout": 0.5}, "holdout 0.0 there, 0.5 asked for"),
        ({"text": "label", "label": "text"}, "text 'text' there, 'label' asked for"),
    ],
)
def test_a_different_cache_of_the_name_is_refused_with_what_differs(tmp_path: Path, changed: dict, named: str) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    before = content(build_toy(path, tmp_path).cache.folder)
    with pytest.raises(MismatchError, match=f"{named}.*--name OTHER.*--force"):
        build_toy(path, tmp_path, **changed)
    assert content(tmp_path / "caches" / "a") == before
    other = build_toy(path, tmp_path, name="other", **changed).cache
    assert other.folder.name == "other"
    assert content(tmp_path / "caches" / "a") == before
    forced = build_toy(path, tmp_path, force=True, **changed)
    assert not forced.up_to_date
    assert forced.cache.manifest.fingerprint == other.manifest.fingerprint
    assert not list((tmp_path / "caches").glob(".*"))


def test_another_tokenizer_is_a_difference(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    build_toy(path, tmp_path)
    with pytest.raises(MismatchError, match=r"tokenizer '.*' there, 'minilm' asked for; tokenizer.json '[0-9a-f]+'"):
        build_toy(path, tmp_path, tokenizer="minilm", max_length=128)


def test_an_up_to_date_cache_gets_the_plans_it_lacks(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    build_toy(path, tmp_path, epochs=2)
    more = build_toy(path, tmp_path, epochs=5)
    assert (more.up_to_date, more.planned) == (True, 3)
    tight = build_toy(path, tmp_path, strategy="tight", batch_size=4, epochs=2)
    assert (tight.up_to_date, tight.planned) == (True, 2)
    stored = tight.cache["train"].stored_plans()
    assert {spec.id: len(plan.epochs) for spec, plan in stored.items()} == {"smart-b16-s0": 5, "tight-b4-s0": 2}


def test_a_folder_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", ROWS)
    (tmp_path / "caches" / "a").mkdir(parents=True)
    (tmp_path / "caches" / "a" / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(InputError, match="exists and is not a cache"):
            build_toy(path, tmp_path, force=force)
    assert (tmp_path / "caches" / "a" / "thesis.txt").read_text() == "mine"


# --- bytes


def test_two_builds_give_the_same_bytes_but_for_the_time(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", toy_rows(700))
    options = {"name": "a", "force": True, "holdout": 0.1, "epochs": 2}
    one, two = (without_time(build_toy(path, tmp_path, **options).cache.folder) for _ in range(2))
    assert one == two
    assert any("epoch-0001" in name for name in one)


def test_runs_that_are_kept_in_files_make_the_same_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in small blocks, every run spilled to disk, several shards: the rows, ids and labels stay what they were."""
    rows = toy_rows(500)
    path = write_rows(tmp_path / "a.csv", rows)
    whole = build_toy(path, tmp_path, epochs=0).cache
    for module, size in ((readers, "BLOCK_BYTES"), (forked, "BATCH_BYTES")):
        monkeypatch.setattr(module, size, 3000)
    spilled = build_toy(path, tmp_path, epochs=0, memory_bytes=100, name="spilled").cache
    shards = {name: data for name, data in content(whole.folder).items() if name != "manifest.json"}
    assert {name: data for name, data in content(spilled.folder).items() if name != "manifest.json"} == shards
    several = build_toy(path, tmp_path, epochs=0, memory_bytes=100, shard_bytes=3000, name="several").cache
    infos = several["train"].info.shards
    assert len(infos) > 5
    assert all(info.bytes < 3000 + 1000 for info in infos)
    assert sum(info.rows for info in infos) == 500
    for one, other in zip(whole["train"], several["train"], strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert (one.label, one.source_row) == (other.label, other.source_row)
    check_rows(several, rows)


@pytest.mark.slow
def test_a_vocabulary_beyond_two_bytes_is_stored_in_four(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "big")
    more = {f"more{number}": 205 + number for number in range(70_000)}
    edit_json(folder / "tokenizer.json", lambda raw: raw["model"]["vocab"].update(more))
    path = write_rows(tmp_path / "a.csv", [("word1 more69999", "a"), ("more7", "b")])
    cache = build_toy(path, tmp_path, tokenizer=str(folder)).cache
    assert cache["train"][0].input_ids.dtype == np.uint32
    assert decoded(cache)[0][0] == [2, 6, 205 + 69_999, 3]


def test_the_manifest_says_who_tokenized_and_how_much_was_checked(tmp_path: Path) -> None:
    for rows, checked in ((700, 512), (60, 60)):
        path = write_rows(tmp_path / f"a{rows}.csv", toy_rows(rows))
        facts = build_toy(path, tmp_path, engine="nanotoken").cache.manifest.build
        assert facts == {"engine": "nanotoken", "version": "0.1.0", "rows_checked": checked}
    assert open_cache(tmp_path / "caches" / "a60").manifest.build == facts


@pytest.mark.slow
def test_a_build_from_a_local_file_imports_nothing_slow(tmp_path: Path) -> None:
    """Neither what only the Hub or a model needs, nor pandas, which some of pyarrow's conversions would import."""
    path = write_rows(tmp_path / "a.csv", ROWS)
    slow = {"torch", "transformers", "datasets", "pandas", "huggingface_hub"}
    code = (
        f"import sys; sys.argv = ['prep', 'build', {str(path)!r}, '--holdout', '0.2', '--quiet']\n"
        "from prep.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        f"found = {slow!r} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = run_python(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cache" / "a" / "manifest.json").is_file()
