"""Builds killed at any moment, and many at once: real processes of the real command, real SIGKILLs.

Afterwards there is either no cache or the complete old or new one, every file as an uninterrupted build writes it, and
the next build cleans up and succeeds. The builds read in small blocks and keep runs in files, so that the moments
spread over reading, tokenizing, run writing, merging, planning and publishing.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..helpers.corpora import toy_rows, write_rows
from ..helpers.tokenizers import write_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CODE = "from prep.cli import main; from prep.sources import files; files.BLOCK_BYTES = 1 << 14; main()"
"""The command, reading in blocks of 16 kB."""

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and two csv files."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tokenizer(folder / "tokenizer")
    write_rows(folder / "new.csv", toy_rows(4000))
    write_rows(folder / "old.csv", toy_rows(500))
    return folder


def build(corpus: Path, cwd: Path, source: str, *options: str) -> subprocess.Popen[str]:
    """`prep build` of a source as the cache `a`, under way."""
    arguments = [
        "build",
        str(corpus / source),
        "--tokenizer",
        str(corpus / "tokenizer"),
        "--name",
        "a",
        "--memory",
        "1kib",
    ]
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments, *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(cache: Path) -> Files:
    """Every file of a cache, the time of the manifest taken out."""
    found = {str(path.relative_to(cache)): path.read_bytes() for path in sorted(cache.rglob("*")) if path.is_file()}
    manifest = json.loads(found["manifest.json"])
    del manifest["created"], manifest["checksum"]
    return {**found, "manifest.json": json.dumps(manifest).encode()}


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a build that shall succeed; what it said."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out + err


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
        complete[name] = files(tmp_path / "cache" / "a")
    outcomes = {"none": 0, "old": 0, "new": 0}
    for number in range(kills):
        folder = tmp_path / f"kill-{number}"
        folder.mkdir()
        if number % 2:
            finished(build(corpus, folder, "old.csv"))
        process = build(corpus, folder, "new.csv", "--force")
        time.sleep(chance.uniform(0.2, 1.05) * duration)
        process.kill()
        process.communicate()
        place = folder / "cache" / "a"
        found = files(place) if (place / "manifest.json").exists() else None
        outcome = next((name for name, content in complete.items() if content == found), "none")
        assert (outcome == "none") == (found is None), f"a cache that is neither old nor new after {number} kills"
        assert found is not None or not number % 2, "the old cache is gone"
        outcomes[outcome] += 1
        finished(build(corpus, folder, "new.csv", "--force"))
        assert files(place) == complete["new"]
        assert [
            path.name for path in place.parent.iterdir() if path.name != "a" and not path.name.endswith(".lock")
        ] == []
    print(f"after {kills} kills: {outcomes}")
    assert outcomes["none"] + outcomes["old"] > 0, "no build was caught under way"


def test_of_eight_builds_at_once_one_builds_and_seven_wait(corpus: Path, tmp_path: Path) -> None:
    """The others say whom they wait for and find the cache up to date."""
    said = [finished(process) for process in [build(corpus, tmp_path, "new.csv") for _ in range(8)]]
    assert sum("built cache/a" in text for text in said) == 1
    assert sum("is up to date" in text for text in said) == 7
    assert all(" is being built by process " in text for text in said if "is up to date" in text and "waiting" in text)
    assert any("waiting" in text for text in said)
