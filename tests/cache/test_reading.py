"""Caches in use: changed under a reader, read-only, moved, planned by several at once."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import Cache, CorruptCacheError, PlanSpec, StorageError, open_cache
from cache.common.folder import Folder
from cache.format.plan_file import PlanOwner, StoredPlan
from cache.writing.plans import store_plan

from ..helpers import ROOT
from ..helpers.caches import write_cache
from ..helpers.children import call, ended

SPEC = PlanSpec("tight", 4, None, 5)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return write_cache(tmp_path / "toy", {"train": 40}, shards=2)


def all_ids(cache: Cache, epoch: int = 0, spec: PlanSpec | None = None) -> list[Any]:
    return [batch.input_ids.tolist() for batch in cache["train"].batches(epoch, spec)]


# --- changed under a reader


def read_cut(place: Path, checked: bool) -> None:
    """Read a split of which a shard is cut meanwhile, by its batches or past all checks; of a process of its own."""
    split = open_cache(place)["train"]
    list(split)
    os.truncate(split.folder / split.info.shards[1].file, 100)
    if not checked:
        split._shards[1].tensors["input_ids"].sum()
        return
    try:
        list(split.batches(1))
    except CorruptCacheError as error:
        print(error, flush=True)
        sys.exit(3)


@pytest.fixture
def large(tmp_path: Path) -> Cache:
    """A cache whose shards span many pages."""
    return write_cache(tmp_path / "large", {"train": 3000}, shards=2)


@pytest.mark.slow
def test_a_shard_cut_after_it_was_mapped_is_an_error_before_the_next_epoch(large: Cache, tmp_path: Path) -> None:
    assert ended(call(tmp_path, read_cut, large.folder, True)) == 3
    said = (tmp_path / "out.txt").read_text()
    assert "the file changed while it was in use" in said
    assert "shard-00001.safetensors" in said


@pytest.mark.slow
def test_reading_a_cut_shard_unchecked_would_kill_the_process(large: Cache, tmp_path: Path) -> None:
    """What the check before each epoch is there for."""
    assert ended(call(tmp_path, read_cut, large.folder, False)) == -signal.SIGBUS


def written_in_place(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    "change", [written_in_place, lambda path: os.truncate(path, 10), lambda path: os.truncate(path, 1 << 20)]
)
@pytest.mark.parametrize("read_before", [True, False])
def test_a_shard_written_to_while_in_use_is_an_error_before_the_next_epoch(
    cache: Cache, change: Callable[[Path], None], read_before: bool
) -> None:
    if read_before:
        all_ids(cache)
    path = cache.folder / "train" / "shard-00000.safetensors"
    change(path)
    with pytest.raises(CorruptCacheError, match=r"changed while it was in use.*open the cache again") as error:
        all_ids(cache, 1)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("read_before", [True, False])
def test_a_shard_replaced_or_removed_while_in_use_is_read_on_from_the_complete_old_file(
    cache: Cache, read_before: bool
) -> None:
    expected = [all_ids(cache), all_ids(cache, 1)]
    again = open_cache(cache.folder)
    if read_before:
        assert all_ids(again) == expected[0]
    (cache.folder / "other").write_bytes(b"other")
    (cache.folder / "other").rename(cache.folder / "train" / "shard-00000.safetensors")
    (cache.folder / "train" / "shard-00001.safetensors").unlink()
    assert [all_ids(again), all_ids(again, 1)] == expected


def test_a_whole_cache_moved_away_while_in_use_is_read_on(cache: Cache) -> None:
    expected = [all_ids(cache), all_ids(cache, 1)]
    cache.folder.rename(cache.folder.parent / "moved")
    assert [all_ids(cache), all_ids(cache, 1)] == expected
    assert not cache["train"].try_keep_plan(SPEC, 1)
    assert not cache.folder.exists()


def test_plans_of_a_replaced_cache_are_not_stored_in_the_new_one(cache: Cache) -> None:
    write_cache(cache.folder, {"train": 30}, seed=9)
    with pytest.raises(StorageError, match="another cache is there now"):
        cache["train"].keep_plan(SPEC, 1)
    assert open_cache(cache.folder)["train"].stored_plans() == {}


# --- read-only, moved


def test_a_cache_copied_elsewhere_is_the_same(cache: Cache, tmp_path: Path) -> None:
    cache["train"].keep_plan(SPEC, 2)
    copy = open_cache(Path(shutil.copytree(cache.folder, tmp_path / "far" / "away" / "other name")), verify=True)
    assert copy.manifest == cache.manifest
    assert all_ids(copy, 1, SPEC) == all_ids(cache, 1, SPEC)
    assert list(copy["train"].stored_plans()) == [SPEC]


def test_a_cache_is_opened_relative_to_the_working_folder(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in ((cache.folder.parent, "toy"), (cache.folder, "."), (cache.folder, "../toy")):
        monkeypatch.chdir(folder)
        assert all_ids(open_cache(name, verify=True)) == all_ids(cache)


def refuse_to_write(*arguments: object, **options: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_read_only_cache_works_and_its_plans_are_made_in_memory(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = all_ids(cache, 2, SPEC)
    before = sorted(cache.folder.rglob("*"))
    monkeypatch.setattr(Folder, "_make", refuse_to_write)
    again = open_cache(cache.folder, verify=True)
    with pytest.raises(StorageError, match=r"cannot write .*tight-b4-s5: Read-only file system"):
        again["train"].keep_plan(SPEC, 3)
    assert not again["train"].try_keep_plan(SPEC, 3)
    assert all_ids(again, 2, SPEC) == expected
    assert sorted(cache.folder.rglob("*")) == before


READ_ONLY = """
import sys
from cache import PlanSpec, open_cache
split = open_cache(sys.argv[1], verify=True)["train"]
spec = PlanSpec("tight", 4, None, 5)
assert not split.try_keep_plan(spec, 2)
print(len(list(split)) + sum(len(split.plan(spec, epoch).rows) for epoch in (0, 1)))
"""


@pytest.mark.slow
def test_a_cache_on_a_read_only_disk_works(cache: Cache) -> None:
    mount = f"mount --bind {cache.folder} {cache.folder} && mount -o remount,ro,bind {cache.folder}"
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a folder read-only")
    command = [*alone, f'{mount} && exec "$@"', "sh", sys.executable, "-c", READ_ONLY, str(cache.folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "120\n"), run


# --- plans beside the shards


def test_stored_and_drawn_plans_give_the_same_batches_and_more_epochs_are_added_behind(cache: Cache) -> None:
    drawn = [all_ids(cache, epoch, SPEC) for epoch in range(3)]
    calls: list[int] = []
    assert cache["train"].keep_plan(SPEC, 1, calls.append) == (0, 1)
    assert cache["train"].keep_plan(SPEC, 3, calls.append) == (1, 2)
    assert cache["train"].keep_plan(SPEC, 2, calls.append) == (3, 0)
    assert calls == [0, 1, 2]
    again = open_cache(cache.folder, verify=True)
    assert len(again["train"].stored_plans()[SPEC].epochs) == 3
    assert [all_ids(again, epoch, SPEC) for epoch in range(3)] == drawn


def test_a_plan_of_no_rows_is_stored_and_read_as_others_are(tmp_path: Path) -> None:
    for spec in (SPEC, PlanSpec("budget", None, 60)):
        write_cache(tmp_path / "toy", {"empty": 0})["empty"].keep_plan(spec, 1)
        split = open_cache(tmp_path / "toy", verify=True)["empty"]
        assert list(split.stored_plans()) == [spec]
        assert list(split.batches(0, spec)) == []


def test_two_that_store_one_plan_at_once_store_each_epoch_once_and_right(cache: Cache) -> None:
    """Each begins from what it saw before the other was done."""
    split, meet = cache["train"], threading.Barrier(2)
    begun = threading.Event()

    def store() -> None:
        meet.wait(30)
        with Folder.open(cache.folder) as folder:
            owner = PlanOwner(cache.manifest.fingerprint, "train", 40)
            store_plan(folder, owner, SPEC, 4, lambda epoch: (begun.set(), split.draw(SPEC, epoch))[1])

    threads = [threading.Thread(target=store) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert begun.is_set()
    assert len(split.stored_plans()[SPEC].epochs) == 4
    for epoch in range(4):
        assert split.plan(SPEC, epoch).rows.tolist() == split.draw(SPEC, epoch).rows.tolist()
    assert sorted(path.name for path in (cache.folder / "train" / "plans").iterdir()) == [SPEC.id]


def test_a_plan_is_read_once_as_long_as_it_is_held(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the batches of an epoch and the count of its FLOPs do; what nobody holds is not kept."""
    split = cache["train"]
    split.keep_plan(SPEC, 2)
    loaded: list[int] = []
    load = StoredPlan.load
    monkeypatch.setattr(
        StoredPlan, "load", lambda self, folder, epoch, *more: loaded.append(epoch) or load(self, folder, epoch, *more)
    )
    plan, other = split.plan(SPEC, 0), split.plan(SPEC, 1)
    assert split.batches(0, SPEC).plan is split.plan(SPEC, 0) is plan is not other
    assert loaded == [0, 1]
    arrays = (plan.rows, plan.batch_offsets, plan.widths)
    assert all(array.flags.owndata for array in arrays), "a file that is cut cannot hurt a copy"
    del plan
    assert split.plan(SPEC, 0).rows.tolist() == split.draw(SPEC, 0).rows.tolist()
    assert loaded == [0, 1, 0]


def test_a_plan_left_half_stored_is_ignored_and_completed_by_the_next(cache: Cache) -> None:
    split = cache["train"]

    def die(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        split.keep_plan(SPEC, 3, die)
    assert split.stored_plans() == {}
    folder = cache.folder / "train" / "plans" / SPEC.id
    (folder / ".epoch-0002.safetensors.0123abcd").write_bytes(b"what a killed process left")
    split.keep_plan(SPEC, 3)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"epoch-{epoch:04d}.safetensors" for epoch in range(3)),
        "plan.json",
    ]
    open_cache(cache.folder, verify=True)


def test_a_damaged_plan_is_told_at_opening_and_gone_when_its_folder_is(cache: Cache) -> None:
    cache["train"].keep_plan(SPEC, 1)
    folder = cache.folder / "train" / "plans" / SPEC.id
    (folder / "epoch-0000.safetensors").write_bytes(b"")
    with pytest.raises(CorruptCacheError, match=f"once its folder is removed: rm -r {folder}$"):
        open_cache(cache.folder)
    shutil.rmtree(folder)
    assert open_cache(cache.folder, verify=True)["train"].plan(SPEC, 0)
