"""Caches that are replaced while they are planned, verified, read: each process works on the one that it opened."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cache import CacheError, PlanSpec, StorageError, open_cache
from cache.common.folder import Folder
from cache.writing import publishing
from cache.writing.publishing import building

from ..helpers.caches import write_cache
from ..helpers.commands import GOOD, Prep, build, write
from ..helpers.hostile import read_everything

pytestmark = pytest.mark.slow


@contextmanager
def replaced_all_the_time(place: Path) -> Iterator[list[int]]:
    """Another thread builds another cache at `place`, again and again; yields how often it did."""
    stop, count = threading.Event(), [0]

    def replace() -> None:
        while not stop.is_set():
            count[0] += 1
            with building(place):
                write_cache(place, {"train": 20 + count[0] % 3}, seed=count[0], shards=2, max_length=8)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


def plan_while_replaced(place: Path, times: int) -> tuple[int, int]:
    """Plans are stored in the cache that was opened, or refused; returns how often, and the number of replacements."""
    write_cache(place, {"train": 20}, shards=2, max_length=8)
    refused = 0
    with replaced_all_the_time(place) as replaced:
        number = 0
        while number < times or replaced[0] < 4:
            number += 1
            cache = open_cache(place)
            split = cache["train"]
            expected = split.draw(PlanSpec("smart", 8, None, number), 1).rows.tolist()
            try:
                split.keep_plan(PlanSpec("smart", 8, None, number), 3)
            except StorageError as error:
                assert "another cache is there now" in str(error)
                refused += 1
            assert split.plan(PlanSpec("smart", 8, None, number), 1).rows.tolist() == expected
            assert sorted(cache.tokenizer_files()) == ["tokenizer.json", "tokenizer_config.json"]
            open_cache(place)  # a plan of another cache in it would be refused
    assert read_everything(open_cache(place, verify=True))
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    return refused, replaced[0]


def verify_while_replaced(place: Path, times: int) -> int:
    """Opening with `verify` finds a sound cache each time; verifying one that is replaced says so."""
    write_cache(place, {"train": 20}, shards=2, max_length=8)
    with replaced_all_the_time(place) as replaced:
        done = 0
        while done < times or replaced[0] < 4:
            done += 1
            cache = open_cache(place, verify=True)
            try:
                list(cache.verify())
            except StorageError as error:
                assert "open it again to verify it" in str(error)
    return replaced[0]


def test_no_plan_is_stored_in_another_cache(tmp_path: Path) -> None:
    assert plan_while_replaced(tmp_path / "toy", 20)[1] >= 4


def test_a_replaced_cache_is_never_called_damaged(tmp_path: Path) -> None:
    assert verify_while_replaced(tmp_path / "toy", 20) >= 4


@pytest.mark.faults
def test_a_thousand_plans_while_the_cache_is_replaced(tmp_path: Path) -> None:
    refused, replaced = plan_while_replaced(tmp_path / "toy", 1000)
    print(f"1,000 plans while the cache was replaced {replaced:,} times: {refused:,} refused")


@pytest.mark.faults
def test_two_thousand_verifications_while_the_cache_is_replaced(tmp_path: Path) -> None:
    print(f"2,000 verifications, 2,000 openings: replaced {verify_while_replaced(tmp_path / 'toy', 2000):,} times")


@pytest.mark.parametrize("exchange", [True, False])
def test_a_plan_under_way_when_its_cache_is_replaced_is_refused_and_the_new_cache_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(publishing, "exchange", lambda *_: False)
    place = tmp_path / "toy"
    split = write_cache(place, {"train": 20}, seed=1)["train"]

    def replace(epoch: int) -> None:
        if epoch == 1:
            write_cache(place, {"train": 30}, seed=2)

    with pytest.raises(StorageError, match="another cache is there now"):
        split.keep_plan(PlanSpec("smart", 8), 3, replace)
    new = open_cache(place, verify=True)
    assert new["train"].stored_plans() == {}
    assert new.unlisted() == []
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_verifying_a_cache_that_is_replaced_meanwhile_says_so(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy", {"train": 20}, seed=1, shards=3)
    files = cache.verify()
    next(files)
    write_cache(tmp_path / "toy", {"train": 20}, seed=2, shards=3)
    with pytest.raises(StorageError, match="another cache is there now, or none; open it again to verify it"):
        list(files)


def test_the_tokenizer_is_that_of_the_cache_that_was_opened(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy", {"train": 20}, seed=1)
    before = cache.tokenizer_files()
    write_cache(tmp_path / "toy", {"train": 20}, seed=2)
    (tmp_path / "toy" / "tokenizer" / "tokenizer.json").write_bytes(b"another")
    assert cache.tokenizer_files() == cache["train"].tokenizer_files() == before


# --- what failed writers leave


def test_a_full_disk_leaves_no_epochs_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = write_cache(tmp_path / "toy", {"train": 20})["train"]
    split.keep_plan(PlanSpec("tight", 8), 1)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    write_file = Folder.write

    def full(self: Folder, name: str, data: bytes) -> None:
        if name == "plan.json":
            raise OSError(28, "No space left on device")
        write_file(self, name, data)

    monkeypatch.setattr(Folder, "write", full)
    for spec in (PlanSpec("smart", 8), PlanSpec("tight", 8)):
        with pytest.raises(StorageError, match="No space left"):
            split.keep_plan(spec, 3)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.name != "smart-b8-s0") == before


def test_the_next_plan_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    split = write_cache(tmp_path / "toy", {"train": 20})["train"]
    split.keep_plan(PlanSpec("tight", 8), 1)
    plans = tmp_path / "toy" / "train" / "plans"
    for name in ("smart-b8-s7/epoch-0000.safetensors", "tight-b8-s0/epoch-0001.safetensors", "tight-b8-s0/.a.01234567"):
        (plans / name).parent.mkdir(exist_ok=True)
        (plans / name).touch()
    (plans / "notes").mkdir()
    split.keep_plan(PlanSpec("tight", 8), 2)
    assert sorted(path.name for path in plans.rglob("*")) == [
        "epoch-0000.safetensors",
        "epoch-0001.safetensors",
        "notes",
        "plan.json",
        "tight-b8-s0",
    ]


def test_a_build_that_finds_the_cache_up_to_date_removes_what_a_killed_one_left(prep: Prep) -> None:
    source = write("a.csv", GOOD)
    assert build(prep, source).code == 0
    Path("cache/.a.building-0123abcd/train").mkdir(parents=True)
    Path("cache/.b.building-0123abcd").mkdir()
    assert build(prep, source).code == 0
    assert sorted(path.name for path in Path("cache").iterdir()) == [".b.building-0123abcd", "a"]


# --- modes


def modes(folder: Path) -> set[tuple[bool, int]]:
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.rglob("*")]}


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_and_folders_have_the_modes_of_the_umask_after_every_command(prep: Prep, umask: int) -> None:
    source = write("a.csv", GOOD)
    expected, before = {(True, 0o777 & ~umask), (False, 0o666 & ~umask)}, os.umask(umask)
    try:
        for options in ([], ["--force"]):
            assert build(prep, source, *options).code == 0
            assert prep("plan", "cache/a", "--strategy", "tight", "--batch-size", "4").code == 0
            assert modes(Path("cache")) == expected
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_another_user_reads_a_cache_where_the_umask_lets_them_and_writes_nothing(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for name in ("toy", "closed"):
            write_cache(tmp_path / name, {"train": 20})["train"].keep_plan(PlanSpec("smart", 8), 1)
    finally:
        os.umask(before)
    (tmp_path / "closed" / "train" / "plans").chmod(0o700)
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(tmp_path)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            code = as_another_user(readable=umask == 0o022)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def as_another_user(*, readable: bool) -> int:
    if not readable:
        with pytest.raises(StorageError, match="Permission denied"):
            open_cache("toy")
        return 0
    with pytest.raises(StorageError, match=r"closed.train.plans: Permission denied"):
        open_cache("closed")
    split = open_cache("toy", verify=True)["train"]
    assert len(list(split.batches(0))) == 3
    with pytest.raises(StorageError, match="Permission denied"):
        split.keep_plan(PlanSpec("tight", 8), 1)
    assert not split.try_keep_plan(PlanSpec("tight", 8), 1)
    try:
        split.keep_plan(PlanSpec("smart", 8), 1)
    except CacheError:
        return 1
    return 0
