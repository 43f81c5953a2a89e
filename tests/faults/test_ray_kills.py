"""Builds on a real Ray cluster while its workers are killed, and while the command is.

What comes of it without kills, `docs/clusters.md` shows, whose commands a test runs; in any order and partition,
`tests/prep/test_executors.py`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cache import open_cache

from ..helpers import ROOT
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.files import content
from ..helpers.tokenizers import write_tokenizer

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray"),
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
"""Ray's own workers stand back behind all other processes (nice 15), which the other tests would make a standstill."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer, a corpus of some 20 parts, and its cache built locally."""
    write_tokenizer(tmp_path / "tokenizer")
    write_rows(tmp_path / "a.jsonl", toy_rows(8000))
    build = "from prep import build; from prep.settings import BuildSettings; from cache.console.progress import *; "
    settings = "name='a', out='local', tokenizer='tokenizer', epochs=1, holdout=0.2, shard_bytes=40_000"
    python(tmp_path, "-c", f"{build}build.build(BuildSettings('a.jsonl', {settings}), ConsoleProgress(True))")
    return tmp_path


def python(folder: Path, *arguments: str, timeout_s: float = 300) -> str:
    """Run Python in a folder; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def session(folder: Path, builds: int, kills: int, seed: int = 0) -> list[dict[str, Any]]:
    """Builds on a cluster, workers killed; what became of each."""
    arguments = ["a.jsonl", "tokenizer", str(builds), str(kills), str(seed)]
    printed = python(folder, "-m", "tests.helpers.ray_session", *arguments, timeout_s=60 * builds + 120)
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]  # Ray prints too


def shards(cache: Path) -> dict[str, bytes]:
    """Shards and plans."""
    return {name: data for name, data in content(cache).items() if name.endswith(".safetensors")}


def test_50_kills_of_workers(folder: Path) -> None:
    found = session(folder, builds=10, kills=5, seed=1)
    print(*found, sep="\n")
    assert sum(len(build["kills"]) for build in found) >= 40
    for number, build in enumerate(found):
        if build["error"] is None:
            assert shards(folder / f"ray-{number}/a") == shards(folder / "local/a")
            assert not list((folder / f"ray-{number}").glob(".a.building-*"))
        else:
            assert "a task was lost, and again each time that Ray repeated it" in build["error"]
            assert not content(folder / f"ray-{number}")
    assert sum(build["error"] is None for build in found) >= 8


def test_kills_of_the_command_leave_the_cache_that_was_there_and_no_process(folder: Path) -> None:
    choose = random.Random(0)
    command = [sys.executable, "-c", "from prep.cli import main; main()", "build", "a.jsonl", "--name", "a"]
    command += ["--out", "local", "--tokenizer", "tokenizer", "--limit", "7000", "--force", "--executor", "ray"]
    before = content(folder / "local/a")
    for _ in range(4):
        process = subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stderr is not None
        while line := process.stderr.readline():
            if "encoding on Ray" in line:
                break
        time.sleep(choose.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        ending = time.monotonic() + 30
        while (left := at_work(process.pid)) and time.monotonic() < ending:
            time.sleep(0.2)
        assert not left, "tasks end with the command; Ray's two agents, which are idle, within a minute"
        assert content(folder / "local/a") == before
        assert list(open_cache(folder / "local/a").verify())
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert open_cache(folder / "local/a").manifest.source["limit"] == 7000
    assert [path.name for path in (folder / "local").iterdir()] == ["a"]


def at_work(leader: int) -> list[str]:
    """The living processes of a session but for Ray's agents."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                os.getsid(int(folder.name)) == leader
                and "Z" not in (folder / "stat").read_text().rpartition(")")[2][:3]
            ):
                found.append((folder / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return [name for name in found if not name.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent"))]
