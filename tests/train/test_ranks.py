"""Several ranks, as real processes over gloo: they train what one process trains, stop, resume and fail together."""

import json
import random
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from cache import open_cache
from tests.helpers.caches import write_cache
from tests.helpers.children import ended, stop_after, wait_for_lines
from tests.helpers.models import write_model
from tests.helpers.ranks import call_ranks, errors_of, meet_elsewhere, run_ranks, spawn_ranks
from tests.helpers.tasks import build_task, quiet
from train.distributed import process_group
from train.launch import launched_ranks
from train.metrics.evaluation import evaluate
from train.models.fit import CacheRequirements
from train.models.loading import load_model
from train.run import resume_run, start_run
from train.settings import Settings
from train.signals import Stopped

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
COMMON: dict[str, Any] = {
    "model": "still",
    "epochs": 9,
    "max_steps": 12,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "lr": 1e-3,
    "precision": "fp32",
    "device": "cpu",
    "logging_steps": 1,
    "eval_split": "none",
}
"""12 steps, into the second epoch, without dropout: `still` is a model that has none."""

CASES: dict[str, dict[str, Any]] = {
    "classes": {"cache": "toy", "class_weights": "balanced", "label_smoothing": 0.1, "weight_decay": 0.01},
    "three rows a step": {"cache": "toy", "batch_size": 3},
    "padding-free": {"cache": "toy", "padding_free": True, "strategy": "dynamic"},
    "partly frozen, checkpointed": {"cache": "toy", "freeze": 1, "gradient_checkpointing": True},
    "masked tokens": {"cache": "toy", "task": "mlm", "batch_size": 3, "padding_free": True, "plan_seed": 1},
    "tags": {"cache": "caches/token-classification", "batch_size": 3, "strategy": "tight"},
    "numbers": {"cache": "caches/regression"},
    "labels": {"cache": "caches/multi-label"},
}
"""Three rows do not go round: of 2 ranks and 2 micro-batches one has none, of 3 ranks three. Some rows of `tags` have
no word, and some steps no tag."""

NAMES = {2: [*CASES], 3: ["classes", "three rows a step", "masked tokens", "tags"]}
"""The cases of 2 and of 3 ranks."""

