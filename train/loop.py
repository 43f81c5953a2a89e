"""The training loop: forward, backward, update, and nothing on the way that waits for the device.

The loss, the count of skipped updates and the gradients' norm add up on the device and are read at log points only.
An update whose loss or gradients are not finite is left out by the fused optimizer itself, told by a flag that never
leaves the device; whether to stop for it is decided where the sums are read.

Shapes: B rows of a micro-batch; () a number.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from cache import Batch, Split
from cache.errors import LengthwiseError
from cache.plans.spec import PlanSpec

from . import device as devices
from .models.inputs import PADDING_SIDE, model_inputs
from .models.masked_lm import Masking, hidden_tokens, summed_loss
from .settings import Settings
from .state import State


class MemoryShortError(LengthwiseError):
    """A batch does not fit into the device's memory."""


@dataclass(frozen=True)
class Job:
    """What does not change while a run goes on.

    Attributes:
        model: the classifier, or the masked language model, on `device`.
        forward: the model, or what torch.compile made of it.
        optimizer: a fused AdamW.
        split: the rows to train on.
        spec: their plan.
        settings: resolved, with nothing left at `auto`.
        device: where to compute.
        steps: optimizer steps of each epoch; the last epoch may be cut short.
        stock: why the last layer, or the head of a masked language model, is computed for every token; empty where it
            is not.
        torchs: why attention and dropout are torch's; empty where they are `cpu_attention`'s and `cpu_dropout`'s.
        masking: how tokens are hidden, in masked language modelling; `forward` is then `masking.Forward`.
    """

    model: PreTrainedModel
    forward: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    split: Split
    spec: PlanSpec
    settings: Settings
    device: torch.device
    steps: tuple[int, ...]
    stock: str = ""
    torchs: str = ""
    masking: Masking | None = None

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(self.steps)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The micro-batches of an epoch from step `start` on."""
        batches = self.split.batches(
            epoch,
            self.spec,
            device=self.device,
            accumulation=self.settings.gradient_accumulation_steps,
            start=start,
            pad_to_multiple_of=self.settings.pad_to_multiple_of or 1,
            padding_side=PADDING_SIDE,
        )
        for batch in batches:
            if batch.step == self.steps[epoch]:
                return
            yield batch if self.masking is None else self.masking.hide(batch, epoch)


class Watcher(Protocol):
    """What stands beside the loop: records, checkpoints, evaluation, signals."""

    def log(self) -> None:
        """Read the meter, write a record, start a new meter; stop the run for a loss that is not finite."""

    def pause(self) -> bool:
        """Save a checkpoint if one is due or the run was told to stop; whether to stop."""

    def end_epoch(self) -> bool:
        """Evaluate, write the epoch's records, move on to the next epoch, save what is due; whether to stop."""


def train(job: Job, state: State, watcher: Watcher) -> bool:
    """Train from `state` to the end of the run; False if it was told to stop before."""
    while state.epoch < len(job.steps):
        job.model.train()
        for batch in job.batches(state.epoch, state.epoch_step):
            state.meter.add(batch, backward(job, batch), None if job.masking is None else hidden_tokens(batch))
            if not batch.last:
                continue
            update(job, state)
            ends = state.epoch_step == job.steps[state.epoch]
            if ends or state.step % job.settings.logging_steps == 0:
                watcher.log()
            if not ends and watcher.pause():
                return False
        if watcher.end_epoch():
            return False
    return True


def backward(job: Job, batch: Batch) -> torch.Tensor:
    """Add a micro-batch's share to the gradients; returns its loss (), summed over its targets, on the device.

    One without a target, all its words cut off, has nothing to add; its mean loss would be 0 / 0.

    In masked language modelling the loss is summed over hidden tokens, and so are the gradients: how many a step has is
    known once its last micro-batch was drawn, and to the device only; `update` divides by it.

    Raises:
        MemoryShortError: it does not fit into memory.
    """
    if job.masking is None and not batch.targets:
        return torch.zeros((), device=job.device)
    inputs = model_inputs(batch, job.model.config)
    if job.masking is not None:
        inputs["positions"] = job.masking.scored(batch)
    if job.settings.compile:
        _mark_dynamic(inputs)
    try:
        loss: torch.Tensor
        with devices.autocast(job.device, job.settings.precision):
            if job.masking is None:
                loss = job.forward(**inputs).loss  # (), mean over the targets
                share, number = batch.loss_weight, batch.targets
            else:
                loss = summed_loss(job.forward, **inputs)[0]
                share, number = 1, 1
        (loss if share == 1 else loss * share).backward()
    except (RuntimeError, MemoryError) as error:
        if devices.is_out_of_memory(error):
            raise _memory_short(job, batch) from None
        raise
    return loss.detach() * number


def _mark_dynamic(inputs: dict[str, torch.Tensor]) -> None:
    """Tell torch.compile which axes change from batch to batch: one compilation serves all widths and row counts."""
    for tensor in inputs.values():
        for axis in range(tensor.ndim):
            torch._dynamo.maybe_mark_dynamic(tensor, axis)


def _memory_short(job: Job, batch: Batch) -> MemoryShortError:
    rows, width = batch.input_ids.shape
    flags = ["--gradient-accumulation-steps", "--batch-size" if job.spec.strategy != "budget" else "--max-tokens"]
    if job.spec.strategy != "budget":
        flags.append("--strategy budget --max-tokens")
    if job.settings.precision == "fp32":
        flags.append("--precision bf16")
    return MemoryShortError(
        f"out of memory on {job.device} with a batch of {rows} rows x {width} tokens, expected it to fit; "
        f"these flags help: {', '.join(flags)}"
    )


def update(job: Job, state: State) -> None:
    """One optimizer step from the gradients at hand."""
    settings, optimizer = job.settings, job.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if job.masking is not None:
        tokens = torch.as_tensor(state.meter.step_weight, device=job.device).clamp(min=1)
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], tokens.float())
    if settings.max_grad_norm:
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
    else:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    bad = state.meter.close_step(state.step, norm)
    if settings.on_nonfinite == "stop":  # nothing is learned between a bad step and the log point that finds it
        bad = (state.meter.bad_step >= 0).float()
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * schedule(state.step, settings.warmup(job.total_steps), job.total_steps)
    optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused step leaves everything as it is where this is 1
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.epoch_step += 1


def schedule(step: int, warmup: int, total: int) -> float:
    """The learning rate of a step as a share of its peak: up linearly over the warm-up, then down linearly to 0."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def make_optimizer(model: PreTrainedModel, settings: Settings) -> torch.optim.Optimizer:
    """A fused AdamW; with weight decay, biases and norms (what has fewer than two axes) are exempt."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": 0.0}]
    if settings.weight_decay:
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)
