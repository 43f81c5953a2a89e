"""Runs that are stopped, killed, damaged, and go on."""

import itertools
import json
import random
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache import open_cache
from cache.common.folder import Folder
from cache.errors import InputError, MismatchError, StorageError
from cache.format.checksummed_json import seal
from cache.format.tasks import MLM, TOKENS
from tests.helpers import runs
from tests.helpers.caches import write_cache
from tests.helpers.children import ended, kill_in_second_checkpoint, spawn, wait_for_lines
from tests.helpers.files import edit_json, flip
from tests.helpers.hostile import resealed
from tests.helpers.models import IDS, write_model
from tests.helpers.runs import check_same_run, quiet, resume, resume_from_first_checkpoint, stopped_after
from train.forward.losses import ONE_CLASS
from train.loop.checkpoints import checkpoints as checkpoint_names
from train.loop.checkpoints import newest_checkpoint
from train.resume import resumed_settings
from train.run import resume_run
from train.run_folder.folder import RunInfo, open_run, read_run
from train.runtime.signals import Stopped
from train.settings import Settings

pytestmark = pytest.mark.slow

# 9 steps an epoch; accumulation 2, dropout (the model's own 0.1), an evaluation after each epoch
STEPS = 18
FLAGS = {
    "epochs": 2,
    "gradient_accumulation_steps": 2,
    "lr": 1e-3,
    "save_steps": 4,
    "logging_steps": 3,
    "keep_checkpoints": 99,
    "precision": "fp32",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a cache, a model and one uninterrupted run, `whole`."""
    folder = tmp_path_factory.mktemp("runs")
    write_cache(folder / "toy", {"train": 70, "test": 20})
    write_cache(folder / "other", {"train": 70, "test": 20}, seed=1)
    write_model(folder / "model")
    begin(folder, "whole")
    return folder


def begin(folder: Path, out: str, **flags) -> Path:
    return runs.begin(folder / "toy", **{"model": folder / "model", "out": folder / out, **FLAGS, **flags})


def arguments(out: str, *more: str, **flags) -> list[str]:
    values = {"cache": "toy", "model": "model", "out": out, **FLAGS, **flags}
    pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in values.items()]
    return ["run", *(word for pair in pairs for word in pair), *more]


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, newest first; none before the folder is made."""
    return [folder / name for name in checkpoint_names(Folder.open(folder))] if folder.exists() else []


def result(run: Path) -> dict[str, bytes]:
    """Everything of a run that must not differ between two equal runs."""
    last = checkpoints(run / "checkpoints")[0]
    assert last.name == f"step-{STEPS:06d}"
    files = [last / name for name in ("model.safetensors", "optimizer.safetensors", "random.safetensors")]
    files += [run / "metrics.jsonl", run / "model" / "model.safetensors"]
    return {path.name if path.parent == last else str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.parametrize("step", [1, 8, 9, 17, *(pytest.param(step, marks=pytest.mark.faults) for step in (4, 10))])
def test_a_run_stopped_at_any_step_and_resumed_equals_the_uninterrupted_one_bit_by_bit(place, step):
    """Weights, optimizer, random state, metrics; CPU, fp32, dropout on, accumulation 2, evaluation in between."""
    with stopped_after(step):
        begin(place, f"stopped-{step}")
    run = place / f"stopped-{step}"
    assert checkpoints(run / "checkpoints")[0].name == f"step-{step:06d}"
    assert result(resume(run)) == result(place / "whole")


def test_speeds_after_a_resume_are_of_the_steps_that_its_process_did(place):
    """A run logs every 3 steps and is resumed after the second: the rate of the next record is over the third alone,
    while its counts are over all three."""
    with stopped_after(2):
        begin(place, "speeds", pooled_only=False)
    run = resume(place / "speeds")
    counts, times = (json.loads((run / name).read_text().splitlines()[0]) for name in ("metrics.jsonl", "timing.jsonl"))
    split = open_cache(place / "toy")["train"]
    plan = split.plan(split.default_spec(), 0)
    tokens = [int(split.lengths[plan.rows[a:b]].sum()) for a, b in itertools.pairwise(plan.batch_offsets)]
    assert counts["step"] == 3
    assert counts["real_tokens"] == sum(tokens[:3])
    assert times["tokens_per_second"] * times["seconds"] == pytest.approx(tokens[2])
    share = times["model_tflops_per_second"] * 1e12 * times["seconds"] / counts["model_flops"]
    assert share == pytest.approx(tokens[2] / sum(tokens[:3]), rel=0.2)  # the rest is attention


def test_two_equal_runs_are_equal_bit_by_bit_and_another_seed_is_not(place):
    assert result(begin(place, "again")) == result(place / "whole")
    other = result(begin(place, "seed", seed=1))
    assert other["metrics.jsonl"] != result(place / "whole")["metrics.jsonl"]


def kill_and_resume(place: Path, out: str, kills: int, seed: int) -> Path:
    """Kill a training `kills` times, each when it has some random number of records, and let it end."""
    generator = random.Random(seed)
    run, killed = place / out, 0
    first = arguments(out, logging_steps=1, save_steps=2, keep_checkpoints=2)
    while killed < kills:
        command = ["run", "--resume", out] if (run / "settings.json").exists() else first
        process = spawn(place, *command)
        wait_for_lines(run / "metrics.jsonl", generator.randrange(STEPS), process)
        process.kill()
        code = ended(process)
        killed += code == -signal.SIGKILL
        assert code in (-signal.SIGKILL, 0), (place / "err.txt").read_text()
        if code == 0 or not (run / "settings.json").exists():
            shutil.rmtree(run, ignore_errors=True)  # too late to kill it, or before it began: from the start
    command = ["run", "--resume", out] if run.exists() else first
    assert ended(spawn(place, *command)) == 0, (place / "err.txt").read_text()
    return run


@pytest.mark.parametrize(
    ("kills", "seed"),
    [pytest.param(2, 0, id="2"), *(pytest.param(4, n, id=f"20-{n}", marks=pytest.mark.faults) for n in range(1, 6))],
)
def test_a_training_killed_at_random_moments_ends_as_if_it_had_not_been(place, kills, seed):
    """SIGKILL to real processes; what is left is resumed until it ends."""
    if not (place / "dense").exists():
        begin(place, "dense", logging_steps=1, save_steps=2, keep_checkpoints=2)
    run = kill_and_resume(place, f"killed-{seed}", kills, seed)
    print(f"{kills} kills")
    assert result(run) == result(place / "dense")
    assert len(checkpoints(run / "checkpoints")) == 2
    assert not list(run.rglob(".*"))


def test_killed_while_a_checkpoint_is_written_the_previous_one_is_used(place):
    process = spawn(place, *arguments("torn"), prepare=kill_in_second_checkpoint)
    assert ended(process) == -signal.SIGKILL
    run = place / "torn"
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-000004"]
    said = []
    resume_run(run, {}, said.append, said.append)
    assert "at step 4 of 18" in said[0]
    assert result(run) == result(place / "whole")


def test_a_run_that_a_full_disk_stops_says_how_to_go_on(place, monkeypatch):
    def full(*_):
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("train.loop.callbacks.save_checkpoint", full)
        with pytest.raises(StorageError, match="no space left; once that is mended, go on with: train run --resume"):
            begin(place, "full", max_steps=1, eval_split="none")
    resume(place / "full")
    assert (place / "full" / "summary.json").is_file()


def test_a_run_whose_scores_are_not_finite_is_finished_and_its_checkpoint_read(place):
    """A learning rate that ruins the model, and every update after it skipped."""
    run = begin(place, "ruined", max_steps=3, lr=1e18, max_grad_norm=0.0, on_nonfinite="skip")
    (run / "summary.json").unlink()
    resume(run)
    assert json.loads((run / "summary.json").read_text())["scores"]["loss"] is None


@pytest.fixture(scope="module")
def stopped_at_10(place):
    """A run stopped at step 10."""
    with stopped_after(10):
        begin(place, "stopped")
    return place / "stopped"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(place, stopped_at_10, name):
    run = shutil.copytree(stopped_at_10, place / f"damaged-{name}")
    damaged = run / "checkpoints" / "step-000010" / name
    flip(damaged, damaged.stat().st_size // 2)
    said = []
    resume_run(run, {}, quiet, said.append)
    assert any("going back" in line for line in said)
    assert result(run) == result(place / "whole")


def test_resuming_a_finished_run_says_so_and_changes_nothing(place):
    before = result(place / "whole")
    said = []
    resume_run(place / "whole", {}, said.append, said.append)
    assert "is finished; evaluate it" in said[0]
    assert result(place / "whole") == before


def test_a_new_head_that_shares_its_weights_with_the_encoder_is_resumed(place):
    """CamemBERT's checkpoints hold the shared matrix under the name it has in the head."""
    model = write_model(place / "camembert", kind="camembert", **IDS)
    run = begin(place, "adapted", model=model, task="mlm", new_head=True, max_steps=2, save_steps=1, eval_split="none")
    shutil.copytree(run, place / "adapted-again")
    resume_from_first_checkpoint(place / "adapted-again")
    check_same_run(run, place / "adapted-again")


def test_a_run_killed_between_its_last_checkpoint_and_its_model_is_finished_by_resume(place):
    shutil.copytree(place / "whole", place / "unsaved")
    (place / "unsaved" / "summary.json").unlink()
    shutil.rmtree(place / "unsaved" / "model")
    resume(place / "unsaved")
    assert result(place / "unsaved") == result(place / "whole")
    scores = [json.loads((place / run / "summary.json").read_text())["scores"] for run in ("unsaved", "whole")]
    assert scores[0] == scores[1] is not None


def test_flags_that_contradict_the_run_are_refused_all_at_once(stopped_at_10):
    given = {"lr": 1.0, "seed": 5, "batch_size": 4, "precision": "bf16", "epochs": 2, "keep_checkpoints": 1, "out": "b"}
    with pytest.raises(MismatchError) as error:
        resume(stopped_at_10, **given)
    text = str(error.value)
    for line in (
        "--lr is 0.001 in the run, 1.0 was given",
        "--seed is 321 in the run, 5 was given",
        "--batch-size is 8 in the run, 4 was given",
        "--precision is fp32 in the run, bf16 was given",
        f"--out is b, but a run is resumed in its own folder, {stopped_at_10}",
    ):
        assert line in text
    assert "--epochs" not in text
    assert "--keep-checkpoints" not in text


def test_the_same_settings_spelled_otherwise_are_no_contradiction(stopped_at_10, place, tmp_path, monkeypatch):
    """A relative path of the model, `auto` where the run found out the same."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("train.runtime.device.native_bf16", lambda device: False)
    shutil.copytree(stopped_at_10, tmp_path / "same")
    out = str(tmp_path / "x" / ".." / "same")
    given = {"model": "model", "precision": "auto", "cache": "toy", "lr": 1e-3, "device": "auto", "out": out}
    resume(tmp_path / "same", **given)
    assert result(tmp_path / "same") == result(place / "whole")


def test_automatic_precision_is_that_of_the_runs_device(stopped_at_10, monkeypatch):
    """Not of an accelerator that the machine has besides."""
    with open_run(stopped_at_10) as run:
        info = read_run(run)
    monkeypatch.setattr("train.runtime.device.native_bf16", lambda device: device.type != "cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("mps"))
    assert resumed_settings(stopped_at_10, info, {"precision": "auto"}).precision == "fp32"


@pytest.mark.parametrize(
    ("task", "metric", "main"),
    [("classification", "", "accuracy"), ("classification", "Matthews", "matthews"), (TOKENS, "", "entity_f1"),
     (TOKENS, "", "accuracy"), ("regression", "", "spearman"), ("multi-label", "", "f1_micro"),
     (MLM, "", "perplexity")],
)  # fmt: skip
def test_a_bare_keep_best_and_a_file_of_class_weights_are_compared_by_what_they_stand_for(tmp_path, task, metric, main):
    weights = tmp_path / "weights.json"
    weights.write_text('{"b": 2, "a": 1}')
    settings = Settings(
        cache="c", task=task, keep_best=main, class_weights='{"a": 1.0, "b": 2.0}' if task in ONE_CLASS else None
    )
    info = RunInfo(settings, "c", "0" * 64, "0" * 64, 48, 1, {"device": "CPU"}, metric)
    given = {"keep_best": "auto"} | ({"class_weights": str(weights)} if task in ONE_CLASS else {})
    assert resumed_settings(tmp_path, info, given) == settings
    with pytest.raises(MismatchError, match="--keep-best is loss in the run"):
        resumed_settings(tmp_path, replace(info, settings=replace(settings, keep_best="loss")), given)
    weights.write_text('{"b": 2, "a": 2}')
    if task in ONE_CLASS:
        with pytest.raises(MismatchError, match="--class-weights is"):
            resumed_settings(tmp_path, info, given)


def test_another_cache_is_refused_by_its_fingerprint(stopped_at_10, place):
    with pytest.raises(MismatchError, match=r"has the fingerprint .*, the run was made with"):
        resume(stopped_at_10, cache=str(place / "other"))


def test_a_model_whose_files_changed_is_refused(stopped_at_10, place, tmp_path):
    kept = place / "model" / "config.json"
    content = kept.read_bytes()
    edit_json(kept, hidden_dropout_prob=0.2)
    try:
        with pytest.raises(MismatchError, match="its files are no longer those the run started from"):
            resume(stopped_at_10)
    finally:
        kept.write_bytes(content)


def with_other_settings(run, copied, **changes):
    """The copy of a run whose settings.json somebody else wrote."""
    shutil.copytree(run, copied)
    resealed(copied / "settings.json", lambda content: content["settings"].update(changes))
    return copied


def test_a_checkpoint_copied_from_another_run_is_refused(stopped_at_10, place, tmp_path):
    run = with_other_settings(stopped_at_10, tmp_path / "mixed", lr=0.5)
    with pytest.raises(MismatchError, match="belongs to another run"):
        resume(run)


@pytest.mark.parametrize("weights", ["x", "{}", "[1]", '{"a": 1}'])
def test_class_weights_that_somebody_else_wrote_are_checked(stopped_at_10, tmp_path, weights):
    run = with_other_settings(stopped_at_10, tmp_path / "made up", class_weights=weights)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="--class-weights"):
        resume(run)


def test_a_cut_metrics_file_is_set_aside_and_the_run_finishes(stopped_at_10, place, tmp_path):
    run = tmp_path / "cut"
    shutil.copytree(stopped_at_10, run)
    (run / "metrics.jsonl").write_bytes(b"cut")
    said = []
    resume_run(run, {}, quiet, said.append, quiet=True)
    assert "metrics.jsonl.damaged-1" in said[0]
    assert (run / "metrics.jsonl.damaged-1").read_bytes() == b"cut"
    assert {**result(run), "metrics.jsonl": b""} == {**result(place / "whole"), "metrics.jsonl": b""}


def test_another_environment_is_warned_of(stopped_at_10, tmp_path, monkeypatch):
    shutil.copytree(stopped_at_10, tmp_path / "elsewhere")
    monkeypatch.setattr("train.loop.setup.transformers.__version__", "9.9")
    monkeypatch.setattr("train.run.check_memory", lambda setup, state: signal.raise_signal(signal.SIGTERM))
    said = []
    with pytest.raises(Stopped):
        resume_run(tmp_path / "elsewhere", {}, quiet, said.append, quiet=True)
    assert len(said) == 1
    assert re.search(r"may differ from those of an uninterrupted run: transformers was [\d.]+, is 9\.9$", said[0])


def test_a_moved_cache_and_a_moved_run_go_on(stopped_at_10, place, tmp_path):
    shutil.copytree(stopped_at_10, tmp_path / "moved")
    shutil.copytree(place / "toy", tmp_path / "elsewhere")
    resume(tmp_path / "moved", cache=str(tmp_path / "elsewhere"))
    assert result(tmp_path / "moved") == result(place / "whole")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is not a run: it holds no settings\.json"):
        resume(tmp_path)
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read as a run's settings"):
        resume(tmp_path)
    (tmp_path / "settings.json").write_bytes(seal({"format": "lengthwise-run", "version": 2}))
    with pytest.raises(InputError, match="another release wrote it"):
        resume(tmp_path)


def test_a_checkpoint_of_another_release_is_refused_and_stays(tmp_path):
    """A damaged one would be deleted."""
    state = tmp_path / "step-000001" / "state.json"
    state.parent.mkdir()
    state.write_bytes(seal({"format": "lengthwise-checkpoint", "version": 2}))
    with pytest.raises(MismatchError, match="was written by another release"):
        newest_checkpoint(Folder.open(tmp_path), {}, print)
    assert state.exists()


def test_a_run_that_another_process_trains_is_refused(stopped_at_10):
    from train.run_folder.creating import lock_run

    with lock_run(Folder.open(stopped_at_10)), pytest.raises(InputError, match="trained by another process"):
        resume(stopped_at_10)


def test_keep_leaves_the_newest_checkpoints(place):
    run = begin(place, "kept", keep_checkpoints=1, save_steps=5)
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-000018"]
