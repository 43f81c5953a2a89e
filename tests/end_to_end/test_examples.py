"""The scripts in examples/ run, on a small cache and a tiny model; what they learn is checked."""

import importlib.util
import os
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from cache import Cache
from tests.helpers import ROOT
from tests.helpers.caches import write_cache
from tests.helpers.children import ended
from tests.helpers.models import STEADY, write_model
from tests.helpers.ranks import call_ranks, errors_of

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"


TRAINER: dict[str, Any] = {
    "num_train_epochs": 2,
    "save_steps": 11,
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
}
"""Settings of transformers' Trainer."""


def example(name: str) -> ModuleType:
    """A script of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """64 rows, eight batches."""
    return write_cache(tmp_path_factory.mktemp("examples") / "toy", {"train": 64}, max_length=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny model."""
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is trained as one is, with dropout: `from_pretrained` gives it ready for evaluation."""
    check_training(monkeypatch)


def check_training(patch: pytest.MonkeyPatch) -> None:
    own = BertForSequenceClassification.forward

    def forward(model: BertForSequenceClassification, *args: Any, **inputs: Any) -> Any:
        assert model.bert.encoder.training
        return own(model, *args, **inputs)

    patch.setattr(BertForSequenceClassification, "forward", forward)


def test_every_example_is_run_here() -> None:
    """A new script needs a test of its own."""
    tested = "accelerate_loop data_loader fsdp_loop hf_trainer lightning_module plain_loop"
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(tested.split())


def test_plain_loop_goes_on_where_it_stopped(
    corpus: Cache, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second call begins with the step after the first one's last."""
    state = str(tmp_path / "stream.json")
    main = example("plain_loop").main
    main(str(corpus.folder), model, 3, state)
    capsys.readouterr()
    main(str(corpus.folder), model, 1, state)
    assert capsys.readouterr().out.startswith("step 3:")


def test_data_loader_sees_every_row_in_every_epoch(corpus: Cache) -> None:
    """With a worker and without."""
    main = example("data_loader").main
    assert main(str(corpus.folder), workers=0) == 128
    assert main(str(corpus.folder), workers=1) == 128


def test_hf_trainer_takes_the_planned_batches_and_resumes(corpus: Cache, model: str, tmp_path: Path) -> None:
    """Two epochs in one go, and resumed from a checkpoint within the second: the same batches, the same weights."""
    main = example("hf_trainer").main
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = main(str(corpus.folder), model, str(tmp_path / "whole"), **TRAINER)
        assert whole.state.global_step == 16
        checkpoint = str(tmp_path / "whole" / "checkpoint-11")
        resumed = main(str(corpus.folder), model, str(tmp_path / "resumed"), resume=checkpoint, **TRAINER)
    losses = {entry["step"]: entry["loss"] for entry in whole.state.log_history if "loss" in entry}
    again = {entry["step"]: entry["loss"] for entry in resumed.state.log_history if "loss" in entry}
    assert {step: again[step] for step in range(12, 17)} == {step: losses[step] for step in range(12, 17)}
    weights = [dict(trainer.model.named_parameters()) for trainer in (whole, resumed)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def trainer_as_rank(*arguments: str) -> None:
    """The steps that the Trainer takes as one of several ranks go to a file."""
    trainer = example("hf_trainer").main(*arguments, **TRAINER)
    Path(f"steps-{os.environ['RANK']}.txt").write_text(str(trainer.state.global_step))


def test_hf_trainer_shares_the_planned_batches_among_two_ranks(corpus: Cache, model: str, tmp_path: Path) -> None:
    """Each takes every other one: two epochs of eight batches are eight steps."""
    processes = call_ranks(tmp_path, 2, partial(trainer_as_rank, str(corpus.folder), model, str(tmp_path / "out")))
    codes = [ended(process) for process in processes]
    assert codes == [0, 0], errors_of(tmp_path, 2)
    assert [(tmp_path / f"steps-{rank}.txt").read_text() for rank in range(2)] == ["8", "8"]


def test_accelerate_loop_trains(corpus: Cache, model: str) -> None:
    """In one process."""
    assert 0 < example("accelerate_loop").main(str(corpus.folder), model, steps=4) < 2


def as_rank(name: str, *arguments: object) -> None:
    """Run a script as one of several ranks; what it returns goes to a file."""
    with pytest.MonkeyPatch.context() as patch:
        check_training(patch)
        Path(f"{name}-{os.environ['RANK']}.txt").write_text(repr(example(name).main(*arguments)))


def test_fsdp_and_accelerate_train_on_two_ranks(corpus: Cache, tmp_path: Path) -> None:
    """Without dropout both see the losses of one another, which add up to the mean over each step's rows."""
    still = str(write_model(tmp_path / "still", **STEADY, classes=2))
    found = {}
    for name in ("fsdp_loop", "accelerate_loop"):
        processes = call_ranks(tmp_path, 2, partial(as_rank, name, str(corpus.folder), still, 4))
        codes = [ended(process) for process in processes]
        assert codes == [0, 0], errors_of(tmp_path, 2)
        found[name] = [float((tmp_path / f"{name}-{rank}.txt").read_text()) for rank in range(2)]
    first, second = found["fsdp_loop"]
    assert first == second
    assert sum(found["accelerate_loop"]) / 2 == pytest.approx(first, rel=1e-5)  # 4 of the 8 rows on each


def test_lightning_trains_two_epochs_of_planned_batches(corpus: Cache, model: str, tmp_path: Path) -> None:
    """Eight steps an epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = example("lightning_module").main(
            str(corpus.folder),
            model,
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(tmp_path),
        )
    assert trainer.global_step == 16
