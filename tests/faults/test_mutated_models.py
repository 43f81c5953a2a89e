"""Model folders changed at random: each is refused with a typed error or works, and nothing outside it is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(folder: Path, first: int, count: int) -> dict[str, int]:
    """Use so many changed models in a process of its own; returns how many were refused and how many worked."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.helpers.mutated_models", str(folder), str(first), str(count)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


@pytest.mark.slow
def test_changed_models_are_refused_or_work(tmp_path: Path) -> None:
    """No pickle is read, no file outside the model's folder is opened, none is written anywhere."""
    counts = check(tmp_path, 0, 60)
    assert counts["refused"] + counts["worked"] == 60
    assert min(counts.values()) > 10


@pytest.mark.faults
def test_many_changed_models_are_refused_or_work(tmp_path: Path) -> None:
    counts = check(tmp_path, 0, 2000)
    print(f"changed models: {counts['refused']:,} refused, {counts['worked']:,} worked")
    assert counts["refused"] + counts["worked"] == 2000
