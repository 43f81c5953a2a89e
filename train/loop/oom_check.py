"""The OOM check before step 1: whether the micro-batch with the most tokens fits into memory."""

from contextlib import nullcontext
from typing import NamedTuple

import torch

from cache.errors import MismatchError

from ..models.library_errors import library_errors
from ..runtime import device as devices
from .setup import TrainingSetup
from .state import State
from .step import backward, batch_size


class HeaviestStep(NamedTuple):
    """The step that takes the most memory.

    Attributes:
        size: of its largest micro-batch here, in words.
        some_unused: whether it left some parameters without a gradient, while others got one.
    """

    size: str
    some_unused: bool = False


def check_memory(setup: TrainingSetup, state: State) -> HeaviestStep:
    """Compute the remaining step with the largest micro-batch, so that a lack of memory shows before training.

    Weights, optimizer and random state are left unchanged. Memory for the optimizer's two moments is held meanwhile.

    Raises:
        OutOfMemoryError: it does not fit.
        MismatchError: the model cannot compute it in half precision.
    """
    heaviest: tuple[int, int, int] = (0, 0, 0)  # tokens, -epoch, -step: of equal ones the first
    for epoch in range(state.epoch, len(setup.steps)):
        start = state.epoch_step if epoch == state.epoch else 0
        tokens, step = setup.epoch_batches(epoch, start).heaviest_step(setup.steps[epoch])
        heaviest = max(heaviest, (tokens, -epoch, -step))
    if heaviest[0] == 0:
        return HeaviestStep("none")
    random = devices.random_state(setup.device)
    setup.model.train()
    moments = [] if setup.optimizer.state else [torch.empty_like(p) for p in setup.trained_parameters for _ in range(2)]
    sizes = []
    precision = setup.settings.precision
    failed = f"{type(setup.model).__name__} cannot compute a batch in {precision}"
    with nullcontext() if precision == "fp32" else library_errors(MismatchError, failed, "; pass --precision fp32"):
        for batch in setup.batches(-heaviest[1], -heaviest[2]):
            backward(setup, batch)
            sizes.append((batch.padded_tokens, batch_size(batch)))
            if batch.last:
                break
    del moments
    some_unused = len({parameter.grad is None for parameter in setup.trained_parameters}) == 2
    setup.optimizer.zero_grad(set_to_none=True)
    devices.set_random_state(random, setup.device)
    return HeaviestStep(max(sizes)[1], some_unused)
