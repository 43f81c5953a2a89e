"""Run folders that were damaged, or that a stranger made: resuming ends with a typed error or finishes the run, and
touches nothing outside. What finishes without a warning is bit-identical to the sound run."""

import errno
import json
import os
import random
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import train.run
from cache import CorruptCacheError, LengthwiseError, StorageError, open_cache
from cache.common.folder import Folder
from cache.format.checksummed_json import seal
from cache.format.files import FileInfo
from train.run import resume_run
from train.run_folder.creating import new_run
from train.run_folder.export import exported_tokenizer

from ..helpers.caches import file_info, write_cache
from ..helpers.children import ended, spawn
from ..helpers.files import flip, read_jsonl, write_jsonl
from ..helpers.fuzzing import mutated_json
from ..helpers.hostile import resealed
from ..helpers.models import write_model
from ..helpers.runs import begin, quiet, resume

pytestmark = pytest.mark.slow

STEP = "checkpoints/step-000004"
FILES = [
    "settings.json",
    "metrics.jsonl",
    "timing.jsonl",
    *(f"{STEP}/{name}.safetensors" for name in ("model", "optimizer", "random")),
    f"{STEP}/config.json",
    f"{STEP}/state.json",
]
FOLDERS = ["checkpoints", STEP]
LATER = ["summary.json", "model"]
"""What an unfinished run does not have yet."""

