"""Training on several ranks: gradients are added up by torch's DistributedDataParallel, and all ranks do the same.

It takes their mean over the ranks, so a micro-batch's loss is weighted by its share of the step's targets times the
number of ranks (see `train.loop.step`): the result is the gradient that one process would compute. Gradients travel
during the backward pass of a step's last micro-batch. `static_graph` does not go with accumulation, for torch fails an
assertion where a first backward pass does not exchange gradients, and gives nothing that `find_unused_parameters`,
used where it is needed, does not.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.parallel import DistributedDataParallel

import cache
from cache.errors import MismatchError

from ..declarations import flag
from ..run_folder.folder import Json
from .setup import TrainingSetup
from .state import ResumePoint, State
from .step import backward

OF_ONE_MACHINE = ("cache", "model", "out", "device")
"""Settings that may differ between ranks: paths and devices of one machine. Cache and model are compared by content."""


class Objective(torch.nn.Module):
    """The loss of the trained parameters as a module: DistributedDataParallel has to see each forward pass, and nothing
    else of the model, whose buffers never change."""

    def __init__(self, setup: TrainingSetup) -> None:
        super().__init__()
        self.trained, self.compute = torch.nn.ParameterList(setup.trained_parameters), setup.compute_loss

    def forward(self, inputs: dict[str, Any], counts: bool) -> torch.Tensor:
        """See `TrainingSetup.compute_loss`."""
        return self.compute(inputs, counts)


def sum_gradients(setup: TrainingSetup, some_unused: bool) -> TrainingSetup:
    """The setup whose `parallel` adds up gradients over the ranks; as it is for a process alone. `some_unused`: whether
    a backward pass here left some parameters without a gradient."""
    if not setup.ranks.several:
        return setup
    found = bool(setup.ranks.totals(some_unused)[0])
    parallel = DistributedDataParallel(Objective(setup), gradient_as_bucket_view=True, find_unused_parameters=found)
    setup = replace(setup, parallel=parallel)
    _order_gradients(setup)
    return setup


def _order_gradients(setup: TrainingSetup) -> None:
    """Compute gradients once, which are thrown away.

    DistributedDataParallel sends gradients in the order in which the first backward pass made them, but those of that
    pass in another one; and where three ranks or more add up, the order decides how sums are rounded. From here on it
    is the same at every step, in a run that is resumed too.
    """
    for batch in setup.batches(0, 0):
        if batch.last and (setup.masking is not None or batch.step_targets):
            backward(setup, batch)
            break
    setup.optimizer.zero_grad(set_to_none=True)


def seed_dropout(setup: TrainingSetup, state: State) -> None:
    """Let the random numbers of the next micro-batch follow from the run's seed, step, micro-step and rank, so that
    nothing but the step has to be known to resume. A process alone goes on drawing where it was.
    """
    if setup.ranks.several:
        numbers = [setup.settings.seed, state.step, state.meter.micro_steps, setup.ranks.rank]
        seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack where there is no GPU
        if setup.device.type != "cpu":
            torch.get_device_module(setup.device).manual_seed(seed)


# --- what all ranks must have in common


def check_agreement(start: ResumePoint) -> None:
    """Raise a MismatchError if what this rank is about to do differs from what the others are."""
    ranks = start.setup.ranks
    if not ranks.several:
        return
    found = ranks.gather(_facts(start))
    lines = [
        f"{name}: {facts[name]!r:.80} on rank {rank}, {found[0][name]!r:.80} on rank 0"
        for rank, facts in enumerate(found)
        for name in facts
        if facts[name] != found[0][name]
    ]
    with ranks.together():
        if lines:
            raise MismatchError(
                "the ranks of this run differ:\n  "
                + "\n  ".join(lines)
                + "\nstart all of them with the same code, cache, model and settings"
            )


def _facts(start: ResumePoint) -> Json:
    setup, settings = start.setup, start.setup.settings.to_json()
    return {
        "code": _code_digest()[:12],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": setup.device.type,
        "cache fingerprint": setup.split.fingerprint[:12],
        "model": start.info.model_digest[:12],
        **{flag(name): value for name, value in settings.items() if name not in OF_ONE_MACHINE},
        "steps of the epochs": setup.steps,
        "step": start.state.step,
        "plan": _plan_digest(setup, start.state)[:12],
        "checkpoint": [info.sha256[:12] for info in start.kept.values()],
    }


def _code_digest() -> str:
    digest = hashlib.sha256()
    for package in (Path(cache.__file__).parent, Path(__file__).parents[1]):
        for path in sorted([*package.glob("*.py"), *package.glob("*/*.py")]):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _plan_digest(setup: TrainingSetup, state: State) -> str:
    """Digest of the current epoch's plan; empty after the last epoch."""
    if state.epoch >= len(setup.steps):
        return ""
    plan = setup.split.plan(setup.spec, state.epoch)
    digest = hashlib.sha256()
    for array in (plan.rows, plan.batch_offsets, plan.widths):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
