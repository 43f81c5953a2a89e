"""The benchmark for machines with a GPU runs through every stage on a CPU, in its short form."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import worker
from benchmarks.gpu.__main__ import STAGES, main
from benchmarks.gpu.cases import cases_of
from benchmarks.gpu.common import TINY, Place
from benchmarks.gpu.page import page
from benchmarks.timing import Json
from tests.helpers import ROOT
from tests.helpers.caches import write_cache
from tests.helpers.files import read_jsonl
from train.runtime.device import device_name


class WorkerHere:
    """Measures in this process, which has the slow imports behind it, what a `Worker` measures in one of its own."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.place = Place.read(command[-1])
        self.ready = {"device_name": device_name(self.place.device)}

    def ask(self, what: str, case: Json) -> Json:
        return worker.measure(self.place, what, case)

    def close(self) -> None:
        """There is nothing to end."""


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, pytest.param(True, marks=pytest.mark.faults)], ids=["once", "and again"])
@pytest.mark.filterwarnings("ignore")
def test_every_stage_is_measured_once_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], again: bool
) -> None:
    """A run again, as a program with a worker of its own, has nothing to do but to measure a lost record once more."""
    cache = write_cache(tmp_path / "cache", {"train": 120})
    out = tmp_path / "gpu.jsonl"
    options = ["--device", "cpu", "--quick", "--cache", str(cache.folder), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.gpu.__main__.Worker", WorkerHere)
        for name, size in (("num_hidden_layers", 1), ("vocab_size", cache.manifest.tokenizer.vocab_size)):
            patch.setitem(TINY, name, size)
        patch.setattr(sys, "argv", ["gpu", *options])
        main()
    assert "failed" not in capfd.readouterr().err
    text, records = out.read_text(), read_jsonl(out)
    assert list(dict.fromkeys(record["stage"] for record in records)) == list(STAGES)
    trained = [record for record in records if record["stage"] == "training"]
    assert {record["what"] for record in trained} == {"ours", "trainer"}
    assert all(record["result"]["tokens_per_second"] > 0 for record in trained)
    assert all(len(record["result"]["losses"]) == 4 for record in trained)
    padded = {record["case"]["strategy"]: record["result"]["padding"] for record in trained if record["what"] == "ours"}
    assert padded["fixed"] > padded["dynamic"] > padded["smart"] >= 0
    page = out.with_suffix(".md").read_text()
    for title in ("Correctness", "Feed", "Attention", "Training", "Peak memory", "Profile"):
        assert f"### {title}" in page
    assert "train run, dynamic, padding-free" in page
    if not again:
        return
    out.write_text(text[: text.rindex("\n", 0, -1) + 1])
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    found = read_jsonl(out)
    assert found[:-1] == records[:-1]
    assert found[-1]["case"] == records[-1]["case"]
    assert done.stderr.count("1/1") == 1


def test_an_unknown_stage_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--stage", "feed,fed"])
    with pytest.raises(
        SystemExit, match="no stage 'fed', expected some of correctness,feed,attention,training,memory,profile"
    ):
        main()


def test_a_lack_of_memory_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown in its line of the table, and other errors are not taken for it."""

    def lacking(place: Place, **case: Any) -> Json:
        raise torch.OutOfMemoryError("CUDA out of memory")

    place = Place(torch.device("cpu"), True, "")
    monkeypatch.setitem(worker.MEASURE, "ours", lacking)
    case = dict(cases_of("training", False)[0][1])
    result = worker.measure(place, "ours", case)
    assert result == {"out_of_memory": True}
    record = {"stage": "training", "what": "ours", "case": case, "result": result, "device_name": "GPU"}
    assert "out of memory |" in page([{**record, "date": "2026-01-01T00:00:00", "versions": {}}])
    monkeypatch.setitem(worker.MEASURE, "ours", lambda place, **case: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.measure(place, "ours", case)


def test_no_case_is_listed_twice() -> None:
    """Or a resumed stage would leave one of the two out."""
    for stage in STAGES[1:]:
        for quick in (False, True):
            cases = [json.dumps(case, sort_keys=True) for case in cases_of(stage, quick)]
            assert len(cases) == len(set(cases)), stage
