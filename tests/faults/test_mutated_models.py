"""Model folders changed at random: each is refused with a typed error or works, and nothing outside it is touched."""

import json
from pathlib import Path

import pytest

from ..helpers import mutated_models
from ..helpers.children import call, ended


def check(folder: Path, first: int, count: int) -> dict[str, int]:
    """Use so many changed models in a process of its own; returns how many were refused and how many worked."""
    (folder / "work").mkdir()
    process = call(folder, mutated_models.main, folder / "work", first, count)
    assert ended(process, 3600) == 0, (folder / "err.txt").read_text()[-4000:]
    counts: dict[str, int] = json.loads((folder / "out.txt").read_text().splitlines()[-1])
    return counts


@pytest.mark.slow
def test_changed_models_are_refused_or_work(tmp_path: Path) -> None:
    """No pickle is read, no file outside the model's folder is opened, none is written anywhere."""
    counts = check(tmp_path, 0, 40)
    assert counts["refused"] + counts["worked"] == 40
    assert min(counts.values()) > 6


@pytest.mark.faults
def test_many_changed_models_are_refused_or_work(tmp_path: Path) -> None:
    counts = check(tmp_path, 0, 2000)
    print(f"changed models: {counts['refused']:,} refused, {counts['worked']:,} worked")
    assert counts["refused"] + counts["worked"] == 2000
