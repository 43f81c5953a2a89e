"""The OOM check before the first step: the step it takes, what it leaves, what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache.errors import MismatchError
from cache.plans.spec import PlanSpec
from train.loop.oom_check import HeaviestStep, check_memory
from train.loop.state import Meter, State
from train.loop.step import OutOfMemoryError, backward, update
from train.metrics.evaluation import evaluate
from train.run import resume_run, start_run
from train.settings import Settings

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_trial_leaves_weights_optimizer_and_random_state_as_they_were(make_job):
    """Bit by bit, before the first step and in the middle of a run."""
    job = make_job()
    for steps_done in (0, 3):
        state = State(Meter(CPU))
        state.epoch_step = state.step = steps_done
        for _ in range(steps_done and 1):
            backward(job, next(iter(job.batches(0, 0))))
            update(job, State(Meter(CPU)))
        weights = [p.clone() for p in job.model.parameters()]
        moments = [{k: v.clone() for k, v in s.items()} for s in job.optimizer.state.values()]
        random = torch.get_rng_state()
        check_memory(job, state)
        assert all(torch.equal(a, b) for a, b in zip(weights, job.model.parameters(), strict=True))
        after = list(job.optimizer.state.values())
        assert len(after) == len(moments)
        assert all(torch.equal(a[k], b[k]) for a, b in zip(moments, after, strict=True) for k in a)
        assert torch.equal(random, torch.get_rng_state())
        assert all(p.grad is None for p in job.model.parameters())


def test_the_trial_takes_the_step_with_the_most_padded_tokens_that_lies_ahead(make_job, monkeypatch):
    job = make_job(epochs=2, max_steps=30)
    tried = []
    monkeypatch.setattr("train.loop.oom_check.backward", lambda job, batch: tried.append(batch))
    state = State(Meter(CPU))
    state.epoch, state.epoch_step = 0, 5
    check_memory(job, state)
    ahead = []
    for epoch, steps in ((0, range(5, 22)), (1, range(8))):
        plan = job.split.draw(job.spec, epoch)
        ahead += [int(plan.sizes[step] * plan.widths[step]) for step in steps]
    assert [batch.padded_tokens for batch in tried] == [max(ahead)]
    state.epoch, state.epoch_step = 1, 8
    assert check_memory(job, state) == HeaviestStep("none")
    assert len(tried) == 1


def test_a_model_that_fails_in_bf16_is_found_before_step_1(make_job):
    """As DeBERTa's first version does, whose mask overflows."""

    def fail(**inputs):
        raise RuntimeError("value cannot be converted to type c10::BFloat16 without overflow")

    job = replace(make_job(precision="bf16"), forward=fail)
    with pytest.raises(MismatchError, match=r"cannot compute a batch in bf16 \(value .*; pass --precision fp32"):
        check_memory(job, State(Meter(CPU)))


def test_want_of_memory_names_the_batch_and_the_flags_that_help(make_job):
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("can't allocate memory"),
    ):
        job = make_job()

        def short(error=error, **inputs):
            raise error

        job = replace(job, forward=short)
        with pytest.raises(OutOfMemoryError) as raised:
            check_memory(job, State(Meter(CPU)))
        text = str(raised.value)
        assert "8 rows x 48 tokens" in text
        for flag in ("--batch-size", "--gradient-accumulation-steps", "--max-tokens", "--precision bf16"):
            assert flag in text
    tried = make_job(PlanSpec("budget", None, 400), gradient_checkpointing=True, precision="bf16")
    with pytest.raises(OutOfMemoryError, match=r"these flags help: --gradient-accumulation-steps, --max-tokens$"):
        check_memory(replace(tried, forward=short), State(Meter(CPU)))


def test_a_lack_of_memory_for_something_other_than_a_batch_is_a_memory_error(make_job, toy, monkeypatch):
    """For the model, say, while another program holds the memory: the commands then print what torch says of it."""

    def short(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    settings = Settings(cache="none")
    for name in ("train.run._start", "train.run._resume", "train.metrics.evaluation._labelled"):
        monkeypatch.setattr(name, short)
    for function in (
        lambda: start_run(settings, print, print),
        lambda: resume_run(Path("none"), {}, print, print),
        lambda: evaluate(make_job().model, toy["test"], CPU, "fp32"),
    ):
        with pytest.raises(MemoryError, match=r"\(CUDA out of memory. Tried to allocate\)"):
            function()


def test_an_error_that_is_not_about_memory_passes(make_job):
    job = make_job()
    job = replace(job, forward=lambda **inputs: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="size of tensor"):
        check_memory(job, State(Meter(CPU)))
