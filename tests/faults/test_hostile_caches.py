"""Caches that a stranger made: whatever lies in them, nothing outside is touched, nothing hangs, errors are typed."""

import contextlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import LengthwiseError, PlanSpec, StorageError, open_cache
from cache.format.checksummed_json import seal
from cache.format.files import sha256_file
from cache.writing.publishing import building

from ..helpers.caches import write_cache
from ..helpers.commands import Prep
from ..helpers.fuzzing import mutated_bytes, mutated_json
from ..helpers.hostile import PLAN, read_everything, sound_cache
from ..helpers.watcher import unchanged_outside

pytestmark = pytest.mark.slow

NEW = PlanSpec("dynamic", 4)
PARTS = [
    "manifest.json",
    "tokenizer",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/model.safetensors",
    "train",
    "train/shard-00001.safetensors",
    "train/plans",
    "train/plans/smart-b8-s0",
    PLAN,
    "train/plans/smart-b8-s0/epoch-0000.safetensors",
    "train/plans/smart-b8-s0/epoch-0002.safetensors",
    f"train/plans/{NEW.id}",
    f"train/plans/{NEW.id}/epoch-0000.safetensors",
    f"train/plans/{NEW.id}/.plan.json.0123abcd",
    f"train/plans/.{NEW.id}.lock",
    "notes",
]


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """A hang is a failure."""

    def ring(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


ATTACKS: dict[str, Callable[[Path, Path], object]] = {
    "link to a file": lambda path, outside: path.symlink_to(outside / "secret"),
    "link to a folder": lambda path, outside: path.symlink_to(outside),
    "relative link": lambda path, outside: path.symlink_to(os.path.relpath(outside, path.parent)),
    "link to itself": lambda path, outside: path.symlink_to(path.name),
    "link to nothing": lambda path, outside: path.symlink_to(outside / "none"),
    "link to a device": lambda path, outside: path.symlink_to("/dev/zero"),
    "link to a twin": lambda path, outside: path.symlink_to(path.with_name(f"{path.name}-twin")),
    "pipe": lambda path, outside: os.mkfifo(path),
    "folder": lambda path, outside: path.mkdir(),
    "file": lambda path, outside: path.write_bytes(b"x"),
    "sparse file": lambda path, outside: (path.touch(), os.truncate(path, 1 << 40)),
}


def planted(place: Path, part: str, attack: str, outside: Path) -> None:
    """Put an attack where a part of a cache is, or could be."""
    path = place / part
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        twin = path.with_name(f"{path.name}-twin")
        path.rename(twin.with_name(f"{twin.name}-twin") if os.path.lexists(twin) else twin)
    ATTACKS[attack](path, outside)


def use(place: Path) -> int:
    """Do with a cache all that is done with caches; returns how many of the steps were refused."""
    steps: list[Callable[[], object]] = [
        lambda: read_everything(open_cache(place)),
        lambda: open_cache(place, verify=True),
        lambda: open_cache(place).unlisted(),
        lambda: open_cache(place)["train"].tokenizer_files(),
        lambda: open_cache(place)["train"].keep_plan(PlanSpec("smart", 8), 4),
        lambda: open_cache(place)["train"].try_keep_plan(NEW, 2),
    ]
    refused = 0
    for step in steps:
        try:
            step()
        except LengthwiseError as error:
            assert len(str(error)) < 2000
            refused += 1
    return refused


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_in_the_way_of_a_part_of_a_cache_nothing_outside_is_touched(tmp_path: Path, attack: str) -> None:
    """187 attacks: each part of a cache, those that do not exist yet too, replaced by each kind of thing."""
    place, refused = tmp_path / "toy", 0
    with unchanged_outside(place) as outside:
        for part in PARTS:
            shutil.rmtree(place, ignore_errors=True)
            planted(sound_cache(place), part, attack, outside)
            refused += use(place)
    assert refused


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("part", [f"train/plans/{NEW.id}", "tokenizer/config.json"])
def test_the_commands_touch_nothing_outside_a_cache_either(tmp_path: Path, prep: Prep, part: str, attack: str) -> None:
    with unchanged_outside(tmp_path / "toy") as outside:
        planted(sound_cache(tmp_path / "toy"), part, attack, outside)
        for command in (
            ["verify", "toy"],
            ["plan", "toy", "--strategy", "dynamic", "--batch-size", "4"],
            ["info", "toy"],
            ["show", "toy"],
        ):
            done = prep(*command)
            assert done.code in (0, 1, 2)
            assert "Traceback" not in done.err
        if part == "tokenizer/config.json":
            assert part in prep("verify", "toy").out


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", [".toy.lock", ".toy.building-0123abcd", ".toy.replaced-0123abcd"])
def test_a_build_touches_nothing_outside_its_folder(tmp_path: Path, name: str, attack: str) -> None:
    place = tmp_path / "caches" / "toy"
    with unchanged_outside(place.parent) as outside:
        sound_cache(place)
        ATTACKS[attack](place.parent / name, outside)
        with contextlib.suppress(StorageError), building(place):
            write_cache(place, {"train": 8}, seed=7)
        assert read_everything(open_cache(place, verify=True))


# --- mutations


def relisted(place: Path, rest: random.Random) -> None:
    """Make the checksums of a mutated cache fit, as a stranger would; now and then one of them stays wrong."""
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink() and rest.random() < 0.95]
    facts = {
        path.relative_to(place).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
        if path.stat().st_size < 1 << 20
    }
    for name in sorted(facts):
        if not name.endswith(("manifest.json", "plan.json")):
            continue
        prefix = f"{os.path.dirname(name)}/" if name != "manifest.json" else ""  # noqa: PTH120
        try:
            content = json.loads((place / name).read_bytes())
            content.pop("checksum", None)
            for entry in list(_entries(content)):
                for start in (prefix, "tokenizer/"):
                    entry |= facts.get(f"{start}{entry.get('file')}", {})
                if entry.get("file") == "tokenizer.json":
                    content["tokenizer"]["sha256"] = entry["sha256"]
            (place / name).write_bytes(seal(content))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _entries(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict) and isinstance(content.get("file"), str):
        yield content
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _entries(part)


