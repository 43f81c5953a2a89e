"""Choosing the best epoch on the validation split: what is exported, when training stops, and resuming."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import equal, tensor
from transformers import AutoModelForSequenceClassification

from cache import open_cache
from cache.console.text import counted
from cache.errors import CorruptCacheError, InputError
from tests.helpers.caches import write_cache
from tests.helpers.files import flip
from tests.helpers.models import write_model
from tests.helpers.runs import check_same_run, records, resume, resume_from_first_checkpoint, start, stopped_after
from train.compare.results import read_result
from train.loop.resolution import resolve_settings
from train.loop.step import OutOfMemoryError
from train.metrics.scores import is_better
from train.run import run_facts, start_run
from train.runtime.signals import Stopped
from train.settings import Settings

pytestmark = pytest.mark.slow

CURVES = {"rising": [0.1, 0.2, 0.3, 0.4], "falling": [0.4, 0.3, 0.2, 0.1], "hill": [0.1, 0.5, 0.5, 0.2]}
"""The accuracy after each of four epochs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache that has a validation and a test split, one with a test split alone, and a model."""
    folder = tmp_path_factory.mktemp("best")
    write_cache(folder / "both", {"train": 24, "validation": 16, "test": 8})
    write_cache(folder / "lone", {"train": 24, "test": 8})
    write_model(folder / "model")
    return folder


def settings(folder: Path, out: Path, cache: str = "both", **flags: Any) -> Settings:
    common = {"epochs": 4, "lr": 1e-3, "precision": "fp32", "device": "cpu", "keep_checkpoints": 1}
    return Settings(cache=str(folder / cache), model=str(folder / "model"), out=str(out), **{**common, **flags})


def patch_accuracy(patch: pytest.MonkeyPatch, values: list[float]) -> list[str]:
    """Let the evaluations of the validation split give these accuracies, one after the other; returns the names of the
    splits as they are evaluated."""
    from train.loop import callbacks

    own, evaluated = callbacks.evaluate, []

    def evaluate(model: Any, split: Any, *rest: Any) -> Any:
        scores = own(model, split, *rest)
        evaluated.append(split.name)
        if split.name == "validation" and scores is not None:
            accuracy = values[evaluated.count("validation") - 1]
            summary = {**scores.summary(), "accuracy": accuracy}
            object.__setattr__(scores, "summary", lambda: summary)
        return scores

    patch.setattr(callbacks, "evaluate", evaluate)
    return evaluated


def happen_in_evaluation(patch: pytest.MonkeyPatch, number: int, happen: Callable[[], object]) -> None:
    """Let something happen within an evaluation of the validation split, counted from 1."""
    from train.loop import callbacks

    own, begun = callbacks.evaluate, []

    def evaluate(*arguments: Any) -> Any:
        begun.append(arguments)
        if len(begun) == number:
            happen()
        return own(*arguments)

    patch.setattr(callbacks, "evaluate", evaluate)


@pytest.mark.parametrize(("curve", "best"), [("rising", 4), ("falling", 1), ("hill", 2)])
def test_the_exported_model_is_that_of_the_best_epoch(folder, tmp_path, monkeypatch, curve, best):
    """Of equal ones the first; its checkpoint stays beside the newest; the test split is evaluated once, at the end."""
    evaluated = patch_accuracy(monkeypatch, CURVES[curve])
    run = start(settings(folder, tmp_path / "run", keep_best="accuracy"))
    assert evaluated == ["validation"] * 4 + ["test"]
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == sorted({f"step-{3 * best:06d}", "step-000012"})
    exported = load_file(run / "model" / "model.safetensors")
    saved = load_file(run / "checkpoints" / f"step-{3 * best:06d}" / "model.safetensors")
    assert all(equal(exported[name], saved[name]) for name in exported)
    facts = run_facts(run)
    assert facts["best_epoch"] == best
    assert facts["test"]["split"] == "test"
    assert facts["test"]["rows"] == 8
    assert (records(run)[-1]["kind"], records(run)[-1]["epoch"]) == ("test", best)
    assert read_result(run).score == ("accuracy", facts["test"]["accuracy"])
    card = (run / "model" / "README.md").read_text()
    assert f"The model is that of epoch {best}, the best by `accuracy`." in card
    assert "On 8 of the 8 rows of split `test`, evaluated once at the end" in card


@pytest.mark.parametrize(
    ("curve", "patience", "epochs"), [("rising", 1, 4), ("falling", 1, 2), ("falling", 2, 3), ("hill", 1, 3)]
)
def test_training_stops_early_when_no_epoch_was_better_for_so_long(
    folder, tmp_path, monkeypatch, curve, patience, epochs
):
    patch_accuracy(monkeypatch, CURVES[curve])
    said: list[str] = []
    run = start_run(settings(folder, tmp_path / "run", early_stopping=patience), said.append, said.append)
    facts = run_facts(run)
    early = f"stopped    at step {3 * epochs} of 12, after {counted(patience, 'epoch')} without a new best"
    assert (early in said) == (epochs < 4)
    assert facts["settings"]["keep_best"] == "accuracy"
    assert facts["steps"] == 3 * epochs
    assert facts["best_epoch"] == {"rising": 4, "falling": 1, "hill": 2}[curve]


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_run_chooses_as_the_uninterrupted_one(folder, tmp_path, step):
    """Bit by bit, model and metrics; real evaluations."""
    flags = {"early_stopping": 1, "keep_best": "loss", "lr": 3e-2}
    whole = start(settings(folder, tmp_path / "whole", **flags))
    with stopped_after(step):
        start(settings(folder, tmp_path / "stopped", **flags))
    resume(tmp_path / "stopped")
    check_same_run(whole, tmp_path / "stopped")
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    resume_from_first_checkpoint(again)
    check_same_run(whole, again)


def test_evaluations_within_an_epoch_are_of_the_model_at_their_step_and_change_nothing_else(
    folder, tmp_path, monkeypatch
):
    """Every two steps of epochs of three; the best of all is exported, its scores are those of its checkpoint."""
    plain = start(settings(folder, tmp_path / "plain", epochs=2))
    patch_accuracy(monkeypatch, [0.1, 0.2, 0.9, 0.3])
    run = start(settings(folder, tmp_path / "run", epochs=2, eval_steps=2, keep_best="accuracy"))
    evaluations = records(run, "eval")
    assert [(record["step"], record["epoch"]) for record in evaluations] == [(2, 1), (3, 1), (4, 2), (6, 2)]
    for kind, rounding in (("epoch", 1e-6), ("eval", 0)):  # the loss of an epoch is the sum of more parts
        ours, theirs = ([r["loss"] for r in records(some, kind) if r["step"] in (3, 6)] for some in (run, plain))
        assert ours == pytest.approx(theirs, abs=rounding, rel=0)
        assert len(ours) == 2
    facts = run_facts(run)
    assert (facts["best_epoch"], facts["best_step"]) == (2, 4)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    model = AutoModelForSequenceClassification.from_pretrained(run / "model")
    split = open_cache(folder / "both")["validation"]
    losses = [
        model(input_ids=tensor([row.input_ids.tolist()]), labels=tensor([int(row.label)])).loss.item() for row in split
    ]
    assert evaluations[2]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    card = (run / "model" / "README.md").read_text()
    assert (
        "after each epoch and every 2 steps.\n\nThe model is that of epoch 2, step 4, the best by `accuracy`." in card
    )
    assert "\n|  | 4 |  | " in card


def test_a_run_stopped_within_an_evaluation_within_an_epoch_evaluates_when_it_goes_on(folder, tmp_path, monkeypatch):
    flags = {"epochs": 2, "eval_steps": 2, "keep_best": "loss", "save_steps": 1}
    whole = start(settings(folder, tmp_path / "whole", **flags))
    stopped = settings(folder, tmp_path / "stopped", **flags)
    with monkeypatch.context() as patch:
        happen_in_evaluation(patch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped):
            start(stopped)
    assert (tmp_path / "stopped" / "checkpoints" / "step-000004").is_dir()
    resume(tmp_path / "stopped")
    check_same_run(whole, tmp_path / "stopped")


@pytest.mark.parametrize(("number", "step"), [(2, 3), (3, 4)])
def test_an_evaluation_that_does_not_fit_saves_the_run_which_goes_on_with_fewer_rows(
    folder, tmp_path, monkeypatch, number, step
):
    """At the end of an epoch and within one; the weights are those of a run that had the memory."""

    def run_out() -> None:
        raise MemoryError

    whole, short = (settings(folder, tmp_path / name, epochs=2, eval_steps=2) for name in ("whole", "short"))
    with monkeypatch.context() as patch:
        happen_in_evaluation(patch, number, run_out)
        with pytest.raises(OutOfMemoryError, match=r"--resume .*short --eval-batch-size 16"):
            start(short)
    assert [path.name for path in (tmp_path / "short" / "checkpoints").iterdir()] == [f"step-{step:06d}"]
    run = resume(tmp_path / "short", eval_batch_size=16)
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (start(whole) / weights).read_bytes()


def test_a_run_that_ended_early_is_not_trained_on_by_resuming(folder, tmp_path, monkeypatch):
    """Killed between its last checkpoint and its summary."""
    patch_accuracy(monkeypatch, CURVES["falling"])
    run = start(settings(folder, tmp_path / "run", early_stopping=1))
    facts = run_facts(run)
    (run / "summary.json").unlink()
    resume(run)
    again = run_facts(run)
    assert (again["steps"], again["best_epoch"], again["test"]) == (facts["steps"], 1, facts["test"])


def test_a_damaged_checkpoint_of_the_best_epoch_is_an_error_and_not_another_model(folder, tmp_path, monkeypatch):
    patch_accuracy(monkeypatch, CURVES["falling"])
    run = start(settings(folder, tmp_path / "run", keep_best="accuracy"))
    (run / "summary.json").unlink()
    weights = run / "checkpoints" / "step-000003" / "model.safetensors"
    flip(weights, -1)
    with pytest.raises(CorruptCacheError, match=r"step-000003/model.safetensors: differs from its checksum"):
        resume(run)


def test_splits_are_those_a_user_expects(folder):
    """validation after each epoch and test at the end; without validation, test after each epoch and nothing more."""

    def resolved(cache: str, **flags: Any) -> tuple[Any, ...]:
        opened = open_cache(folder / cache)
        found = resolve_settings(settings(folder, folder / "none", cache, **flags), opened)[0]
        return found.eval_split, found.test_split, found.keep_best

    assert resolved("both") == ("validation", "test", None)
    assert resolved("lone") == ("test", "none", None)
    assert resolved("both", test_split="none") == ("validation", "none", None)
    assert resolved("both", eval_split="none") == ("none", "none", None)
    assert resolved("both", eval_split="train", keep_best="auto") == ("train", "test", "accuracy")
    assert resolved("lone", task="mlm", early_stopping=2) == ("test", "none", "perplexity")
    with pytest.raises(
        InputError, match="--keep-best bleu: no score of this task; expected one of loss, accuracy, f1, m"
    ):
        resolved("both", keep_best="bleu")
    with pytest.raises(InputError, match="--early-stopping needs evaluations, but there is no split"):
        resolved("both", early_stopping=1, eval_split="none")
    with pytest.raises(InputError, match="--eval-steps needs evaluations"):
        resolved("both", eval_steps=1, eval_split="none")


@pytest.mark.parametrize("names", [("dev", "test"), ("validation_mismatched", "validation_matched")])
def test_other_names_of_validation_are_evaluated_too(folder, tmp_path, names):
    """Those of a dataset that is read with its own names, as MNLI is."""
    cache = write_cache(tmp_path / "named", {"train": 24, **dict.fromkeys(names, 8)})
    given = Settings(cache=str(cache.folder), model=str(folder / "model"), device="cpu")
    expected = {"dev": ("dev", "test"), "validation_mismatched": ("validation_matched", "none")}[names[0]]
    found = resolve_settings(given, cache)[0]
    assert (found.eval_split, found.test_split) == expected


def test_a_cache_of_one_class_is_refused_but_for_masked_language_modelling(folder, tmp_path):
    """transformers takes a classifier of one class for a regression, which eval and predict would then refuse."""
    cache = write_cache(tmp_path / "one", {"train": 24, "test": 8}, classes=("same",))
    given = Settings(cache=str(cache.folder), model=str(folder / "model"), device="cpu")
    with pytest.raises(InputError, match="has only the class 'same', and a classifier needs at least two"):
        resolve_settings(given, cache)
    assert resolve_settings(replace(given, task="mlm"), cache)[0].task == "mlm"


def test_skipped_updates_are_refused_where_torch_makes_them(folder, tmp_path, monkeypatch):
    """As on MPS in older releases, whose fused optimizer takes no notice of `found_inf`."""
    for flags in ({"on_nonfinite": "skip"}, {"precision": "fp16"}):
        given = settings(folder, tmp_path / "none", **flags)
        opened = open_cache(given.cache)
        assert resolve_settings(given, opened)[0].on_nonfinite == given.on_nonfinite
        with monkeypatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", lambda self: self.param_groups[0]["params"][0].data.zero_())
            with pytest.raises(InputError, match=r"(skip|fp16): torch .* cannot skip updates on cpu"):
                resolve_settings(given, opened)
            resolve_settings(replace(given, on_nonfinite="stop", precision="fp32"), opened)


def test_which_score_is_better():
    assert is_better("loss", 0.1, 0.2)
    assert not is_better("accuracy", 0.1, 0.2)
    assert is_better("accuracy", 0.1, None)
    assert not is_better("accuracy", None, None)
    assert not is_better("perplexity", 2.0, 2.0)


def test_choosing_on_the_test_split_is_said(folder, tmp_path):
    heard: list[str] = []
    start_run(settings(folder, tmp_path / "run", "lone", keep_best="accuracy", epochs=1), heard.append, heard.append)
    assert any("best       epoch 1, by accuracy on test; exported" in line for line in heard)
    assert any("the test rows chose the epoch; see prep build --validation" in line for line in heard)
