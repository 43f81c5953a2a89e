"""The commands of `prep` other than build, and how they exit."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cache import CorruptCacheError, open_cache
from prep.inspect.samples import label_text

from ..helpers.commands import GOOD, Prep, build, write
from ..helpers.files import flip
from ..helpers.python import run_python


@pytest.mark.parametrize("command", ["info", "show", "verify", "plan"])
def test_commands_refuse_what_is_no_cache(prep: Prep, command: str) -> None:
    Path("empty").mkdir()
    for folder, said in (("none", "none does not exist"), ("empty", "empty is a folder without a manifest")):
        done = prep(command, folder)
        assert done.code == 2
        assert done.err.startswith(f"error: {said}, so it is not a cache; `prep list`")


def test_commands_tell_what_a_cache_holds(prep: Prep) -> None:
    build(prep, write("a.csv", GOOD))
    info = prep("info", "cache/a")
    assert info.code == 0
    assert "An epoch of 'train', 6 real tokens" in info.out
    facts = json.loads(prep("info", "cache/a", "--json").out)
    assert facts["splits"]["train"]["classes"] == {"x": 1, "y": 1}
    assert {plan["strategy"] for plan in facts["splits"]["train"]["plans"]} == {"fixed", "dynamic", "smart", "tight"}
    shown = prep("show", "cache/a", "--seed", "0", "--special-tokens").out
    assert "[CLS] word1 [SEP]" in shown
    assert prep("show", "cache/a", "--split", "dev").code == 2
    assert prep("show", "cache/a", "--rows", "-1").code == prep("show", "cache/a", "--seed", "-1").code == 2
    assert "--epochs 0 is not 1 or more" in prep("plan", "cache/a", "--epochs", "0").err
    verified = prep("verify", "cache/a")
    assert "cache/a is sound: 4 files" in verified.out
    planned = prep("plan", "cache/a", "--strategy", "tight", "--batch-size", "2", "--epochs", "2")
    assert "2 epochs of tight-b2-s0 planned" in planned.out
    assert planned.out.endswith("next: train run --cache cache/a --strategy tight --batch-size 2\n")
    reseeded = prep("plan", "cache/a", "--seed", "5", "--epochs", "1").out
    assert reseeded.endswith("next: train run --cache cache/a --strategy smart --batch-size 16 --plan-seed 5\n")
    listed = prep("list").out
    assert "imdb" in listed
    assert "cache/a" in listed


def test_a_label_is_shown_by_its_names_or_as_its_number() -> None:
    shown = [label_text(*case) for case in ((1, ("a", "b")), (0.5, ()), ([1, 0, 1], ("a", "b", "c")), ([0], ("a",)))]
    assert shown == ["b", "0.5", "a, c", "no label"]


def test_a_cache_without_the_split_train_is_not_said_to_be_trained_on(prep: Prep) -> None:
    done = build(prep, f"test={write('a.csv', GOOD)}", "--name", "a")
    assert "next: train eval MODEL --cache cache/a --split test\nno split is called train" in done.out
    assert "train run --cache" not in done.out


def test_another_plan_for_a_cache_that_is_there_is_told_how_it_is_taken(prep: Prep) -> None:
    """Its default stays the plan that it was built with."""
    build(prep, write("a.csv", GOOD))
    again = build(prep, "a.csv", "--strategy", "tight", "--batch-size", "4")
    assert again.out.endswith("next: train run --cache cache/a --strategy tight --batch-size 4\n")
    assert "was built with the plan smart-b16-s0, which stays its default; tight-b4-s0 is taken where" in again.err
    assert "warning" not in build(prep, "a.csv").err


def test_a_token_budget_below_a_row_is_refused_before_all_is_encoded_and_leaves_nothing(prep: Prep) -> None:
    budget = ("--strategy", "budget", "--max-tokens", "2")
    refused = build(prep, write("a.csv", GOOD), *budget)
    assert "--max-tokens 2 is less than a row of split 'train', 3 tokens; pass --max-tokens 128 or more" in refused.err
    build(prep, "a.csv", "--strategy", "budget", "--max-tokens", "3")
    assert prep("plan", "cache/a", *budget).code == 2
    assert prep("verify", "cache/a").out.count("\n") == 1


def test_a_cache_that_cannot_be_read_is_left_out_of_the_list(prep: Prep) -> None:
    build(prep, write("a.csv", GOOD))
    shutil.copytree("cache/a", "cache/b")
    Path("cache/b/tokenizer/tokenizer.json").unlink()
    Path("cache/b/tokenizer/tokenizer.json").symlink_to("tokenizer.json")  # to itself
    with pytest.raises(CorruptCacheError, match="is a link"):
        open_cache("cache/b")
    listed = prep("list")
    assert listed.code == 0
    assert "cache/a" in listed.out
    assert "cache/b" not in listed.out
    assert listed.err.startswith("warning: not listed: cache/b/tokenizer/tokenizer.json: is a link")


def test_a_home_is_meant_by_a_tilde_and_what_is_to_be_typed_next_is_quoted(
    prep: Prep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    built = build(prep, write("a.csv", GOOD), "--out", "~/caches")
    folder = tmp_path / "my home" / "caches" / "a"
    assert built.out.endswith(f"next: train run --cache '{folder}'\n")
    assert prep("verify", "~/caches/a", "--quiet").code == 0
    assert f"next: train run --cache '{folder}' --strategy" in prep("plan", str(folder)).out
    assert str(folder) in prep("list", "~/caches").out
    assert not Path("~").exists()


def test_a_source_that_may_not_be_read_is_refused(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    source = write("a.csv", GOOD)
    monkeypatch.setattr(Path, "is_dir", refuse)
    done = prep("build", source)
    assert (done.code, done.err) == (2, "error: cannot read a.csv: Permission denied\n")


def test_a_flipped_byte_is_found_by_verify(prep: Prep) -> None:
    build(prep, write("a.csv", GOOD))
    shard = Path("cache/a/train/shard-00000.safetensors")
    flip(shard, -1)
    done = prep("verify", "cache/a")
    assert done.code == 1
    assert "shard-00000.safetensors" in done.err
    flip(shard, -1)
    epoch = Path("cache/a/train/plans/smart-b16-s0/epoch-0000.safetensors")
    epoch.write_bytes(epoch.read_bytes()[:-1] + b"\x7f")
    assert prep("verify", "cache/a").err.endswith(
        f"checksum; the plan is drawn again once its folder is removed: rm -r {epoch.parent}\n"
    )


@pytest.mark.parametrize(
    "arguments", [("bild",), ("build",), ("build", "a.csv", "--strategy", "best"), ("plan", "--seed", "x")]
)
def test_wrong_usage_exits_with_2(prep: Prep, arguments: tuple[str, ...]) -> None:
    done = prep(*arguments)
    assert done.code == 2
    assert done.err.startswith("Usage: ")


def test_help_and_version_exit_with_0(prep: Prep) -> None:
    assert "Example" in prep("--help").out
    assert prep("--version").out.startswith("prep, version ")
    assert prep("build", "--help").code == 0


def test_a_defect_is_not_hidden(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*_: Any) -> Any:
        raise ZeroDivisionError

    write("a.csv", GOOD)
    monkeypatch.setattr("prep.rows.encoding.code_batch", defect)
    with pytest.raises(ZeroDivisionError):
        build(prep, "a.csv")
    assert not list(Path("cache").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prep", "train"])
def test_output_whose_reader_has_gone_exits_141_without_a_word(command: str) -> None:
    """As shells report a process that SIGPIPE ended, for example in `prep list | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    code = f"import sys; sys.argv = ['{command}', '--help']; from {command}.cli import main; main()"
    done = run_python(code, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
