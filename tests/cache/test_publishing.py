"""Builders of one cache take turns; a cache is replaced without a gap; where the system refuses, the old one stays."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cache import InputError, NotACacheError, StorageError, open_cache
from cache.common.folder import Folder
from cache.writing import publishing
from cache.writing.publishing import building, staging

from ..helpers import ROOT
from ..helpers.caches import write_cache
from ..helpers.files import content, names_in
from ..helpers.python import run_python

# --- builds that meet


def test_the_second_builder_is_told_who_builds_and_begins_when_the_first_is_done(tmp_path: Path) -> None:
    place, told, order = tmp_path / "toy", threading.Event(), []
    messages: list[str] = []

    def second() -> None:
        with building(place, lambda message: (messages.append(message), told.set())):
            order.append("second")

    thread = threading.Thread(target=second)
    with building(place):
        thread.start()
        assert told.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
    assert messages == [f"{place} is being built by process {os.getpid()}; waiting for it"]
    assert names_in(tmp_path) == []


def refuse_to_wait(message: str) -> None:
    raise AssertionError(message)


def test_a_lock_file_left_by_a_dead_process_does_not_block(tmp_path: Path) -> None:
    (tmp_path / ".toy.lock").write_text("1")
    with building(tmp_path / "toy", refuse_to_wait):
        pass
    assert names_in(tmp_path) == []


@pytest.mark.slow
def test_a_worker_that_outlives_a_killed_builder_does_not_hold_its_lock(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from cache.writing.publishing import building
with building(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""
    place = tmp_path / "toy"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        try:
            parent.kill()
            parent.wait()
            with building(place, refuse_to_wait):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


def test_another_caches_builds_are_left_alone(tmp_path: Path) -> None:
    """Even where one cache's name begins like the files of another one's build."""
    others = [
        ".toys.building-0123abcd",
        ".toy.building-x.building-0123abcd",
        ".toy.building-0123abcd.json",
        ".toy.other",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".toy.building-0123abcd").mkdir()
    with building(tmp_path / "toy"):
        assert names_in(tmp_path) == sorted([*others, ".toy.lock"])


def test_where_the_file_system_has_no_locks_builds_work_but_touch_nothing_that_may_be_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".toy.building-0123abcd").mkdir()
    with building(tmp_path / "toy"):
        write_cache(tmp_path / "toy", {"train": 3})
    assert ".toy.building-0123abcd" in names_in(tmp_path)
    assert len(open_cache(tmp_path / "toy")["train"]) == 3


# --- replacing


@pytest.fixture(params=["exchange", "two renames"])
def replacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace folders as the system can, and as where it cannot exchange two."""
    if request.param == "two renames":
        monkeypatch.setattr(publishing, "exchange", lambda *_: False)


@pytest.mark.slow
@pytest.mark.usefixtures("replacing")
def test_a_cache_can_be_opened_at_every_moment_while_it_is_replaced(tmp_path: Path) -> None:
    place, stop, failed = tmp_path / "toy", threading.Event(), []
    write_cache(place, {"train": 5}, seed=1)

    def read() -> None:
        while not stop.is_set():
            try:
                rows = len(open_cache(place)["train"])
                assert rows in (5, 9)
            except Exception as error:  # noqa: BLE001
                failed.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(30):
        with building(place):
            write_cache(place, {"train": (5, 9)[number % 2]}, seed=number)
    stop.set()
    thread.join()
    assert failed == []


@pytest.mark.usefixtures("replacing")
def test_whoever_has_the_old_cache_open_reads_on_from_it(tmp_path: Path) -> None:
    """Rows, labels, batches and plans, those included that were not touched before the replacement."""
    place, twin = tmp_path / "toy", tmp_path / "twin"
    for path in (place, twin):
        write_cache(path, {"train": 30, "test": 5}, seed=1, shards=3)
    old, same = open_cache(place)["train"], open_cache(twin)["train"]
    old.keep_plan(old.default_spec(), 1)
    epoch = iter(old.batches(0))
    batches = [next(epoch)]
    write_cache(place, {"train": 30, "test": 5}, seed=2, shards=3)
    batches += epoch
    for number in (0, 1):
        expected = list(same.batches(number))
        assert [b.input_ids.tolist() for b in batches] == [b.input_ids.tolist() for b in expected]
        assert [b.labels.tolist() for b in batches] == [b.labels.tolist() for b in expected]
        batches = list(old.batches(1))
    assert [row.input_ids.tolist() for row in old] == [row.input_ids.tolist() for row in same]
    assert open_cache(place)["train"].labels.tolist() != same.labels.tolist()


