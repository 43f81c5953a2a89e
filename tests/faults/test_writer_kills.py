"""Builds killed at any moment: the old cache, the new one, or none, and the next build cleans up."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import NotACacheError, open_cache

from ..helpers.build_server import Builder
from ..helpers.files import content, names_in

pytestmark = pytest.mark.slow

OLD, NEW = 1, 2

Reference = dict[int, Path]
"""The caches of uninterrupted builds, by seed."""


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    running = Builder()
    yield running
    running.close()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, builder: Builder) -> Reference:
    found = {}
    for seed in (OLD, NEW):
        found[seed] = tmp_path_factory.mktemp("reference") / "toy"
        assert builder.run(found[seed], seed)["exit"] == 0
    return found


def found_at(place: Path, reference: Reference) -> int | None:
    """Which complete cache can be opened at `place`: its seed, None for none. Anything else fails the test."""
    try:
        open_cache(place, verify=True)
    except NotACacheError:
        assert not place.exists()
        return None
    [seed] = [seed for seed, whole in reference.items() if content(whole) == content(place)]
    return seed


def killed_then_built_again(
    builder: Builder, place: Path, reference: Reference, before: int | None, ended: dict
) -> int | None:
    assert ended["exit"] in (0, -signal.SIGKILL)
    found = found_at(place, reference)
    assert found in ((NEW,) if ended["exit"] == 0 else (before, NEW))
    assert builder.run(place, NEW)["exit"] == 0
    assert found_at(place, reference) == NEW
    assert names_in(place.parent) == [place.name], "nothing is left beside the cache"
    return found


# --- kills at every operation


def place_with(folder: Path, reference: Reference, before: int | None) -> Path:
    """Where a cache is to be built: over a copy of a reference, or of nothing."""
    if before is not None:
        shutil.copytree(reference[before], folder / "toy")
    return folder / "toy"


def kill_at_operations(
    builder: Builder, folder: Path, reference: Reference, before: int | None, exchange: bool, every: int
) -> tuple[int, set[int | None]]:
    place = place_with(folder / "whole", reference, before)
    count = builder.run(place, NEW, exchange=exchange)["operations"]
    seen = set()
    # Publishing is the last dozen operations: none of them is left out.
    for operation in sorted({*range(0, count, every), *range(count - 16, count + 1)}):
        place = place_with(folder / f"kill-{operation}", reference, before)
        ended = builder.run(place, NEW, die_at=operation, exchange=exchange)
        seen.add(killed_then_built_again(builder, place, reference, before, ended))
    return count, seen


@pytest.mark.parametrize(
    ("before", "exchange", "every"),
    [(None, True, 16), (OLD, True, 64), (OLD, False, 64)],
    ids=["new", "over an old one-exchange", "over an old one-two renames"],
)
def test_a_build_killed_at_any_operation_leaves_the_old_cache_the_new_one_or_none(
    builder: Builder, tmp_path: Path, reference: Reference, before: int | None, exchange: bool, every: int
) -> None:
    """What comes before publishing is the same over an old cache: there it is killed at fewer operations."""
    count, seen = kill_at_operations(builder, tmp_path, reference, before, exchange, every)
    assert count > 40
    assert seen == {before, NEW}


@pytest.mark.faults
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("before", [None, OLD], ids=["new", "over an old one"])
def test_a_build_killed_at_each_operation(
    builder: Builder, tmp_path: Path, reference: Reference, before: int | None, exchange: bool
) -> None:
    count, seen = kill_at_operations(builder, tmp_path, reference, before, exchange, every=1)
    print(f"killed before each of {count:,} operations")
    assert seen == {before, NEW}


# --- kills at random moments


def kill_at_random_moments(builder: Builder, folder: Path, reference: Reference, times: int) -> list[int | None]:
    moments, seen = random.Random(times), []
    begin = time.monotonic()
    builder.run(folder / "timed" / "toy", NEW)
    duration = time.monotonic() - begin
    for number in range(times):
        before, exchange = (None, OLD)[number % 2], bool(number // 2 % 2)
        place = place_with(folder / str(number), reference, before)
        process = builder.start(place, NEW, exchange=exchange)
        time.sleep(moments.random() * duration * 1.2)
        os.kill(process, signal.SIGKILL)
        seen.append(killed_then_built_again(builder, place, reference, before, builder.end(process)))
    return seen


def test_builds_killed_at_random_moments_leave_nothing_half_made(
    builder: Builder, tmp_path: Path, reference: Reference
) -> None:
    assert len(kill_at_random_moments(builder, tmp_path, reference, 5)) == 5


@pytest.mark.faults
def test_two_hundred_builds_killed_at_random_moments(builder: Builder, tmp_path: Path, reference: Reference) -> None:
    seen = kill_at_random_moments(builder, tmp_path, reference, 200)
    print(f"200 kills: {dict(Counter(seen))}")
    assert {None, OLD, NEW} == set(seen), "kills fell before and after publishing"


# --- builds that meet


def test_of_eight_processes_that_build_one_cache_one_does_and_the_others_find_it(
    builder: Builder, tmp_path: Path, reference: Reference
) -> None:
    place = tmp_path / "caches" / "toy"
    ended = [builder.end(process) for process in [builder.start(place, NEW) for _ in range(8)]]
    assert [one["exit"] for one in ended] == [0] * 8
    assert sum("building" in one["said"] for one in ended) == 1
    assert all(sum("waiting for it" in line for line in one["said"]) <= 1 for one in ended)
    assert found_at(place, reference) == NEW
    assert names_in(place.parent) == ["toy"]
