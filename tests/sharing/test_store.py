"""The local store of pulled caches, and what strangers put at a URL: nothing else is touched, nothing in use goes."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from cache import Cache, CorruptCacheError, InputError, PlanSpec, StorageError, open_cache
from cache.sharing.pulling import pull
from cache.sharing.store import collect_garbage

from ..helpers.caches import write_cache
from ..helpers.files import names_in
from ..helpers.object_server import ObjectServer
from .conftest import QUIET, URL, contents, fetch

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["link", "folder of links", "pipe"])
def test_nothing_of_a_shared_folder_is_followed_out_of_it(kind: str, small: Cache, store: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared"
    small.push(url, progress=QUIET)
    shard = tmp_path / "shared/train/shard-00000.safetensors"
    if kind == "folder of links":
        shutil.move(tmp_path / "shared/train", tmp_path / "moved")
        (tmp_path / "shared/train").symlink_to(tmp_path / "moved")
    else:
        shutil.move(shard, tmp_path / "moved")
        shard.symlink_to(tmp_path / "moved") if kind == "link" else os.mkfifo(shard)
    with pytest.raises((CorruptCacheError, StorageError), match=r"link|regular file"):
        fetch(url)


def test_a_fingerprint_that_is_claimed_does_not_stand_for_another_cache(
    small: Cache, store: Path, tmp_path: Path
) -> None:
    other = write_cache(tmp_path / "other", {"train": 120, "test": 20}, seed=9)
    content = (other.folder / "manifest.json").read_text()
    assert other.manifest.fingerprint in content
    small.push(f"file://{tmp_path}/mine", progress=QUIET)
    other.push(f"file://{tmp_path}/theirs", progress=QUIET)
    first, second = fetch(f"file://{tmp_path}/theirs"), fetch(f"file://{tmp_path}/mine")
    assert first != second
    assert first.name.rpartition("-")[2] != second.name.rpartition("-")[2], "the manifest's digest is in the name"


def test_plans_of_another_cache_are_passed_over(small: Cache, s3: ObjectServer, tmp_path: Path) -> None:
    small.push(URL, progress=QUIET)
    other = write_cache(tmp_path / "other", {"train": 120}, seed=3)
    other["train"].keep_plan(PlanSpec("budget", None, 500), 1)
    (plan,) = (other.folder / "train/plans").iterdir()
    for path in plan.iterdir():
        s3.objects[f"bucket/caches/small/train/plans/{plan.name}/{path.name}"] = path.read_bytes()
    s3.objects["bucket/caches/small/train/plans/../../../escape/plan.json"] = b"{}"
    assert contents(fetch(URL)) == contents(small.folder)


def test_a_cache_larger_than_the_disk_is_refused_before_a_byte_comes(
    small: Cache, s3: ObjectServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.push(URL, progress=QUIET)
    free = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("cache.sharing.pulling.shutil.disk_usage", lambda _: free)
    with pytest.raises(StorageError, match=r"takes .* kB more, .* free; make room"):
        fetch(URL)
    assert s3.count("GET", ".safetensors") == 0
    assert list(store.iterdir()) == []


def test_a_folder_that_holds_something_is_not_written(small: Cache, s3: ObjectServer, tmp_path: Path) -> None:
    small.push(URL, progress=QUIET)
    (tmp_path / "to").mkdir()
    assert fetch(URL, tmp_path / "to") == fetch(URL, tmp_path / "to")
    assert not [name for name in names_in(tmp_path) if name.startswith(".")]
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    for name in ("file", "full"):
        with pytest.raises(InputError, match="holds something else already"):
            fetch(URL, tmp_path / name)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "x"


# --- the store


def test_what_is_in_use_is_never_removed(small: Cache, s3: ObjectServer, store: Path, tmp_path: Path) -> None:
    small.push(URL, progress=QUIET)
    (store / "thesis").mkdir(parents=True)
    cache = open_cache(URL, quiet=True)
    done = collect_garbage(store, 0)
    assert [item.name for item in done.in_use] == [cache.folder.name]
    row = cache["train"][3].input_ids.tolist()
    del cache
    with pull(URL, None, QUIET) as pulled:
        assert not collect_garbage(store, 0).removed
    done = collect_garbage(store, 0)
    assert [item.name for item in done.removed] == [pulled.folder.name]
    assert done.left == 0
    assert [path.name for path in store.iterdir()] == ["thesis"]
    assert open_cache(URL, quiet=True)["train"][3].input_ids.tolist() == row


def test_the_longest_unused_goes_first(small: Cache, store: Path, tmp_path: Path) -> None:
    folders = []
    for seed in range(3):
        cache = write_cache(tmp_path / str(seed), {"train": 30}, seed=seed)
        cache.push(f"file://{tmp_path}/shared/{seed}", progress=QUIET)
        folders.append(fetch(f"file://{tmp_path}/shared/{seed}"))
        os.utime(folders[-1], (1000 + seed, 1000 + seed))
    fetch(f"file://{tmp_path}/shared/0")
    size = sum(path.stat().st_size for path in folders[0].rglob("*") if path.is_file())
    done = collect_garbage(store, 2 * size + size // 2)
    assert [item.name for item in done.removed] == [folders[1].name]
    assert folders[0].is_dir()
    assert folders[2].is_dir()


def test_a_store_with_a_limit_makes_room(
    small: Cache, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"file://{tmp_path}/shared/{seed}" for seed in range(2)]
    for seed, url in enumerate(urls):
        write_cache(tmp_path / str(seed), {"train": 30}, seed=seed).push(url, progress=QUIET)
    first = fetch(urls[0])
    size = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
    monkeypatch.setenv("LENGTHWISE_STORE_SIZE", str(size + size // 2))
    held = open_cache(urls[0], quiet=True)
    with pytest.raises(StorageError, match=r"LENGTHWISE_STORE_SIZE.*in use"):
        fetch(urls[1])
    del held
    assert fetch(urls[1]).is_dir()
    assert not first.exists()


def test_garbage_of_stopped_pulls_goes_unless_it_is_pulled_now(store: Path) -> None:
    name = f"small-{'0' * 12}-{'1' * 32}"
    (store / f".{name}.pulling-12345678").mkdir(parents=True)
    lock = os.open(store / f".{name}.lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert len(collect_garbage(store, None).in_use) == 1
    os.close(lock)
    assert len(collect_garbage(store, None).removed) == 1
    assert not names_in(store)
    assert collect_garbage(store / "none", 0).left == 0
