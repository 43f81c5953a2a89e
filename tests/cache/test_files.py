"""Files of a cache that are missing, of another size or kind, or links out of it: refused at opening."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import LengthwiseError, NotACacheError, StorageError, open_cache

from ..helpers.hostile import REMEDY, read_everything, refused, remedy_for, sound_cache
from ..helpers.python import run_python


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return sound_cache(tmp_path / "toy")


def test_a_folder_without_a_manifest_is_no_cache(tmp_path: Path) -> None:
    refused(tmp_path, "without a manifest", "prep list", "prep build", kind=NotACacheError)
    refused(tmp_path / "none", "does not exist", kind=NotACacheError)
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is not a folder", kind=NotACacheError)


def test_files_of_others_in_a_cache_are_never_read_and_named(place: Path) -> None:
    assert open_cache(place).unlisted() == []
    (place / ".DS_Store").touch()
    (place / "notes").mkdir()
    (place / "notes" / "more").touch()
    (place / "train" / "plans" / "notes.txt").touch()
    (place / "train" / "plans" / ".smart-b8-s0.lock").touch()
    (place / "train" / "plans" / "smart-b8-s1").mkdir()
    (place / "tokenizer" / "config.json").symlink_to("/etc/passwd")
    os.mkfifo(place / "tokenizer" / "model.safetensors")
    (place / "train" / "shard-00000.safetensors").chmod(0o666)
    (place / "train" / "shard-00001.safetensors").chmod(0o4755)
    assert read_everything(open_cache(place, verify=True))
    assert open_cache(place).unlisted() == [
        (".DS_Store", "file"),
        ("notes", "folder"),
        ("tokenizer/config.json", "link"),
        ("tokenizer/model.safetensors", "pipe"),
        ("train/plans/.smart-b8-s0.lock", "file"),
        ("train/plans/notes.txt", "file"),
        ("train/plans/smart-b8-s1", "folder"),
        ("train/shard-00000.safetensors", "anybody may change it"),
        ("train/shard-00001.safetensors", "has the mode 4755"),
    ]
    assert sorted(open_cache(place).tokenizer_files()) == ["tokenizer.json", "tokenizer_config.json"]


LISTED = [
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "train/shard-00001.safetensors",
    "test/shard-00000.safetensors",
    "train/plans/smart-b8-s0/epoch-0001.safetensors",
]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "expected"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "expected"),
        (lambda path: path.write_bytes(b""), "expected"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "is a link"),
        (lambda path: path.symlink_to(path.rename(path.parents[1] / "moved")), "is a link"),
        (lambda path: path.symlink_to(path.rename(path.with_name("moved")).name), "is a link"),
    ],
    ids=["missing", "cut", "longer", "empty", "folder", "pipe", "device", "link", "link within"],
)
def test_a_file_that_is_not_as_listed_is_refused_at_opening(
    place: Path, name: str, damage: Callable[[Path], Any], says: str
) -> None:
    damage(place / name)
    refused(place, str(place / name), says, remedy_for(place / name))


@pytest.mark.parametrize("name", ["train", "tokenizer", "train/plans", "train/plans/smart-b8-s0"])
def test_a_folder_that_is_a_link_out_of_the_cache_is_refused(place: Path, name: str) -> None:
    (place / name).rename(place.parent / "moved")
    (place / name).symlink_to(place.parent / "moved")
    refused(place, "is a link, which is not followed", REMEDY)


def test_a_cache_may_itself_be_reached_through_a_link(place: Path) -> None:
    (place.parent / "link").symlink_to(place)
    assert read_everything(open_cache(place.parent / "link", verify=True))


@pytest.mark.parametrize("damage", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_manifest_that_is_no_file_is_refused(place: Path, damage: Callable[[Path], None]) -> None:
    (place / "manifest.json").unlink()
    damage(place / "manifest.json")
    refused(place, "manifest.json", kind=LengthwiseError)


def test_a_file_that_may_not_be_read_is_a_storage_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("shard-00001.safetensors"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    refused(place, "shard-00001.safetensors", "Permission denied", kind=StorageError)


@pytest.mark.slow
def test_out_of_file_handles_is_a_storage_error(place: Path) -> None:
    code = (
        "import resource, sys; from cache import open_cache, StorageError\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))\n"
        "try: open_cache(sys.argv[1])\n"
        "except StorageError as error: print(error); sys.exit(3)"
    )
    run = run_python(code, place)
    assert (run.returncode, "Too many open files; allow more: ulimit -n" in run.stdout) == (3, True), run