def mutate(place: Path, rest: random.Random, outside: Path) -> str:
    """One to three changes of a cache; returns what was done."""
    done = []
    for _ in range(rest.randint(1, 3)):
        path = rest.choice(sorted(path for path in place.rglob("*") if not path.is_symlink()))
        kind = rest.choice(("bytes", "bytes", "json", "json", "json", "remove", "swap", "cut", "attack"))
        done.append(f"{kind} {path.relative_to(place)}")
        if kind == "attack":
            attack = rest.choice(sorted(ATTACKS))
            done[-1] += f" {attack}"
            planted(place, str(path.relative_to(place)), attack, outside)
        elif not path.is_file():
            shutil.rmtree(path, ignore_errors=True) if kind == "remove" and path.is_dir() else None
        elif path.stat().st_size > 1 << 20:
            continue
        elif kind == "json" and path.suffix == ".json":
            try:
                content = json.loads(path.read_bytes())
                content.pop("checksum", None)
                path.write_bytes(seal(mutated_json(rest, content)))
            except (ValueError, TypeError, AttributeError):
                continue
        elif kind == "remove":
            path.unlink()
        elif kind == "swap":
            others = [other for other in place.rglob("*") if other.is_file() and other.stat().st_size < 1 << 20]
            path.write_bytes(rest.choice(sorted(others)).read_bytes())
        elif kind == "cut":
            os.truncate(path, rest.randint(0, path.stat().st_size + 8))
        else:
            path.write_bytes(mutated_bytes(rest, path.read_bytes()))
    if rest.random() < 0.7:
        relisted(place, rest)
    return "; ".join(done)


def use_mutated_caches(place: Path, prep: Prep, times: int, seed: int) -> tuple[int, int]:
    rest, refused, steps = random.Random(seed), 0, 0
    with unchanged_outside(place) as outside:
        for number in range(times):
            shutil.rmtree(place, ignore_errors=True)
            did = mutate(sound_cache(place), rest, outside)
            signal.alarm(120)
            try:
                refused += use(place)
                for command in (["info", place.name], ["show", place.name], ["verify", place.name]):
                    assert prep(*command).code in (0, 1, 2)
            except BaseException as error:
                error.add_note(f"mutation {number}: {did}")
                raise
            steps += 9
    return refused, steps


def test_fifty_mutated_caches_give_typed_errors_only(tmp_path: Path, prep: Prep) -> None:
    refused, steps = use_mutated_caches(tmp_path / "toy", prep, 50, seed=50)
    assert 0 < refused < steps


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(10))
def test_two_thousand_mutated_caches_give_typed_errors_only(tmp_path: Path, prep: Prep, seed: int) -> None:
    refused, steps = use_mutated_caches(tmp_path / "toy", prep, 200, seed)
    print(f"200 mutated caches: {refused:,} of {steps:,} steps refused")
