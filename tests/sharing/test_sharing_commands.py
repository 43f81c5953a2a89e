"""prep push, pull, list and gc, and train with URLs: what they print, their exit codes, processes that share or die."""

import json
import os
import random
import time
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from cache import Cache, NotACacheError, open_cache
from cache.sharing.pulling import pull

from ..helpers.children import ended, spawn
from ..helpers.commands import Prep
from ..helpers.object_server import ObjectServer
from .conftest import QUIET, SECRET, URL, contents

ENVIRONMENT = ("AWS_", "LENGTHWISE_")


def variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}


def set_variables(given: dict[str, str]) -> None:
    os.environ.update(given)


def start(folder: Path, *arguments: str, command: str = "prep") -> ForkServerProcess:
    """Start a command in a process of its own, with the variables that name server and store."""
    folder.mkdir(exist_ok=True)
    return spawn(folder, *arguments, command=command, prepare=partial(set_variables, variables()))


def test_commands_say_what_they_did_and_what_comes_next(
    small: Cache, s3: ObjectServer, store: Path, prep: Prep
) -> None:
    done = prep("push", str(small.folder), URL)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"pushed {small.folder} to {URL}: ")
    assert done.out.endswith(f"next: train run --cache {URL}\n")
    assert f"{URL} is up to date" in prep("push", str(small.folder), URL).out
    done = prep("pull", URL)
    assert f"kB in {store}" in done.out
    assert done.out.endswith(f"next: train run --cache {URL}\n")
    assert prep("pull", URL).out.startswith("small is here already: ")
    assert prep("pull", URL, "--to", "here").out.endswith("next: train run --cache here\n")
    assert URL in prep("list", "s3://bucket/caches").out
    assert "is sound" in prep("verify", URL).out
    done = prep("gc", "--max-size", "0")
    assert done.out.startswith("removed small-")
    assert done.out.endswith(f"{store} holds 0 B\n")
    assert not prep("pull", URL, "--quiet").out


def test_gc_names_a_cache_that_was_built_and_not_pushed_and_removes_killed_builds(
    small: Cache, store: Path, prep: Prep
) -> None:
    built = small.folder.rename(store.parent / "small-0123456789ab")
    store.mkdir()
    built.rename(store / built.name)
    (store / f".{built.name}.building-01234567").mkdir()
    (store / "notes-0123456789ab").mkdir()
    done = prep("gc", "--max-size", "0")
    assert done.out.splitlines()[0].startswith(f"removed .{built.name}.building-")
    assert f"stays   {built.name}, " in done.out
    assert f" not pushed; prep push {store / built.name} URL\n{store} holds 0 B\n" in done.out
    assert {path.name for path in store.iterdir()} == {built.name, "notes-0123456789ab"}


def test_with_json_stdout_is_one_object(small: Cache, s3: ObjectServer, prep: Prep) -> None:
    pushed = json.loads(prep("push", str(small.folder), URL, "--json").out)
    assert set(pushed) == {"url", "files", "bytes", "sent_files", "sent_bytes"}
    pulled = json.loads(prep("pull", URL, "--json").out)
    assert set(pulled) == {"folder", "name", "files", "bytes", "fetched_bytes"}
    assert pulled["files"] == pushed["files"]
    listed = json.loads(prep("list", "s3://bucket/caches", "--json").out)
    assert [cache["folder"] for cache in listed["caches"]] == [URL]
    left = json.loads(prep("gc", "--max-size", "0", "--json").out)
    assert [item["name"] for item in left["removed"]] == [Path(pulled["folder"]).name]
    assert left["bytes"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["push", "small", "bucket/x"], 2, "is not a URL; expected s3://"),
        (["push", "small", "ftp://host/x"], 2, "nothing is read from ftp:// URLs"),
        (["push", "none", URL], 2, "does not exist, so it is not a cache"),
        (["push", "small", "s3://other/x"], 2, "no such bucket"),
        (["pull", URL], 2, "has no manifest, so it is not a cache"),
        (["pull", f"s3://me:{SECRET}@bucket/x"], 2, "came with a user, password, query"),
        (["info", f"s3://bucket/x?{SECRET}"], 2, "came with a user, password, query"),
        (["list", "s3://other/x"], 2, "no such bucket"),
        (["gc", "--max-size", "much"], 2, "--max-size 'much' is not a size"),
    ],
)
def test_wrong_inputs_end_with_code_2(
    arguments: list[str], code: int, message: str, small: Cache, s3: ObjectServer, prep: Prep
) -> None:
    Path("small").symlink_to(small.folder)
    done = prep(*arguments)
    assert done.code == code
    assert message in done.err
    assert SECRET not in done.err + done.out