TOLERANCE = 2e-5
"""The largest difference of a weight after 12 steps of Adam at 1e-3, from sums in another order."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with caches, two models, and the runs of one process and of 2 and 3 ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    write_cache(folder / "toy", {"train": 70, "test": 21})
    for kind in ("token-classification", "regression", "multi-label"):
        build_task(kind, folder)
    write_model(folder / "moving")
    write_model(folder / "still", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_cases(CASES, "1")
        for world_size, names in NAMES.items():
            cases = {name: CASES[name] for name in names}
            finish(folder, call_ranks(folder, world_size, partial(train_cases, cases, str(world_size))))
        yield folder
    torch.set_num_threads(threads)


def begin(out: str, **given: Any) -> Path:
    meet_elsewhere()
    return start_run(Settings(**{**COMMON, **given, "out": out}), quiet, quiet, quiet=True)


def train_cases(cases: Mapping[str, dict[str, Any]], out: str) -> None:
    for name, given in cases.items():
        begin(f"{out}/{name}", **given)


def finish(folder: Path, processes: Sequence[Any], code: int = 0) -> None:
    codes = [ended(process) for process in processes]
    assert codes == [code] * len(processes), errors_of(folder, len(processes))


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, Any]:
    return safetensors.numpy.load_file(run / "model" / "model.safetensors")


def check_alike(run: Path, other: Path) -> None:
    """The same rows and tokens at every step, losses and weights within rounding."""
    one, two = records(run), records(other)
    assert [record["kind"] for record in one] == [record["kind"] for record in two]
    for record, found in zip(one, two, strict=True):
        for name in ("step", "epoch", "rows", "real_tokens", "masked_tokens", "learning_rate", "skipped_updates"):
            assert record.get(name) == found.get(name)
        for name in ("loss", "grad_norm"):
            if record.get(name) is not None:
                assert found[name] == pytest.approx(record[name], rel=1e-4, abs=1e-6)
    theirs = weights(other)
    for name, expected in weights(run).items():
        np.testing.assert_allclose(theirs[name], expected, rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize(("world_size", "case"), [(size, name) for size, names in NAMES.items() for name in names])
def test_ranks_train_on_the_rows_of_one_process_to_the_same_weights(place: Path, world_size: int, case: str) -> None:
    """After 12 steps, with accumulation, short batches and dummy batches."""
    check_alike(place / "1" / case, place / str(world_size) / case)


EVALUATED = {"toy": "classes", "caches/token-classification": "tags", "caches/regression": "numbers"}


def score(out: str) -> None:
    """Write what every evaluation gives, in whole and in part, with models trained by one process."""
    found: dict[str, Any] = {}
    ranks = launched_ranks()
    with process_group(ranks):
        for cache, case in EVALUATED.items():
            opened = open_cache(cache)
            for task in (None, "mlm"):
                requirements = CacheRequirements(opened.manifest, opened.folder, 48, task)
                model = load_model(Path("still" if task else f"1/{case}/model"), requirements, 0)
                for limit in (None, 9):
                    scores = evaluate(model, opened["test"], CPU, "fp32", 2, limit, ranks=ranks)
                    assert scores is not None
                    found[f"{cache}, {task}, {limit}"] = scores.to_json()
    Path(f"{out}-{ranks.rank}.json").write_text(json.dumps(found))


def test_evaluation_gives_every_rank_the_figures_of_one_process_to_the_last_bit(place: Path) -> None:
    """Classes, entities, correlations, perplexity; 2 and 3 ranks, also on some of the rows."""
    score("alone")
    expected = json.loads((place / "alone-0.json").read_text())
    assert len(expected) == 12
    for world_size in (2, 3):
        finish(place, call_ranks(place, world_size, partial(score, f"of-{world_size}")))
        for rank in range(world_size):
            assert json.loads((place / f"of-{world_size}-{rank}.json").read_text()) == expected


# --- stopping and resuming

LIVELY = {"cache": "toy", "model": "moving", "eval_split": "test", "max_steps": 20, "logging_steps": 3, "save_steps": 4}
"""With dropout, and an evaluation after each of the 3 epochs."""


def stop_and_resume() -> None:
    """A whole run; one that stops because the last rank is told to at step 5, which is resumed; and one without dropout
    that stops likewise."""
    ranks = launched_ranks()
    begin("whole", **LIVELY, keep_best="accuracy")
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == ranks.world_size - 1:
            stop_after(patch, 5)
        for out, given in (("stopped", {**LIVELY, "keep_best": "accuracy"}), ("still-stopped", CASES["classes"])):
            with pytest.raises(Stopped) as stopped:
                begin(out, **given)
            assert stopped.value.code == 143
    resume("stopped")


def resume(run: str) -> None:
    meet_elsewhere()
    resume_run(Path(run), {}, quiet, quiet, quiet=True)


def test_a_stop_of_one_rank_stops_all_and_the_run_resumes_on_any_number_of_ranks(place: Path) -> None:
    """Bit by bit on as many ranks, with dropout; within rounding on fewer and more, without."""
    finish(place, call_ranks(place, 2, stop_and_resume))
    assert [path.name for path in (place / "still-stopped" / "checkpoints").iterdir()] == ["step-000006"]
    for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints/step-000020/optimizer.safetensors"):
        assert (place / "stopped" / name).read_bytes() == (place / "whole" / name).read_bytes(), name
    shutil.copytree(place / "still-stopped", place / "on-3")
    finish(place, call_ranks(place, 3, partial(resume, "on-3")))
    resume("still-stopped")
    for run in ("still-stopped", "on-3"):
        check_alike(place / "1" / "classes", place / run)


def arguments(out: str, **flags: Any) -> list[str]:
    values = {**COMMON, "max_steps": 20, "cache": "toy", "model": "moving", "out": out, **flags}
    return ["run", *(word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value)))]


def kill_and_resume(place: Path, out: str, kills: int, seed: int) -> None:
    """Kill a random rank of two at a random number of records, `kills` times; each time all end within 15 seconds."""
    generator, run = random.Random(seed), place / out
    first = arguments(out, save_steps=2)
    for _ in range(kills):
        processes = spawn_ranks(place, 2, *(["run", "--resume", out] if (run / "settings.json").exists() else first))
        wait_for_lines(run / "metrics.jsonl", generator.randrange(22), processes[0])
        time.sleep(generator.random() * 0.2)
        victim = generator.randrange(2)
        processes[victim].kill()
        processes[1 - victim].join(2)
        if processes[1 - victim].exitcode is None:
            processes[1 - victim].terminate()  # as launchers do with ranks that still wait for others to appear
        codes = [ended(process, 13) for process in processes]
        assert codes[victim] == -signal.SIGKILL or codes == [0, 0], errors_of(place, 2)
        if codes[0] == 1:
            assert "another rank" in errors_of(place, 2)[0]
        assert "Traceback" not in "".join(errors_of(place, 2))
        if not (run / "settings.json").exists() or (run / "summary.json").exists():
            shutil.rmtree(run, ignore_errors=True)
    finish(place, spawn_ranks(place, 2, *(["run", "--resume", out] if run.exists() else first)))


@pytest.mark.parametrize(
    ("kills", "seed"),
    [pytest.param(2, 0, id="2"), *(pytest.param(10, n, id=f"50-{n}", marks=pytest.mark.faults) for n in range(1, 6))],
)
def test_a_killed_rank_ends_all_of_them_and_the_run_goes_on_from_a_good_checkpoint(
    place: Path, kills: int, seed: int
) -> None:
    if not (place / "dense").exists():
        finish(place, spawn_ranks(place, 2, *arguments("dense", save_steps=2)))
    kill_and_resume(place, f"killed-{seed}", kills, seed)
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (place / f"killed-{seed}" / name).read_bytes() == (place / "dense" / name).read_bytes(), name


# --- refusals


def differ(rank_one: Mapping[str, Any]) -> None:
    """A command line whose rank 1 is told something else."""
    import sys

    from train.cli import main

    sys.argv = ["train", *arguments("refused", **(rank_one if launched_ranks().rank else {}))]
    main()


@pytest.mark.parametrize(
    ("told", "named"),
    [({"lr": 0.5}, "--lr: 0.5 on rank 1, 0.001 on rank 0"), ({"cache": "missing"}, "rank 1: missing does not exist")],
)
def test_ranks_that_differ_are_refused_before_anything_is_written(
    place: Path, told: dict[str, Any], named: str
) -> None:
    """The first rank says what differs, the other nothing; both exit with 2."""
    finish(place, call_ranks(place, 2, partial(differ, told)), 2)
    errors = errors_of(place, 2)
    assert named in errors[0]
    assert errors[1] == ""
    assert not (place / "refused").exists()


def test_what_all_ranks_find_wrong_is_said_once(place: Path) -> None:
    assert run_ranks(place, 2, *arguments("refused", eval_split="nowhere")) == [2, 2]
    errors = errors_of(place, 2)
    assert errors[0].count("nowhere") == 1
    assert errors[1] == ""
