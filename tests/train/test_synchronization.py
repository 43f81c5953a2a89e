"""No step waits for its device: nothing is read back, and masks are made so that no model asks for a value."""

import contextlib
from dataclasses import replace

import pytest
import torch

from cache.plans.spec import PlanSpec
from tests.helpers.models import DISTIL, WINDOWED, write_model
from tests.helpers.syncs import Syncs
from train.forward.inputs import READY_MASKS, model_inputs, use_ready_masks
from train.loop.state import Meter, State
from train.loop.step import backward, update
from train.models.fit import CacheRequirements
from train.models.loading import load_model

CPU = torch.device("cpu")
MODELS = {"bert": {}, "modernbert": WINDOWED}
"""Kinds of models, and what their configurations say beside their sizes."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "on_nonfinite", "precision"),
    [("bert", "stop", "fp32"), ("bert", "skip", "fp16"), ("modernbert", "stop", "fp32")],
)
def test_a_step_never_waits_for_the_device(make_job, tmp_path, kind, on_nonfinite, precision):
    """No value is read back between two log points, by the loop, the model or the optimizer."""
    model = write_model(tmp_path / "model", kind=kind, **MODELS[kind])
    flags = {"on_nonfinite": on_nonfinite, "precision": precision, "gradient_accumulation_steps": 2}
    job = make_job(PlanSpec("tight", 4), model, **flags)
    use_ready_masks(job.model)
    batches = list(job.batches(0, 0))[:12]
    assert {batch.attention_mask is None for batch in batches} == {True, False}
    state = State(Meter(CPU))
    job.model.train()
    with Syncs() as syncs:
        for batch in batches:
            state.meter.add(batch, backward(job, batch))
            if batch.last:
                update(job, state)
        assert not syncs.found
        state.meter.read()
    assert syncs.found  # reading is the sync point, and this is how it looks


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_ready_masks_give_modernbert_the_logits_of_the_usual_one(tmp_path, toy, pooling):
    """Bit by bit, where rows are wider than its window and where they are not."""
    folder = write_model(tmp_path / "model", kind="modernbert", classifier_pooling=pooling, **MODELS["modernbert"])
    usual, ready = (load_model(folder, CacheRequirements(toy, 48), 0).eval() for _ in range(2))
    use_ready_masks(ready)
    widths = set()
    for batch in toy["train"].batches(0):
        with torch.no_grad(), Syncs() as syncs:
            found = ready(**model_inputs(batch, ready.config)).logits
            assert not syncs.found
            assert torch.equal(found, usual(**batch.model_inputs()).logits)
        if batch.attention_mask is not None:
            widths.add(batch.input_ids.shape[1])
    assert min(widths) <= 8 < 40 < max(widths)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(READY_MASKS))
def test_a_mask_that_is_ready_gives_the_logits_of_the_usual_one(tmp_path, toy, kind):
    """Bit by bit, for each model type that is given one."""
    layers = DISTIL if kind == "distilbert" else {"num_hidden_layers": 2}
    model = load_model(write_model(tmp_path / kind, kind=kind, **layers), CacheRequirements(toy, 48), 0).eval()
    seen = 0
    for batch in toy["train"].batches(0):
        with torch.no_grad():
            usual, ready = model(**batch.model_inputs()), model(**model_inputs(batch, model.config))
        assert torch.equal(usual.logits, ready.logits)
        seen += batch.attention_mask is not None and model_inputs(batch, model.config)["attention_mask"].ndim == 4
    assert seen > 5


@pytest.mark.cuda
@pytest.mark.parametrize("kind", MODELS)
def test_on_cuda_a_step_does_not_synchronize(make_job, tmp_path, kind):
    job = make_job(PlanSpec("tight", 2), write_model(tmp_path / "model", kind=kind, **MODELS[kind]))
    use_ready_masks(job.model)
    job = replace(job, device=torch.device("cuda"))
    job.model.to("cuda")
    batches = list(job.batches(0, 0))
    state = State(Meter(job.device))
    with contextlib.ExitStack() as stack:
        stack.callback(torch.cuda.set_sync_debug_mode, "default")
        torch.cuda.set_sync_debug_mode("error")
        for batch in batches[:9]:
            state.meter.add(batch, backward(job, batch))
            update(job, state)
