"""Builds killed at any moment, and many at once: real processes of the real command, real SIGKILLs.

Afterwards there is either no cache or the complete old or new one, every file as an uninterrupted build writes it, and
the next build cleans up and succeeds. The builds read in small blocks and keep runs in files, so that the moments
spread over reading, tokenizing, run writing, merging, planning and publishing.
"""

import random
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from cache.common import forked
from prep.parsing import readers as sources

from ..helpers.children import ended, print_to, spawn
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.files import without_time
from ..helpers.tokenizers import write_tokenizer

pytestmark = pytest.mark.slow

Files = dict[str, Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and two csv files."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tokenizer(folder / "tokenizer")
    write_rows(folder / "new.csv", toy_rows(2000))
    write_rows(folder / "old.csv", toy_rows(250))
    return folder


@dataclass(frozen=True)
class Build:
    """A build under way, and the file that it prints to."""

    process: ForkServerProcess
    printed: Path


def build(corpus: Path, cwd: Path, source: str, *options: str, printed: str = "printed.txt") -> Build:
    """`prep build` of a source as the cache `a`, under way."""
    tokenizer = str(corpus / "tokenizer")
    arguments = ["build", str(corpus / source), "--tokenizer", tokenizer, "--name", "a", "--memory", "1kib"]
    process = spawn(cwd, *arguments, *options, prepare=partial(prepare, printed), command="prep")
    return Build(process, cwd / printed)


def prepare(printed: str) -> None:
    """Print to one file, and read in blocks of 16 kB."""
    sources.BLOCK_BYTES = forked.BATCH_BYTES = 1 << 14
    print_to(printed, printed)


def finished(build: Build) -> str:
    """Wait for a build that shall succeed; what it said."""
    code, said = ended(build.process), build.printed.read_text()
    assert code == 0, said
    return said


@pytest.mark.parametrize(
    ("kills", "seed"), [pytest.param(5, 0, id="5"), pytest.param(200, 1, id="200", marks=pytest.mark.faults)]
)
def test_a_killed_build_leaves_no_cache_or_a_complete_one(corpus: Path, tmp_path: Path, kills: int, seed: int) -> None:
    """Half of the builds begin from nothing, half replace an old cache with --force."""
    chance = random.Random(seed)
    complete: dict[str, Files] = {}
    for name in ("old", "new"):
        begun = time.monotonic()
        finished(build(corpus, tmp_path, f"{name}.csv", "--force"))
        duration = time.monotonic() - begun
        complete[name] = without_time(tmp_path / "cache" / "a")
    outcomes = {"none": 0, "old": 0, "new": 0}
    for number in range(kills):
        folder = tmp_path / f"kill-{number}"
        folder.mkdir()
        if number % 2:
            finished(build(corpus, folder, "old.csv"))
        process = build(corpus, folder, "new.csv", "--force").process
        time.sleep(chance.uniform(0.0, 1.05) * duration)
        process.kill()
        ended(process)
        place = folder / "cache" / "a"
        found = without_time(place) if (place / "manifest.json").exists() else None
        outcome = next((name for name, content in complete.items() if content == found), "none")
        assert (outcome == "none") == (found is None), f"a cache that is neither old nor new after {number} kills"
        assert found is not None or not number % 2, "the old cache is gone"
        outcomes[outcome] += 1
        finished(build(corpus, folder, "new.csv", "--force"))
        assert without_time(place) == complete["new"]
        assert [
            path.name for path in place.parent.iterdir() if path.name != "a" and not path.name.endswith(".lock")
        ] == []
    print(f"after {kills} kills: {outcomes}")
    assert outcomes["none"] + outcomes["old"] > 0, "no build was caught under way"


def test_of_eight_builds_at_once_one_builds_and_seven_wait(corpus: Path, tmp_path: Path) -> None:
    """The others say whom they wait for and find the cache up to date."""
    under_way = [build(corpus, tmp_path, "new.csv", printed=f"printed-{number}.txt") for number in range(8)]
    said = [finished(each) for each in under_way]
    assert sum("built cache/a" in text for text in said) == 1
    assert sum("is up to date" in text for text in said) == 7
    assert all(" is being built by process " in text for text in said if "is up to date" in text and "waiting" in text)
    assert any("waiting" in text for text in said)
