"""Builds that are killed, that meet, that replace: there is the old cache, the new one, or none, and never debris."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import InputError, NotACacheError, StorageError, open_cache, publishing, storage
from cache.writer import building, staging

from .builders import ROOT, Builder
from .toys import write_cache

OLD, NEW = 1, 2


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    running = Builder()
    yield running
    running.close()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, builder: Builder) -> dict[int, dict[str, bytes]]:
    """The files of an uninterrupted build, by seed."""
    found = {}
    for seed in (OLD, NEW):
        place = tmp_path_factory.mktemp("reference") / "toy"
        assert builder.run(place, seed)["exit"] == 0
        found[seed] = files_of(place)
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def found_at(place: Path, reference: dict[int, dict[str, bytes]]) -> int | None:
    """Which complete cache can be opened at `place`: its seed, None for none. Anything else fails the test."""
    try:
        open_cache(place, verify=True)
    except NotACacheError:
        assert not place.exists()
        return None
    [seed] = [seed for seed, files in reference.items() if files == files_of(place)]
    return seed


def killed_then_built_again(
    builder: Builder, place: Path, reference: dict[int, dict[str, bytes]], before: int | None, ended: dict
) -> int | None:
    assert ended["exit"] in (0, -signal.SIGKILL)
    found = found_at(place, reference)
    assert found in ((NEW,) if ended["exit"] == 0 else (before, NEW))
    assert builder.run(place, NEW)["exit"] == 0
    assert found_at(place, reference) == NEW
    assert names_in(place.parent) == [place.name], "nothing is left beside the cache"
    return found


# --- kills at every operation


def operations_of_a_build(builder: Builder, folder: Path, before: int | None, exchange: bool) -> int:
    """How many file-system operations a build makes, found by bisection."""
    low, high = 0, 4096
    while low < high:
        middle = (low + high) // 2
        place = folder / f"count-{middle}" / "toy"
        if before is not None:
            builder.run(place, before)
        if builder.run(place, NEW, die_at=middle, exchange=exchange)["exit"] == 0:
            high = middle
        else:
            low = middle + 1
    return low


def kill_at_operations(
    builder: Builder, folder: Path, reference: dict, before: int | None, exchange: bool, every: int
) -> tuple[int, set[int | None]]:
    count = operations_of_a_build(builder, folder, before, exchange)
    seen = set()
    # Publishing is the last dozen operations: none of them is left out.
    for operation in sorted({*range(0, count, every), *range(count - 24, count + 1)}):
        place = folder / f"kill-{operation}" / "toy"
        if before is not None:
            assert builder.run(place, before)["exit"] == 0
        ended = builder.run(place, NEW, die_at=operation, exchange=exchange)
        seen.add(killed_then_built_again(builder, place, reference, before, ended))
    return count, seen


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("before", [None, OLD], ids=["new", "over an old one"])
def test_a_build_killed_at_any_operation_leaves_the_old_cache_the_new_one_or_none(
    builder: Builder, tmp_path: Path, reference: dict, before: int | None, exchange: bool
) -> None:
    count, seen = kill_at_operations(builder, tmp_path, reference, before, exchange, every=16)
    assert count > 40
    assert seen == {before, NEW}


@pytest.mark.faults
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("before", [None, OLD], ids=["new", "over an old one"])
def test_a_build_killed_at_each_operation(
    builder: Builder, tmp_path: Path, reference: dict, before: int | None, exchange: bool
) -> None:
    _, seen = kill_at_operations(builder, tmp_path, reference, before, exchange, every=1)
    assert seen == {before, NEW}


# --- kills at random moments


def kill_at_random_moments(builder: Builder, folder: Path, reference: dict, times: int) -> list[int | None]:
    moments, seen = random.Random(times), []
    begin = time.monotonic()
    builder.run(folder / "timed" / "toy", NEW)
    duration = time.monotonic() - begin
    for number in range(times):
        place, before = folder / str(number) / "toy", (None, OLD)[number % 2]
        exchange = bool(number // 2 % 2)
        if before is not None:
            builder.run(place, before)
        process = builder.start(place, NEW, exchange=exchange)
        time.sleep(moments.random() * duration * 1.2)
        os.kill(process, signal.SIGKILL)
        seen.append(killed_then_built_again(builder, place, reference, before, builder.end(process)))
    return seen


def test_builds_killed_at_random_moments_leave_nothing_half_made(
    builder: Builder, tmp_path: Path, reference: dict
) -> None:
    assert len(kill_at_random_moments(builder, tmp_path, reference, 5)) == 5


@pytest.mark.faults
def test_two_hundred_builds_killed_at_random_moments(builder: Builder, tmp_path: Path, reference: dict) -> None:
    seen = kill_at_random_moments(builder, tmp_path, reference, 200)
    assert {None, OLD, NEW} == set(seen), "kills fell before and after publishing"


# --- builds that meet


def test_of_eight_processes_that_build_one_cache_one_does_and_the_others_find_it(
    builder: Builder, tmp_path: Path, reference: dict
) -> None:
    place = tmp_path / "caches" / "toy"
    ended = [builder.end(process) for process in [builder.start(place, NEW) for _ in range(8)]]
    assert [one["exit"] for one in ended] == [0] * 8
    assert sum("building" in one["said"] for one in ended) == 1
    assert found_at(place, reference) == NEW
    assert names_in(place.parent) == ["toy"]


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


def test_a_worker_that_outlives_a_killed_builder_does_not_hold_its_lock(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from cache.writer import building
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
        raise OSError(storage.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    (tmp_path / ".toy.building-0123abcd").mkdir()
    with building(tmp_path / "toy"):
        write_cache(tmp_path / "toy", {"train": 3})
    assert ".toy.building-0123abcd" in names_in(tmp_path)
    assert len(open_cache(tmp_path / "toy")["train"]) == 3


# --- replacing


def test_a_cache_is_there_at_every_moment_while_it_is_replaced(tmp_path: Path) -> None:
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
        write_cache(place, {"train": (5, 9)[number % 2]}, seed=number)
    stop.set()
    thread.join()
    assert failed == []


@pytest.mark.parametrize("exchange", [True, False])
def test_whoever_has_the_old_cache_open_reads_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Rows, labels, batches and plans, those included that were not touched before the replacement."""
    if not exchange:
        monkeypatch.setattr(publishing, "_exchange", lambda one, two: False)
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
        with pytest.raises(InputError, match="exists and is no cache"):
            write_cache(tmp_path / name, {"train": 3})
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "thesis.tex").read_text() == "mine"
    assert names_in(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize("exchange", [True, False])
def test_an_empty_folder_is_replaced_and_of_a_link_only_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(publishing, "_exchange", lambda one, two: False)
    (tmp_path / "empty").mkdir()
    write_cache(tmp_path / "empty", {"train": 3})
    write_cache(tmp_path / "real", {"train": 4})
    (tmp_path / "link").symlink_to("real")
    write_cache(tmp_path / "link", {"train": 5})
    assert [len(open_cache(tmp_path / name)["train"]) for name in ("empty", "real", "link")] == [3, 4, 5]
    assert names_in(tmp_path) == ["empty", "link", "real"]


def test_where_the_new_folder_cannot_be_renamed_the_old_cache_is_put_back(tmp_path: Path) -> None:
    write_cache(tmp_path / "toy", {"train": 3})
    before = files_of(tmp_path / "toy")
    with pytest.raises(OSError, match="missing"):
        publishing._replace(tmp_path / "missing", tmp_path / "toy")
    assert files_of(tmp_path / "toy") == before
    assert names_in(tmp_path) == ["toy"]


def test_a_system_without_folder_exchange_is_noticed_and_another_refusal_raised(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if publishing._exchange(tmp_path / "a", tmp_path / "b"):
        assert names_in(tmp_path / "a") == ["b"]
        with pytest.raises(FileNotFoundError):
            publishing._exchange(tmp_path / "a", tmp_path / "none")


# --- killed between the two renames


def half_replaced(place: Path) -> None:
    write_cache(place, {"train": 3})
    aside = publishing._beside(place, "replaced")
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
        raise OSError(storage.errno.EROFS, "Read-only file system")

    monkeypatch.setattr(publishing, "locked", refuse)
    with pytest.raises(NotACacheError, match="does not exist"):
        open_cache(tmp_path / "toy")


# --- the system refuses

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from cache import StorageError
from cache.writer import building, publish, staging, write_shard
place, limit, value = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if value:
    resource.setrlimit(getattr(resource, limit), (value, value))
try:
    with building(place), staging(place) as folder:
        rows = np.arange(4000)
        write_shard(folder, "train", 0, np.zeros(400_000, np.uint16), np.full(4000, 100), rows, rows)
        publish(folder, place)
except StorageError as error:
    print(error)
    sys.exit(3)
"""


def limited_build(place: Path, limit: str = "", value: int = 0, before: str = "") -> subprocess.CompletedProcess:
    """Build a cache in a process that lacks something; `before` is a shell command that takes it away."""
    command = [sys.executable, "-c", LIMITED, str(place), limit, str(value)]
    if before:
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("RLIMIT_FSIZE", 8192, "File too large"), ("RLIMIT_NOFILE", 4, "Too many open files")],
)
def test_beyond_a_limit_of_the_process_the_old_cache_stays_and_nothing_else(
    tmp_path: Path, limit: str, value: int, message: str
) -> None:
    write_cache(tmp_path / "toy", {"train": 3}, seed=1)
    before = files_of(tmp_path / "toy")
    run = limited_build(tmp_path / "toy", limit, value)
    assert (run.returncode, message in run.stdout) == (3, True), run
    assert files_of(tmp_path / "toy") == before
    assert names_in(tmp_path) == ["toy"]


def test_on_a_full_disk_the_old_cache_stays_and_nothing_else(tmp_path: Path) -> None:
    small = f"mount -t tmpfs -o size=200k none {tmp_path}"
    if subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    write_cache(tmp_path / "kept" / "toy", {"train": 3}, seed=1)
    disk = tmp_path / "disk"
    disk.mkdir()
    setup = f"mount -t tmpfs -o size=200k none {disk} && cp -r {tmp_path}/kept/toy {disk}/toy"
    after = f"find {disk} -type f | sort; cd {disk} && sha256sum $(find toy -type f | sort)"
    command = f'{setup}; {sys.executable} -c "$1" {disk}/toy none 0; echo exit $?; {after}'
    run = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", command, "sh", LIMITED],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    message, code, *listed = run.stdout.splitlines()
    assert "No space left on device" in message
    assert code == "exit 3"
    kept = {
        f"{hashlib.sha256(data).hexdigest()}  toy/{name}" for name, data in files_of(tmp_path / "kept" / "toy").items()
    }
    assert {line for line in listed if "  toy/" in line} == kept
    assert len(listed) == 2 * len(kept), "no other file is left"


def test_an_unwritable_place_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for attempt in (staging, building):
        with pytest.raises(StorageError, match="cannot write"), attempt(tmp_path / "file" / "toy"):
            pass
