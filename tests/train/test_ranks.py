"""Several ranks, as real processes over gloo: they train what one process trains, stop, resume and fail together."""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import train.run
from cache import open_cache
from cache.batches.feeds import choose_feed
from tests.helpers.caches import write_cache
from tests.helpers.children import ended
from tests.helpers.models import STEADY, write_model
from tests.helpers.ranks import call_ranks, check_alike, errors_of, meet_elsewhere, run_ranks, weights
from tests.helpers.runs import resume, start, stop_after
from tests.helpers.tasks import build_task
from train.forward.half_weights import HalfWeights
from train.loop.setup import TrainingSetup
from train.loop.state import State
from train.metrics.evaluation import evaluate
from train.models.fit import CacheRequirements
from train.models.loading import load_model
from train.runtime.distributed import process_group
from train.runtime.launch import launched_ranks
from train.runtime.signals import Stopped
from train.settings import Settings

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
COMMON: dict[str, Any] = {
    "model": "still",
    "epochs": 9,
    "max_steps": 10,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "lr": 1e-3,
    "precision": "fp32",
    "device": "cpu",
    "logging_steps": 1,
    "eval_split": "none",
}
"""10 steps, into the second epoch, without dropout: `still` is a model that has none."""

CASES: dict[str, dict[str, Any]] = {
    "classes": {"cache": "toy", "class_weights": "balanced", "label_smoothing": 0.1, "weight_decay": 0.01},
    "one row a step": {"cache": "toy", "batch_size": 1, "gradient_accumulation_steps": 1},
    "masked tokens": {"cache": "toy", "task": "mlm", "batch_size": 3, "padding_free": True, "plan_seed": 1},
    "tags": {"cache": "caches/token-classification", "batch_size": 3, "strategy": "tight"},
    "numbers": {"cache": "caches/regression", "model": "deep", "freeze": 1, "gradient_checkpointing": True},
    "labels": {
        "cache": "caches/multi-label",
        "padding_free": True,
        "strategy": "budget",
        "batch_size": None,
        "max_tokens": 60,
    },
}
"""Three rows do not go round: of 2 ranks and 2 micro-batches one has none; of one row a rank never has any. Some rows
of `tags` have no word, and some steps no tag."""

CASTS: dict[str, dict[str, Any]] = {
    name: {"cache": "toy", "precision": "bf16", "max_steps": 3} for name in ("together", "by autocast")
}
"""Runs of 2 ranks whose weights are cast in different ways."""

SCALED: dict[str, dict[str, Any]] = {"scaled": {"cache": "toy", "precision": "fp16", "max_steps": 8}}
"""A run of 2 ranks whose first steps overflow."""

NAMES = {2: [name for name in CASES if name != "tags"], 3: ["tags"]}
"""The cases of 2 and of 3 ranks; the other way round in full."""

FEEDS = {"numbers": "resident", "labels": "streamed"}
"""How ranks get the batches of some cases; one process has them directly, as everything on a CPU."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with caches, two models, and the runs of one process and of 2 and 3 ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    write_cache(folder / "toy", {"train": 70, "test": 21})
    for kind in ("token-classification", "regression", "multi-label"):
        build_task(kind, folder)
    write_model(folder / "moving")
    write_model(folder / "still", **STEADY)
    write_model(folder / "deep", num_hidden_layers=2, **STEADY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_cases(CASES, "1")
        for world_size, names in NAMES.items():
            cases = {name: CASES[name] for name in names} | (CASTS | SCALED if world_size == 2 else {})
            finish(folder, call_ranks(folder, world_size, partial(train_cases, cases, str(world_size))))
        yield folder


def begin(out: str, **given: Any) -> Path:
    meet_elsewhere()
    return start(Settings(**{**COMMON, **given, "out": out}))


def train_cases(cases: Mapping[str, dict[str, Any]], out: str) -> None:
    for name, given in cases.items():
        with pytest.MonkeyPatch.context() as patch:
            if out != "1" and name in FEEDS:
                patch.setattr("cache.batches.batches.choose_feed", partial(feed_named, FEEDS[name]))
            if name == "by autocast":
                patch.setattr("train.loop.setup.HalfWeights", lambda model, precision: HalfWeights(model, "fp32"))
            if name in SCALED:
                patch.setattr("train.loop.loss_scale.START", 2.0**20)
                note_steps(patch)
            begin(f"{out}/{name}", **given)


def note_steps(patch: pytest.MonkeyPatch) -> None:
    """Write the loss scale and the sum of the weights after each step of this rank to `steps-RANK.jsonl`."""
    update = train.run.update

    def noting(setup: TrainingSetup, state: State) -> None:
        update(setup, state)
        assert setup.loss_scale is not None
        total = sum(float(parameter.detach().abs().sum()) for parameter in setup.trained_parameters)
        with Path(f"steps-{setup.ranks.rank}.jsonl").open("a") as file:
            file.write(json.dumps([float(setup.loss_scale.value), total]) + "\n")

    patch.setattr(train.run, "update", noting)


def feed_named(feed: str, name: str, *given: Any) -> Any:
    return choose_feed(feed, *given)


def finish(folder: Path, processes: Sequence[Any], code: int = 0) -> None:
    codes = [ended(process) for process in processes]
    assert codes == [code] * len(processes), errors_of(folder, len(processes))


@pytest.mark.parametrize(("world_size", "case"), [(size, name) for size, names in NAMES.items() for name in names])
def test_ranks_train_on_the_rows_of_one_process_to_the_same_weights(place: Path, world_size: int, case: str) -> None:
    """After 10 steps, with accumulation, short batches and dummy batches."""
    check_alike(place / "1" / case, place / str(world_size) / case)


def test_ranks_in_half_precision_train_to_the_weights_of_autocast(place: Path) -> None:
    """To the bit, though DistributedDataParallel gets gradients that are cast some layers at a time."""
    together, by_autocast = (weights(place / "2" / name) for name in CASTS)
    assert all((tensor == by_autocast[name]).all() for name, tensor in together.items())


def test_ranks_skip_the_same_updates_in_fp16(place: Path) -> None:
    """An overflow on any of them halves the scale of all, and their weights stay equal to the last bit."""
    one, other = ((place / f"steps-{rank}.jsonl").read_text().splitlines() for rank in range(2))
    assert one == other
    scales, weights = zip(*map(json.loads, one), strict=True)
    assert len(one) == 8
    assert scales[0] == 2.0**19
    assert weights[0] == weights[1] or scales[1] == scales[0]
    assert scales[-1] == scales[-2]
    assert weights[-1] != weights[-2]


@pytest.mark.faults
@pytest.mark.parametrize(("world_size", "case"), [(2, "tags"), (3, "masked tokens")])
def test_so_do_they_the_other_way_round(place: Path, world_size: int, case: str) -> None:
    finish(place, call_ranks(place, world_size, partial(train_cases, {case: CASES[case]}, str(world_size))))
    check_alike(place / "1" / case, place / str(world_size) / case)


def train_compiled() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
        begin("2/compiled", **CASES["classes"], compile=True)


@pytest.mark.faults
def test_ranks_that_compile_train_to_the_same_weights(place: Path) -> None:
    """As captured by torch.compile; without the time that making kernels of it takes."""
    finish(place, call_ranks(place, 2, train_compiled))
    check_alike(place / "1" / "classes", place / "2" / "compiled")


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_ranks_on_gpus_train_to_the_same_weights(place: Path) -> None:
    """Over NCCL, with the batches resident; the first rank's evaluation and checkpoints included."""
    given = {**CASES["classes"], "device": "auto", "eval_split": "test", "save_steps": 4, "pad_to_multiple_of": 1}
    begin("1/gpu", **{**given, "device": "cuda:0"})
    finish(place, call_ranks(place, 2, partial(begin, "2/gpu", **given)))
    check_alike(place / "1" / "gpu", place / "2" / "gpu")


