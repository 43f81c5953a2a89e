"""The OOM check before step 1: whether the batch with the most padded tokens fits into memory."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from cache.plans.costs import round_widths, step_tokens
from cache.plans.strategies import EpochPlan

from .. import device as devices
from .setup import TrainingSetup
from .state import State
from .step import backward, batch_size


class HeaviestStep(NamedTuple):
    """The step that takes the most memory.

    Attributes:
        size: of its largest micro-batch here, in words.
        some_unused: whether it left some parameters without a gradient.
    """

    size: str
    some_unused: bool = False


def check_memory(setup: TrainingSetup, state: State) -> HeaviestStep:
    """Compute the heaviest remaining step forward and backward, so that a lack of memory shows before training.

    Weights, optimizer and random state are left unchanged. Memory for the optimizer's two moments is held meanwhile.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    heaviest: tuple[int, int, int] = (0, 0, 0)  # computed tokens, -epoch, -step: of equal ones the first
    for epoch in range(state.epoch, len(setup.steps)):
        start = state.epoch_step if epoch == state.epoch else 0
        plan = _remaining_plan(setup, epoch, start)
        if len(plan):
            costs = step_tokens(plan, setup.split.lengths if setup.packed else None)
            step = int(costs.argmax())
            tokens = int(costs[step])
            heaviest = max(heaviest, (tokens, -epoch, -(start + step)))
    if heaviest[0] == 0:
        return HeaviestStep("none")
    random = devices.random_state(setup.device)
    setup.model.train()
    moments = [] if setup.optimizer.state else [torch.empty_like(p) for p in setup.trained_parameters for _ in range(2)]
    sizes = []
    for batch in setup.batches(-heaviest[1], -heaviest[2]):
        backward(setup, batch)
        sizes.append((batch.padded_tokens, batch_size(batch)))
        if batch.last:
            break
    del moments
    some_unused = any(parameter.grad is None for parameter in setup.trained_parameters)
    setup.optimizer.zero_grad(set_to_none=True)
    devices.set_random_state(random, setup.device)
    return HeaviestStep(max(sizes)[1], some_unused)


def _remaining_plan(setup: TrainingSetup, epoch: int, start: int) -> EpochPlan:
    """An epoch's plan from step `start` to its end in this run, with the widths that are computed."""
    plan, end = setup.split.plan(setup.spec, epoch), setup.steps[epoch]
    plan = round_widths(plan, setup.settings.pad_to_multiple_of or 1, setup.cache.manifest.max_length)
    offsets = plan.batch_offsets[start : end + 1]
    if len(offsets) < 2:
        return EpochPlan(plan.rows[:0], np.zeros(1, np.int64), plan.widths[:0])
    rows = plan.rows[int(offsets[0]) : int(offsets[-1])]
    return replace(plan, rows=rows, batch_offsets=offsets - offsets[0], widths=plan.widths[start:end])