def test_a_denied_store_ends_with_code_1(small: Cache, s3: ObjectServer, prep: Prep) -> None:
    s3.fault = lambda method, key, count: "403 AccessDenied"
    done = prep("pull", URL)
    assert done.code == 1
    assert "access is denied" in done.err
    assert SECRET not in done.err


@pytest.mark.slow
def test_processes_share_one_download(small: Cache, s3: ObjectServer, store: Path, tmp_path: Path) -> None:
    small.push(URL, progress=QUIET)
    s3.fault = lambda method, key, count: "hold" if key.endswith(".safetensors") else None
    processes = [start(tmp_path / str(number), "pull", URL) for number in range(3)]
    errors = [tmp_path / str(number) / "err.txt" for number in range(3)]
    while sum(path.exists() and "is being pulled by" in path.read_text() for path in errors) < 2:
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    s3.released.set()
    assert [ended(process) for process in processes] == [0, 0, 0]
    assert all(s3.count("HEAD", str(name)) == 1 for name in contents(small.folder) if "shard" in name)
    printed = [(tmp_path / str(number) / "out.txt").read_text() for number in range(3)]
    assert sum(text.startswith("pulled small") for text in printed) == 1


def killed(folder: Path, arguments: list[str], random_: random.Random, whole_s: float) -> None:
    process = start(folder, *arguments)
    process.join(random_.uniform(0.05, whole_s))
    process.kill()
    process.join()


def kills(small: Cache, s3: ObjectServer, tmp_path: Path, count: int) -> None:
    """Pushes and pulls that are killed: no reader finds half a cache, and the next one goes on."""
    s3.fault = lambda method, key, number: "slow 0.02"
    began = time.monotonic()
    assert ended(start(tmp_path / "child", "push", str(small.folder), URL)) == 0
    whole_s = time.monotonic() - began
    draw = random.Random(0)
    for number in range(count):
        url, to = f"s3://bucket/{number}", tmp_path / f"to-{number}"
        killed(tmp_path / "child", ["push", str(small.folder), url], draw, whole_s)
        try:
            with pull(url, tmp_path / f"early-{number}", QUIET) as pulled:
                assert contents(pulled.folder) == contents(small.folder)
        except NotACacheError:
            pass
        assert ended(start(tmp_path / "child", "push", str(small.folder), url)) == 0
        killed(tmp_path / "child", ["pull", url, "--to", str(to)], draw, whole_s)
        assert not to.exists() or contents(to) == contents(small.folder)
        assert ended(start(tmp_path / "child", "pull", url, "--to", str(to))) == 0
        assert contents(to) == contents(small.folder)
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(f".to-{number}.pulling")]


@pytest.mark.slow
def test_killed_pushes_and_pulls(small: Cache, s3: ObjectServer, tmp_path: Path) -> None:
    kills(small, s3, tmp_path, 2)


@pytest.mark.faults
def test_killed_pushes_and_pulls_in_full(small: Cache, s3: ObjectServer, tmp_path: Path) -> None:
    kills(small, s3, tmp_path, 25)
    print("25 pushes and 25 pulls killed")


@pytest.mark.faults
def test_a_thousand_shards_over_a_bad_line(s3: ObjectServer, store: Path, tmp_path: Path) -> None:
    from ..helpers.caches import write_cache

    cache = write_cache(tmp_path / "wide", {"train": 2000}, shards=1000)
    draw = random.Random(0)
    failed: set[tuple[str, str]] = set()

    def bad_line(method: str, key: str, count: int) -> str | None:
        if "shard" in key and draw.random() < 0.05 and (method, key) not in failed:
            failed.add((method, key))
            return "cut"
        return None

    s3.fault = bad_line
    cache.push(URL, progress=QUIET)
    opened = open_cache(URL, quiet=True, verify=True)
    assert contents(opened.folder) == contents(cache.folder)
    assert failed
    print(f"1,000 shards pushed and pulled, {len(failed)} requests of them cut")