EVALUATED = {
    "1/classes/model": ("toy", None),
    "1/tags/model": ("caches/token-classification", None),
    "1/numbers/model": ("caches/regression", None),
    "still": ("toy", "mlm"),
}
"""Models, and what is evaluated: a cache, for its own task or another one."""


def score(out: str) -> None:
    """Write what every evaluation gives, in whole and in part, with models trained by one process."""
    found: dict[str, Any] = {}
    ranks = launched_ranks()
    with process_group(ranks):
        for model, (cache, task) in EVALUATED.items():
            opened = open_cache(cache)
            loaded = load_model(Path(model), CacheRequirements(opened, 48, task), 0)
            for limit in (None, 9):
                scores = evaluate(loaded, opened["test"], CPU, "fp32", 2, limit, ranks=ranks)
                assert scores is not None
                found[f"{model}, {limit}"] = scores.to_json()
    Path(f"{out}-{ranks.rank}.json").write_text(json.dumps(found))


def test_evaluation_gives_every_rank_the_figures_of_one_process_to_the_last_bit(place: Path) -> None:
    """Classes, entities, correlations, perplexity; also on some of the rows."""
    score("alone")
    expected = json.loads((place / "alone-0.json").read_text())
    assert len(expected) == 8
    finish(place, call_ranks(place, 3, partial(score, "of-3")))
    for rank in range(3):
        assert json.loads((place / f"of-3-{rank}.json").read_text()) == expected


# --- stopping and resuming

LIVELY = {"cache": "toy", "model": "moving", "eval_split": "test", "max_steps": 12, "logging_steps": 3, "save_steps": 4}
LIVELY |= {"eval_steps": 5, "keep_best": "accuracy"}
"""With dropout, and an evaluation after step 5 and each of the 2 epochs."""


def stop_and_resume() -> None:
    """A whole run; one that stops because the last rank is told to at step 5, before its evaluation, which is resumed;
    and one without dropout that stops likewise."""
    ranks = launched_ranks()
    begin("whole", **LIVELY)
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == ranks.world_size - 1:
            stop_after(patch, 5)
        for out, given in (("stopped", LIVELY), ("still-stopped", CASES["classes"])):
            with pytest.raises(Stopped) as stopped:
                begin(out, **given)
            assert stopped.value.code == 143
    go_on("stopped")


def go_on(run: str) -> None:
    meet_elsewhere()
    resume(Path(run))


def test_a_stop_of_one_rank_stops_all_and_the_run_resumes_on_any_number_of_ranks(place: Path) -> None:
    """Bit by bit on as many ranks, with dropout; within rounding on fewer and more, without."""
    finish(place, call_ranks(place, 2, stop_and_resume))
    assert [path.name for path in (place / "still-stopped" / "checkpoints").iterdir()] == ["step-000006"]
    for name in ("metrics.jsonl", "model/model.safetensors", "checkpoints/step-000012/optimizer.safetensors"):
        assert (place / "stopped" / name).read_bytes() == (place / "whole" / name).read_bytes(), name
    shutil.copytree(place / "still-stopped", place / "on-3")
    finish(place, call_ranks(place, 3, partial(go_on, "on-3")))
    go_on("still-stopped")
    for run in ("still-stopped", "on-3"):
        check_alike(place / "1" / "classes", place / run)


def arguments(out: str, **flags: Any) -> list[str]:
    values = {**COMMON, "max_steps": 20, "cache": "toy", "model": "moving", "out": out, **flags}
    return ["run", *(word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value)))]


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