def test_what_is_no_cache_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    for name in ("file", "folder"):
        with pytest.raises(InputError, match="exists and is not a cache"):
            write_cache(tmp_path / name, {"train": 3})
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "thesis.tex").read_text() == "mine"
    assert names_in(tmp_path) == ["file", "folder"]


@pytest.mark.usefixtures("replacing")
def test_an_empty_folder_is_replaced_and_of_a_link_only_the_link(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_cache(tmp_path / "empty", {"train": 3})
    write_cache(tmp_path / "real", {"train": 4})
    (tmp_path / "link").symlink_to("real")
    write_cache(tmp_path / "link", {"train": 5})
    assert [len(open_cache(tmp_path / name)["train"]) for name in ("empty", "real", "link")] == [3, 4, 5]
    assert names_in(tmp_path) == ["empty", "link", "real"]


def test_where_the_new_folder_cannot_be_renamed_the_old_cache_is_put_back(tmp_path: Path) -> None:
    write_cache(tmp_path / "toy", {"train": 3})
    before = content(tmp_path / "toy")
    with pytest.raises(FileNotFoundError):
        publishing._replace(Folder.open(tmp_path), "missing", "toy")
    assert content(tmp_path / "toy") == before
    assert names_in(tmp_path) == ["toy"]


# --- killed between the two renames


def half_replaced(place: Path) -> None:
    write_cache(place, {"train": 3})
    aside = place.parent / publishing._beside(place.name, "replaced")
    aside.mkdir()
    place.rename(aside / place.name)


def test_opening_puts_back_a_cache_whose_replacement_was_killed_half_way(tmp_path: Path) -> None:
    half_replaced(tmp_path / "toy")
    assert len(open_cache(tmp_path / "toy", verify=True)["train"]) == 3
    with building(tmp_path / "toy"):
        pass
    assert names_in(tmp_path) == ["toy"]


def test_the_next_build_puts_it_back_too(tmp_path: Path) -> None:
    half_replaced(tmp_path / "toy")
    with building(tmp_path / "toy"):
        assert len(open_cache(tmp_path / "toy")["train"]) == 3
    assert names_in(tmp_path) == ["toy"]


@pytest.mark.slow
def test_opening_waits_a_moment_for_a_living_process_between_its_renames(tmp_path: Path) -> None:
    place = tmp_path / "toy"
    with building(place):
        half_replaced(place)
        assert not publishing.recover(place, patience_s=0.03)
        with pytest.raises(NotACacheError):
            open_cache(place)
    assert publishing.recover(place)


def test_where_it_cannot_be_put_back_there_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_replaced(tmp_path / "toy")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(publishing, "locked", refuse)
    with pytest.raises(NotACacheError, match="does not exist"):
        open_cache(tmp_path / "toy")


# --- the system refuses

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from cache import StorageError
from cache.writing.publishing import building, publish, staging
from cache.writing.writer import ShardColumns, write_shard
place, limit, value = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
resource.setrlimit(getattr(resource, limit), (value, value))
try:
    with building(place), staging(place) as folder:
        rows = np.arange(4000)
        columns = ShardColumns(np.zeros(400_000, np.uint16), np.full(4000, 100), rows, rows)
        write_shard(folder, "train", 0, columns)
        publish(folder, place)
except StorageError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("RLIMIT_FSIZE", 8192, "File too large"), ("RLIMIT_NOFILE", 4, "Too many open files")],
)
def test_beyond_a_limit_of_the_process_the_old_cache_stays_and_nothing_else(
    tmp_path: Path, limit: str, value: int, message: str
) -> None:
    """What a full disk does, tests of `prep build` show."""
    write_cache(tmp_path / "toy", {"train": 3}, seed=1)
    before = content(tmp_path / "toy")
    run = run_python(LIMITED, tmp_path / "toy", limit, value)
    assert (run.returncode, message in run.stdout) == (3, True), run
    assert content(tmp_path / "toy") == before
    assert names_in(tmp_path) == ["toy"]


def test_an_unwritable_place_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for attempt in (staging, building):
        with pytest.raises(StorageError, match="cannot write"), attempt(tmp_path / "file" / "toy"):
            pass
