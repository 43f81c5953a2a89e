"""Training in fp16: a loss scale as that of `torch.amp.GradScaler`, skipped steps, resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cache.errors import MismatchError
from tests.helpers import runs
from tests.helpers.caches import write_cache
from tests.helpers.hostile import at, resealed
from tests.helpers.models import write_model
from tests.helpers.runs import check_same_run, quiet, records, resume, stopped_after
from train.loop import loss_scale
from train.loop.loss_scale import START, LossScale
from train.loop.state import Meter
from train.run import resume_run, run_facts

CPU = torch.device("cpu")


def test_the_scale_follows_overflows_as_gradscaler_s_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halved by one, doubled after so many steps without; gradients are what they were before the loss was scaled."""
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    ours, theirs = LossScale(CPU), torch.amp.GradScaler("cpu", growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    scales = set()
    for overflows in (0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1):
        theirs.scale((weight * (torch.inf if overflows else 3.0)).sum()).backward()
        assert weight.grad is not None
        norm = (weight.grad / ours.value).norm()
        theirs.unscale_(optimizer)
        assert torch.equal(norm, weight.grad.norm())
        theirs.update()
        optimizer.zero_grad()
        assert bool(ours.adapt(norm)) == bool(overflows)
        assert ours.to_json() == {"value": theirs.get_scale(), "steps": theirs.state_dict()["_growth_tracker"]}
        scales.add(theirs.get_scale())
    assert min(scales) < START < max(scales)


@pytest.mark.parametrize("value", [2.0, 1.0])
def test_an_overflow_is_excused_as_long_as_a_smaller_scale_may_help(value: float) -> None:
    """Both steps are skipped; by 1 the gradients are not finite of themselves, which ends a run."""
    scale, meter = LossScale(CPU), Meter(CPU)
    scale.set(value, 0)
    meter.step_weight, meter.step_loss = 4, torch.tensor(2.0)
    norm = torch.tensor(torch.inf)
    overflow = scale.adapt(norm)
    assert (bool(overflow), bool(meter.close_step(0, norm, overflow))) == (
        (True, False) if value > 1 else (False, True)
    )
    sums, _, bad_step = meter.read()
    assert (sums.skipped_steps, sums.loss, bad_step) == ((1, 2.0, -1) if value > 1 else (1, 0.0, 0))


# --- runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_cache(folder / "toy", {"train": 40, "test": 10})
    write_model(folder / "model")
    return folder


@pytest.fixture
def begin(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains ten steps with a scale that overflows at first and doubles every second step."""
    monkeypatch.setattr(loss_scale, "START", 2.0**24)
    monkeypatch.setattr(loss_scale, "INTERVAL", 2)

    def begin(out: Path, **flags: Any) -> Path:
        given = {"epochs": 1, "batch_size": 4, "lr": 1e-3, "logging_steps": 1, "device": "cpu", "precision": "fp16"}
        return runs.begin(place / "toy", place / "model", out, **{**given, **flags})

    return begin


@pytest.mark.slow
@pytest.mark.parametrize("padding_free", [False, True])
def test_a_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, begin: Callable[..., Path], padding_free: bool
) -> None:
    """Bit by bit, the scale included; its first steps overflow, are skipped and counted, and do not end it."""
    whole = begin(tmp_path / "whole", padding_free=padding_free)
    skipped = [record.get("skipped_updates", 0) for record in records(whole, "step")]
    assert skipped[0] == 1
    assert 0 in skipped
    assert run_facts(whole)["skipped_updates"] == sum(skipped)
    assert records(whole)[-1]["loss"] < 1
    with stopped_after(5):
        begin(tmp_path / "stopped", padding_free=padding_free)
    resume(tmp_path / "stopped")
    check_same_run(tmp_path / "stopped", whole)


@pytest.mark.slow
def test_a_checkpoint_without_a_scale_that_fits_is_refused(tmp_path: Path, begin: Callable[..., Path]) -> None:
    """Though its checksums fit: of no scale a run in fp16 cannot go on, and any other value is damage."""
    with stopped_after(3):
        begin(tmp_path / "stopped")
    for number, scale in enumerate((None, {"value": -1.0, "steps": 0}, {"value": "2", "steps": 0}, {"value": 2.0})):
        run = Path(shutil.copytree(tmp_path / "stopped", tmp_path / str(number)))
        path = run / "checkpoints" / "step-000003" / "state.json"
        assert json.loads(path.read_text())["loss_scale"]["value"] < 2.0**24
        resealed(path, at("loss_scale", value=scale) if scale else lambda state: state.pop("loss_scale"))
        if scale is None:
            with pytest.raises(MismatchError, match="it holds no loss scale"):
                resume(run)
            continue
        warnings: list[str] = []
        resume_run(run, {}, quiet, warnings.append, True)
        assert any("state.json" in warning and "going back" in warning for warning in warnings), warnings