FLAGS: dict[str, Any] = {"epochs": 1, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "lr": 1e-3, "device": "cpu"}
COMMAND = ["run", "--cache", "toy", "--model", "base", *(f"--{name.replace('_', '-')}={FLAGS[name]}" for name in FLAGS)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, `whole`, and the same run before its model was written, `sound`."""
    folder = tmp_path_factory.mktemp("trained")
    write_cache(folder / "toy", {"train": 40, "test": 8})
    write_model(folder / "base")
    train_in(folder, "whole")
    shutil.copytree(folder / "whole", folder / "sound")
    shutil.rmtree(folder / "sound" / "model")
    (folder / "sound" / "summary.json").unlink()
    return folder


def train_in(folder: Path, out: str, **flags: Any) -> Path:
    return begin(folder / "toy", folder / "base", folder / out, **{**FLAGS, **flags})


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained / "sound", tmp_path / "parent" / "run"))


def fresh(trained: Path, run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(trained / "sound", run)


def resumed(run: Path) -> list[str] | None:
    """The warnings of resuming a run; None where it was refused with a typed error."""
    warnings: list[str] = []
    previous = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)  # a hang ends the tests
    try:
        resume_run(run, {}, quiet, warnings.append, quiet=True)
    except LengthwiseError as error:
        assert 0 < len(str(error)) < 2000
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert (run / "summary.json").is_file()
    return warnings


def result(run: Path) -> dict[str, bytes]:
    names = ["metrics.jsonl", "model/model.safetensors", "model/tokenizer.json", "model/config.json"]
    return {name: (run / name).read_bytes() for name in names}


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every name below a folder, with its mode and content; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, path.read_bytes() if stat.S_ISREG(status.st_mode) else b"")
    return found


# --- links, pipes, folders and files where something else belongs


def link_to(target: Path) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def put(path: Path, make: Callable[[Path], None]) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS, *LATER])
@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.faults)])
def test_nothing_outside_is_touched_whatever_lies_in_a_run_folder(
    trained: Path, run: Path, name: str, every: int
) -> None:
    """In short, each name with half of the kinds of things, and the next name with the other half."""
    outside = run.parent / "outside"
    shutil.copytree(trained / "sound", outside)
    original = outside / name if (outside / name).exists() else outside / "settings.json"
    kinds = [
        link_to(original),  # of the very content that belongs there
        link_to(outside / "metrics.jsonl"),
        link_to(outside),
        link_to(outside / "new"),
        os.mkfifo,
        os.mkdir,
        Path.touch,
    ]
    before = content_of(outside)
    for make in kinds[[*FILES, *FOLDERS, *LATER].index(name) % every :: every]:
        fresh(trained, run)
        put(run / name, make)
        warnings = resumed(run)
        if warnings == []:
            assert result(run) == result(trained / "whole")
        assert content_of(outside) == before
        assert sorted(path.name for path in run.parent.iterdir()) == ["outside", "run"]


def test_curves_are_not_written_through_a_link(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "outside").mkdir()
    (run / "tensorboard").symlink_to(tmp_path / "outside")
    warnings: list[str] = []
    resume_run(run, {"tensorboard": "auto"}, quiet, warnings.append, quiet=True)
    assert "is a link" in warnings[0]
    assert list((tmp_path / "outside").iterdir()) == []


# --- flipped bits


def flip_bits(trained: Path, run: Path, times: int) -> tuple[int, int]:
    """Flip a random bit of a random file; how often resuming was refused, and how often it finished."""
    rest, refused, finished = random.Random(times), 0, 0
    for _ in range(times):
        fresh(trained, run)
        path = run / rest.choice(FILES)
        flip(path, rest.randrange(path.stat().st_size), rest.randrange(8))
        warnings = resumed(run)
        if warnings is None:
            refused += 1
        else:
            finished += 1
            same = {**result(run), "metrics.jsonl": b""} == {**result(trained / "whole"), "metrics.jsonl": b""}
            assert same
            assert warnings, path  # every file is covered by a checksum
    return refused, finished


def test_a_flipped_bit_is_reported_and_changes_no_weight(trained: Path, run: Path) -> None:
    refused, finished = flip_bits(trained, run, 12)
    assert refused
    assert finished


@pytest.mark.faults
def test_two_thousand_flipped_bits(trained: Path, run: Path) -> None:
    refused, finished = flip_bits(trained, run, 2000)
    print(f"2,000 bits of run folders flipped: {refused:,} refused, {finished:,} finished with a warning")


def test_records_that_cannot_all_be_opened_are_closed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    append = Folder.append

    def failing(folder: Folder, name: str) -> Any:
        if opened:
            raise OSError(errno.EIO, "Input/output error")
        opened.append(append(folder, name))
        return opened[0]

    monkeypatch.setattr(Folder, "append", failing)
    with pytest.raises(StorageError, match="timing"):
        resume(run)
    assert opened[0].closed


# --- files with checksums that fit


def relist(step: Path) -> None:
    """Write sizes and checksums of a checkpoint's files anew into its state.json."""

    def change(content: dict[str, Any]) -> None:
        content["files"] = [asdict(file_info(step / entry["file"])) for entry in content["files"]]

    resealed(step / "state.json", change)


def mutate_records(path: Path, rest: random.Random) -> None:
    """Change a record, and the checksum that the checkpoint holds of its file."""
    write_jsonl(path, mutated_json(rest, read_jsonl(path)))

    def change(content: dict[str, Any]) -> None:
        others = [entry for entry in content["records"] if entry["file"] != path.name]
        content["records"] = [*others, asdict(file_info(path))]

    resealed(path.parent / STEP / "state.json", change)


def mutate_a_file(run: Path, rest: random.Random) -> None:
    name = rest.choice(["settings.json", f"{STEP}/state.json", f"{STEP}/config.json", "metrics.jsonl", "timing.jsonl"])
    if name.endswith(".jsonl"):
        mutate_records(run / name, rest)
    elif name.endswith("config.json"):
        (run / name).write_text(json.dumps(mutated_json(rest, json.loads((run / name).read_bytes()))))
        relist(run / STEP)
    else:
        content = json.loads((run / name).read_bytes())
        del content["checksum"]
        (run / name).write_bytes(seal(mutated_json(rest, content)))


def mutate_sealed(trained: Path, run: Path, times: int) -> int:
    rest, refused = random.Random(times), 0
    before = content_of(trained / "toy") | content_of(trained / "base")
    for _ in range(times):
        fresh(trained, run)
        with suppress(ValueError, TypeError):  # what cannot be sealed
            mutate_a_file(run, rest)
        refused += resumed(run) is None
        assert [path.name for path in run.parent.iterdir()] == ["run"]
    assert content_of(trained / "toy") | content_of(trained / "base") == before
    return refused


def test_changed_files_with_checksums_that_fit_give_typed_errors(trained: Path, run: Path) -> None:
    assert mutate_sealed(trained, run, 12) > 2


@pytest.mark.faults
def test_two_thousand_changed_files_with_checksums_that_fit(trained: Path, run: Path) -> None:
    refused = mutate_sealed(trained, run, 2000)
    print(f"2,000 run folders mutated and sealed: {refused:,} refused")
    assert refused > 200


# --- what kills leave


def die_before_settings() -> None:
    rename = Folder.rename

    def dying(folder: Folder, old: str, new: str) -> None:
        if new == "settings.json":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(folder, old, new)

    Folder.rename = dying  # type: ignore[method-assign]


def test_a_run_killed_before_its_settings_are_there_leaves_a_folder_that_the_next_one_takes(trained: Path) -> None:
    for out in (["--out", "early"], []):
        command = [*COMMAND, *out]
        assert ended(spawn(trained, *command, prepare=die_before_settings)) == -signal.SIGKILL
        folder = trained / (out[1] if out else "runs/toy-1")
        assert [path.name[:15] for path in folder.iterdir()] == [".settings.json."]
        assert ended(spawn(trained, *command)) == 0, (trained / "err.txt").read_text()
        assert (folder / "summary.json").exists()
        assert not list(folder.rglob(".*"))
    assert [path.name for path in (trained / "runs").iterdir()] == ["toy-1"]


def test_what_a_killed_process_left_is_removed_on_resume(trained: Path, run: Path) -> None:
    for name in (".summary.json.0123abcd", ".model.0123abcd/x", "checkpoints/.step-000009.0123abcd/x"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    assert resumed(run) == []
    assert not list(run.rglob(".*"))


def test_two_runs_that_start_at_once_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with new_run(None, "toy") as one, new_run(None, "toy") as two:
        assert (one.path.name, two.path.name) == ("toy-1", "toy-2")


# --- the cache that a run is trained on


def test_files_that_the_manifest_does_not_list_do_not_reach_the_model(trained: Path, tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy", {"train": 40, "test": 8})
    for name in ("model.safetensors", "config.json", "code.py"):
        (cache.tokenizer_folder / name).write_bytes((trained / "toy" / "manifest.json").read_bytes())
    (cache.tokenizer_folder / "folder").mkdir()
    (cache.tokenizer_folder / "link").symlink_to(trained / "toy" / "manifest.json")
    shutil.copytree(trained / "base", tmp_path / "base")
    assert result(train_in(tmp_path, "run")) == result(trained / "whole")
    assert {path.name for path in (tmp_path / "run" / "model").iterdir()} == {
        path.name for path in (trained / "whole" / "model").iterdir()
    }


def test_a_cache_that_is_replaced_while_it_is_trained_on_changes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cache(tmp_path / "toy", {"train": 40, "test": 8})
    shutil.copytree(trained / "base", tmp_path / "base")
    update = train.run.update

    def replacing(setup: Any, state: Any) -> None:
        update(setup, state)
        if state.step == 1:
            shutil.rmtree(tmp_path / "toy")
            other = write_cache(tmp_path / "toy", {"train": 9, "test": 9}, seed=1)
            (other.tokenizer_folder / "tokenizer.json").write_text("{}")

    monkeypatch.setattr(train.run, "update", replacing)
    assert result(train_in(tmp_path, "run")) == result(trained / "whole")


# --- modes and output


def test_files_and_folders_have_the_modes_of_the_umask(trained: Path) -> None:
    assert ended(spawn(trained, *COMMAND, "--out", "umask", prepare=partial(os.umask, 0o027))) == 0
    for path in [trained / "umask", *(trained / "umask").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


def without_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


def without_space() -> None:
    for number in (1, 2):
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)


def without_streams() -> None:
    for number in (1, 2):
        os.close(number)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]  # as Python itself sets them where they are closed


@pytest.mark.parametrize("prepare", [without_reader, without_space, without_streams])
def test_a_run_whose_output_goes_nowhere_finishes(trained: Path, prepare: Callable[[], None]) -> None:
    out = prepare.__name__
    assert ended(spawn(trained, *COMMAND, "--out", out, prepare=prepare)) == 0
    assert result(trained / out) == result(trained / "whole")


def test_a_model_lists_its_files_with_their_checksums(trained: Path) -> None:
    model = trained / "whole" / "model"
    listed = [FileInfo(**entry) for entry in json.loads((model / "lengthwise.json").read_text())["files"]]
    expected = {path.name for path in model.iterdir()} - {"lengthwise.json", "README.md"}
    assert {info.file for info in listed} == expected
    assert all(file_info(model / info.file) == info for info in listed)


def test_a_tokenizer_with_a_file_of_weights_is_refused_before_training(trained: Path, tmp_path: Path) -> None:
    cache = open_cache(trained / "toy")
    hostile = type("Cache", (), {"tokenizer_files": lambda self: {"model.safetensors": b""}, "folder": cache.folder})()
    with pytest.raises(CorruptCacheError, match=r"'model\.safetensors', which no tokenizer has"):
        exported_tokenizer(hostile, typed=True)
