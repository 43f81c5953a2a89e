"""Before step 1: how many steps the run has, and whether its heaviest batch fits into memory."""

from dataclasses import replace

import numpy as np
import torch

from cache import Split
from cache.plans.costs import heaviest_step, round_widths
from cache.plans.spec import PlanSpec
from cache.plans.strategies import EpochPlan

from . import device as devices
from .loop import Job, backward
from .settings import Settings
from .state import State


def epoch_steps(split: Split, spec: PlanSpec, settings: Settings) -> tuple[int, ...]:
    """Optimizer steps of each epoch, the last cut to `max_steps`."""
    stored = split.stored_plans().get(spec)
    steps: list[int] = []
    left = settings.max_steps if settings.max_steps is not None else 1 << 62
    for epoch in range(settings.epochs):
        known = stored is not None and epoch < len(stored.epochs)
        count = stored.epochs[epoch].batches if stored and known else len(split.draw(spec, epoch))
        steps.append(min(count, left))
        left -= steps[-1]
        if left == 0:
            break
    return tuple(steps)


def try_heaviest(job: Job, state: State) -> tuple[int, int]:
    """Try the heaviest step that lies ahead forward and backward, so that want of memory shows at once.

    Weights, optimizer and random state are as before. Room for the optimizer's two moments is taken meanwhile.

    Returns:
        Rows and width of its largest micro-batch.

    Raises:
        MemoryShortError: it does not fit.
    """
    heaviest: tuple[int, int, int] = (0, 0, 0)  # padded tokens, epoch, step
    for epoch in range(state.epoch, len(job.steps)):
        start = state.epoch_step if epoch == state.epoch else 0
        plan = _steps_of(job, epoch, start)
        if len(plan):
            step = heaviest_step(plan)
            tokens = int(plan.sizes[step]) * int(plan.widths[step])
            heaviest = max(heaviest, (tokens, -epoch, -(start + step)))
    if heaviest[0] == 0:
        return 0, 0
    random = devices.random_state(job.device)
    job.model.train()
    trained = [p for group in job.optimizer.param_groups for p in group["params"]]
    moments = [] if job.optimizer.state else [torch.empty_like(p) for p in trained for _ in range(2)]
    shapes = []
    for batch in job.batches(-heaviest[1], -heaviest[2]):
        backward(job, batch)
        rows, width = batch.input_ids.shape
        shapes.append((rows, width))
        if batch.last:
            break
    del moments
    job.optimizer.zero_grad(set_to_none=True)
    devices.set_random_state(random, job.device)
    return max(shapes, key=lambda shape: shape[0] * shape[1])


def _steps_of(job: Job, epoch: int, start: int) -> EpochPlan:
    """The part of an epoch's plan from step `start` to its end in this run, widths as they will be computed."""
    plan = job.split.plan(job.spec, epoch)
    multiple = job.settings.pad_to_multiple_of or 1
    plan = round_widths(plan, multiple, job.split.max_length)
    offsets = plan.batch_offsets[start : job.steps[epoch] + 1]
    if len(offsets) < 2:
        return EpochPlan(plan.rows[:0], np.zeros(1, np.int64), plan.widths[:0])
    rows = plan.rows[int(offsets[0]) : int(offsets[-1])]
    return replace(plan, rows=rows, batch_offsets=offsets - offsets[0], widths=plan.widths[start : job.steps[epoch]])
