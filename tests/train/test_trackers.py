"""TensorBoard and Weights & Biases: what they are given, over a resume too, and a run in which they fail."""

import ast
import importlib.util
import json
import shutil
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from cache.common.folder import Folder
from cache.errors import InputError, LengthwiseError
from tests.helpers.caches import write_cache
from tests.helpers.models import write_model
from tests.helpers.runs import resume, stopped_after
from tests.helpers.wandb_files import read_history
from tests.test_imports import ROOT, at_load, imported
from train.run import resume_run, start_run
from train.run_folder.records import joined_records, read_records
from train.settings import Settings

pytestmark = pytest.mark.slow

STEPS = 18  # 9 an epoch
FLAGS = {
    "epochs": 2,
    "lr": 1e-3,
    "save_steps": 4,
    "logging_steps": 2,
    "keep_checkpoints": 9,
    "precision": "fp32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache, a model, and the run `plain`, which no tracker watched."""
    folder = tmp_path_factory.mktemp("tracked")
    write_cache(folder / "toy", {"train": 70, "test": 20})
    write_model(folder / "model")
    begin(folder, "plain")
    return folder


def begin(folder: Path, out: str, warn: Callable[[str], None] = print, say: Any = print, **flags: Any) -> Path:
    settings = Settings(str(folder / "toy"), str(folder / "model"), str(folder / out), **{**FLAGS, **flags})
    return start_run(settings, say, warn)


def numbers(run: Path) -> dict[str, dict[int, float]]:
    """Curves by name, step to value, as the records of a run tell them."""
    found: dict[str, dict[int, float]] = {}
    for record in joined_records(*(read_records(Folder.open(run), f"{name}.jsonl") for name in ("metrics", "timing"))):
        group = {"step": "train", "epoch": "epoch", "eval": "eval"}[record["kind"]]
        values = {name: value for name, value in record.items() if name not in ("kind", "step", "epoch", "split")}
        if "padded_tokens" in values:
            values["padding"] = values["padded_tokens"] / values["real_tokens"] - 1
        for name, value in values.items():
            found.setdefault(f"{group}/{name}", {})[record["step"]] = value
    return found


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Curves by name, step to value, as TensorBoard shows them; a point that is there twice is an error."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert all(len(dict(points)) == len(points) for points in found.values())
    return {name: dict(points) for name, points in found.items()}


def assert_equal_curves(found: dict[str, dict[int, float]], expected: dict[str, dict[int, float]]) -> None:
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert found[name] == pytest.approx(points, rel=1e-6), name  # events hold 32 bits a number


def test_no_tracker_is_imported_unless_it_is_asked_for() -> None:
    for path in sorted((ROOT / "train").rglob("*.py")):
        assert not imported(at_load(ast.parse(path.read_text()))) & {"wandb", "tensorboard"}
    trackers = (ROOT / "train" / "run_folder" / "trackers.py").read_text()
    assert "torch.utils.tensorboard" not in trackers.split("class TensorBoard")[0]


def test_tensorboard_shows_every_number_of_the_records_at_its_step(place: Path) -> None:
    run = begin(place, "shown", tensorboard="auto")
    found = curves(run / "tensorboard")
    assert_equal_curves(found, numbers(run))
    assert set(found["train/loss"]) == {2, 4, 6, 8, 9, 10, 12, 14, 16, 18}
    assert set(found["eval/accuracy"]) == {9, 18}
    assert {"train/learning_rate", "train/grad_norm", "train/tokens_per_second", "train/padding"} <= found.keys()
    assert (run / "metrics.jsonl").read_bytes() == (place / "plain" / "metrics.jsonl").read_bytes()


def test_tensorboard_has_the_settings(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = begin(place, "settings", tensorboard="auto", max_steps=2)
    contents = EventAccumulator(str(run / "tensorboard")).Reload().PluginTagToContent("hparams")
    data = HParamsPluginData.FromString(contents["_hparams_/session_start_info"])
    facts = data.session_start_info.hparams
    assert facts["lr"].number_value == 1e-3
    assert facts["strategy"].string_value == "smart"
    assert (
        facts["cache_fingerprint"].string_value == json.loads((run / "settings.json").read_text())["cache_fingerprint"]
    )


def test_curves_go_on_after_a_resume_without_the_points_that_were_lost(place: Path) -> None:
    """Stopped at step 7, but its last checkpoint is lost: what was shown of the steps after 4 is shown once."""
    with stopped_after(7):
        begin(place, "stopped", tensorboard=str(place / "curves"))
    run = place / "stopped"
    assert set(curves(place / "curves" / "stopped")["train/loss"]) == {2, 4, 6}
    shutil.rmtree(run / "checkpoints" / "step-000007")
    resume(run)
    assert_equal_curves(curves(place / "curves" / "stopped"), numbers(run))
    assert (run / "metrics.jsonl").read_bytes() == (place / "plain" / "metrics.jsonl").read_bytes()


def test_a_tracker_first_asked_for_on_resume_is_told_what_was_before(place: Path) -> None:
    with stopped_after(10):
        begin(place, "later")
    resume(place / "later", tensorboard="auto")
    assert_equal_curves(curves(place / "later" / "tensorboard"), numbers(place / "later"))


def test_a_resumed_run_can_do_without_its_tracker(place: Path) -> None:
    with stopped_after(4):
        begin(place, "without", tensorboard="auto")
    resume(place / "without", tensorboard="none")
    assert max(curves(place / "without" / "tensorboard")["train/loss"]) == 4


def test_the_curves_of_another_run_are_not_mixed_in(place: Path) -> None:
    begin(place, "one/same", tensorboard=str(place / "mixed"), max_steps=2)
    with pytest.raises(InputError, match="holds the curves of another run; pass another --tensorboard DIR"):
        begin(place, "two/same", tensorboard=str(place / "mixed"), max_steps=2)
    assert not (place / "two" / "same").exists()


@pytest.mark.parametrize("moment", ["train/loss", "eval/loss"])
def test_a_tracker_that_fails_is_dropped_with_one_warning_and_the_run_is_the_same(
    place: Path, monkeypatch: Any, moment: str
) -> None:
    """Not loudly: the run goes on. Not silently: a warning at once, though no report is wanted, and the report."""
    from torch.utils.tensorboard import SummaryWriter

    add, calls = SummaryWriter.add_scalar, []

    def failing(self: Any, name: str, value: float, step: int) -> None:
        add(self, name, value, step)
        calls.append(step)
        if name == moment and step == (6 if moment == "train/loss" else 9):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", failing)
    warned: list[str] = []
    said: list[str] = []
    run = begin(place, f"failing-{moment[0]}", warned.append, said.append, tensorboard="auto")
    step = 4 if moment == "train/loss" else 9
    (warning,) = (line for line in warned if "tensorboard" in line)
    assert warning.startswith(f"warning: --tensorboard failed after step {step} and receives no more records: OSErr")
    assert "No space left on device; training goes on, and its records are in metrics.jsonl all the same" in warning
    assert any(line.startswith(f"tensorboard incomplete: it failed after step {step};") for line in said)
    assert max(calls) == (6 if moment == "train/loss" else 9)
    assert (run / "metrics.jsonl").read_bytes() == (place / "plain" / "metrics.jsonl").read_bytes()
    assert (run / "summary.json").exists()


def test_a_tracker_that_cannot_be_opened_refuses_a_new_run_and_leaves_nothing(place: Path) -> None:
    (place / "file").write_text("in the way")
    with pytest.raises(LengthwiseError, match=r"--tensorboard could not be opened .*; nothing was trained"):
        begin(place, "unopened", tensorboard=str(place / "file"))
    assert not (place / "unopened").exists()


def test_a_tracker_that_cannot_be_opened_does_not_hold_up_a_resume(place: Path) -> None:
    with stopped_after(4):
        begin(place, "held-up")
    (place / "another").write_text("in the way")
    warned: list[str] = []
    resume_run(place / "held-up", {"tensorboard": str(place / "another")}, print, warned.append)
    assert any(line.startswith("warning: --tensorboard failed after step 4") for line in warned)
    assert (place / "held-up" / "summary.json").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(
    place: Path, monkeypatch: Any, name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else find(asked))
    with pytest.raises(InputError, match=rf"--{name} needs .* `pip install 'lengthwise\[{name}\]'`"):
        begin(place, "missing", **{name: "auto"})
    assert not (place / "missing").exists()


class FakeWandb(types.ModuleType):
    """What is used of wandb, kept in lists; a second `init` with the same id goes on where the first one ended."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None, origin="fake")
        self.begun: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.codes: list[int] = []

    def init(self, **given: Any) -> "FakeWandb":
        self.begun.append(given)
        return self

    def Settings(self, **given: Any) -> dict[str, Any]:  # noqa: N802
        return given

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    @property
    def step(self) -> int:
        return self.rows[-1][0] + 1 if self.rows else 0

    def log(self, values: dict[str, float], step: int) -> None:
        assert step >= self.step
        self.rows.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def by_name(rows: list[dict[str, float]]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        step = int(row["step"])
        for name in row.keys() - {"step"}:
            assert step not in found.setdefault(name, {})
            found[name][step] = row[name]
    return found


def test_wandb_gets_one_run_over_a_resume(place: Path, wandb: FakeWandb) -> None:
    """The id is kept in the run folder; records that the server has already are not sent again."""
    with stopped_after(7):
        begin(place, "fake", wandb="auto")
    run = place / "fake"
    shutil.rmtree(run / "checkpoints" / "step-000007")
    resume(run)
    first, second = wandb.begun
    assert first["id"] == second["id"] == json.loads((run / "wandb.json").read_text())["id"]
    assert (first["project"], first["resume"], first["name"], first["dir"]) == ("lengthwise", "allow", "fake", str(run))
    assert first["config"]["lr"] == 1e-3
    assert wandb.codes == [1, 0]
    expected = numbers(run)
    found = by_name([row for _, row in wandb.rows])
    timed = [name for name in expected if "second" in name or "memory" in name]  # sent before the interruption
    assert {name: found[name] for name in found if name not in timed} == {
        name: expected[name] for name in expected if name not in timed
    }
    assert found.keys() == expected.keys()


def test_wandb_takes_the_project_from_the_flag_or_the_environment(
    place: Path, monkeypatch: Any, wandb: FakeWandb
) -> None:
    begin(place, "project-1", wandb="films", max_steps=1)
    monkeypatch.setenv("WANDB_PROJECT", "books")
    begin(place, "project-2", wandb="auto", max_steps=1)
    assert [given["project"] for given in wandb.begun] == ["films", "books"]
    assert wandb.begun[0]["id"] != wandb.begun[1]["id"]


def test_the_real_wandb_keeps_the_run_offline(place: Path, monkeypatch: Any) -> None:
    """With WANDB_MODE=offline, over a resume; skipped where wandb is not installed."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with stopped_after(10):
        begin(place, "real", wandb="films")
    run = place / "real"
    resume(run)
    number = json.loads((run / "wandb.json").read_text())["id"]
    files = sorted((run / "wandb").glob(f"offline-run-*-{number}*/run-{number}.wandb"))
    assert len(files) == 2
    assert_equal_curves(by_name([row for file in files for row in read_history(file)]), numbers(run))
    assert (run / "metrics.jsonl").read_bytes() == (place / "plain" / "metrics.jsonl").read_bytes()
