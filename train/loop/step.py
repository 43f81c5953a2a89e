"""One optimizer step: forward, backward, update, without waiting for the device in between.

The loss, the number of skipped updates and the gradients' norm add up on the device and are read at log points only.
An update whose loss or gradients are not finite is skipped by the fused optimizer itself, through a flag that stays on
the device; whether to stop for it is decided where the sums are read.

Shapes: B rows of a micro-batch; () a number.
"""

import math
from contextlib import nullcontext
from pathlib import Path

import torch

from cache import Batch
from cache.console.text import counted, listed
from cache.errors import LengthwiseError

from ..forward.inputs import model_inputs
from ..runtime import device as devices
from .setup import TrainingSetup
from .state import State

MAX_ROWS_LISTED = 16
"""Number of rows that the error about a loss that is not finite lists."""


class OutOfMemoryError(LengthwiseError):
    """A batch does not fit into the device's memory."""


class NonFiniteError(LengthwiseError):
    """A loss or gradient was infinite or not a number."""


def backward(setup: TrainingSetup, batch: Batch) -> torch.Tensor:
    """Add the gradients of a micro-batch; returns its loss (), summed over its targets, on the device.

    A micro-batch without a target, a dummy batch or one whose words were all truncated, adds nothing; its mean loss
    would be 0 / 0. Where it is a step's last one and there are other ranks, it is computed for its gradients of 0, for
    every rank takes part in summing them.

    A `budget` step has as many tokens as the others but not as many rows: its gradient is the sum over its rows divided
    by their mean number in a step, so that every row counts the same.

    In masked language modelling loss and gradients are summed over masked tokens: their number in a step is known only
    after its last micro-batch, and only to the device; `update` divides by it.

    Raises:
        OutOfMemoryError: it does not fit into memory.
        LengthwiseError: torch.compile failed.
    """
    counts = bool(len(batch) if setup.masking is not None else batch.targets)
    step_counts = bool(batch.step_rows if setup.masking is not None else batch.step_targets)
    summing = setup.parallel is not None and batch.last and step_counts
    if not (counts or summing):
        return torch.zeros((), device=setup.device)
    inputs = model_inputs(batch, setup.model.config)
    if setup.masking is not None:
        inputs["positions"] = setup.masking.masked_positions(batch)
    if setup.settings.compile:
        _mark_dynamic(inputs)
    weight, targets = (batch.loss_weight, batch.targets) if setup.masking is None else (1, 1)
    if setup.mean_rows is not None:
        weight *= batch.step_rows / setup.mean_rows
    if setup.parallel is not None:
        weight *= setup.ranks.world_size  # for it takes the mean over ranks
    synchronizing = nullcontext() if setup.parallel is None or summing else setup.parallel.no_sync()
    try:
        with synchronizing:
            with setup.half_weights.in_use(), devices.autocast(setup.device, setup.settings.precision):
                loss: torch.Tensor = (setup.parallel or setup.compute_loss)(inputs, counts)
            weighted = loss if weight == 1 else loss * weight
            if setup.loss_scale is not None:
                weighted = weighted * setup.loss_scale.value
            weighted.backward()
    except (RuntimeError, MemoryError) as error:
        if devices.is_out_of_memory(error):
            raise _out_of_memory(setup, batch) from None
        if setup.settings.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            reason = str(error).strip().partition("\n")[0]
            raise LengthwiseError(
                f"--compile: torch.compile failed ({reason:.300}); on a CPU it needs a C++ compiler and the package "
                "setuptools; install them, or leave out --compile"
            ) from error
        raise
    return loss.detach() * targets


def _mark_dynamic(inputs: dict[str, torch.Tensor]) -> None:
    """Tell torch.compile which axes vary between batches, so that one compilation serves all widths and row counts."""
    for tensor in inputs.values():  # of a padded batch, all tensors
        for axis in range(tensor.ndim):
            torch._dynamo.maybe_mark_dynamic(tensor, axis)


def batch_size(batch: Batch) -> str:
    """The size of a micro-batch, in words."""
    rows, width = batch.input_ids.shape
    if batch.cu_seq_lens is not None:
        return f"{counted(len(batch.cu_seq_lens) - 1, 'row')}, {counted(width, 'token')}"
    return f"{counted(rows, 'row')} x {counted(width, 'token')}"


def _out_of_memory(setup: TrainingSetup, batch: Batch) -> OutOfMemoryError:
    flags = ["--gradient-accumulation-steps", "--batch-size" if setup.spec.strategy != "budget" else "--max-tokens"]
    if setup.spec.strategy != "budget":
        flags.append("--strategy budget --max-tokens")
    if not setup.settings.gradient_checkpointing:
        flags.append("--gradient-checkpointing")
    if setup.settings.precision == "fp32":
        flags.append("--precision bf16")
    return OutOfMemoryError(
        f"out of memory on {setup.device} with a batch of {batch_size(batch)}, expected it to fit; "
        f"these flags help: {', '.join(flags)}"
    )


def update(setup: TrainingSetup, state: State) -> None:
    """One optimizer step with the accumulated gradients; none where no token of its rows, of any rank, was masked, for
    AdamW would decay moments and weights even so."""
    settings, optimizer = setup.settings, setup.optimizer
    parameters = setup.trained_parameters
    state.meter.sum_step()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if setup.masking is not None:
        tokens = torch.as_tensor(state.meter.step_weight, device=setup.device)
        torch._foreach_div_(gradients, tokens.clamp(min=1).float())
    if setup.loss_scale is not None and gradients:
        torch._foreach_div_(gradients, setup.loss_scale.value)
    # Of no gradients, where no row of a step has a label, torch would give a norm on the CPU.
    norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=setup.device)
    if settings.max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(parameters, settings.max_grad_norm, norm)
    overflow = None if setup.loss_scale is None else setup.loss_scale.adapt(norm)
    bad = state.meter.close_step(state.step, norm, overflow)
    if settings.on_nonfinite == "stop":  # nothing is learned between a bad step and the log point that finds it
        bad = (state.meter.bad_step >= 0).float()
    if overflow is not None:
        bad = torch.maximum(bad, overflow.float())
    if setup.masking is not None:
        bad = torch.maximum(bad, (tokens == 0).float())
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(setup, state.step)
    optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused step changes nothing where this is 1
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.epoch_step += 1


def non_finite(setup: TrainingSetup, step: int, saved: Path | None) -> NonFiniteError:
    """The error for a step of the run, counted from 0; `saved` is its newest checkpoint, None where there is none."""
    epoch, epoch_step = 0, step
    while epoch_step >= setup.steps[epoch]:
        epoch_step -= setup.steps[epoch]
        epoch += 1
    plan = setup.split.plan(setup.spec, epoch)
    begin, end = plan.batch_offsets[epoch_step : epoch_step + 2]
    rows = plan.rows[begin:end].astype("int64")
    numbers, source_rows = (
        listed(list(map(str, found)), MAX_ROWS_LISTED) for found in (rows, setup.split.source_rows[rows])
    )
    good = f"the last good checkpoint is {saved}" if saved else "no checkpoint was written before it"
    return NonFiniteError(
        f"the loss or its gradients were not finite at step {step + 1:,} (epoch {epoch + 1}); its batch holds the "
        f"rows {numbers} of split {setup.split.name!r} (source rows {source_rows}); "
        f"{good}; start again with a lower --lr, with --precision fp32, or with --on-nonfinite skip"
    )


def learning_rate(setup: TrainingSetup, step: int) -> float:
    """The learning rate of a step of the run, counted from 0."""
    settings, total = setup.settings, setup.total_steps
    return settings.lr * schedule(step, settings.warmup(total), total, settings.lr_scheduler_type)


def schedule(step: int, warmup: int, total: int, kind: str = "linear") -> float:
    """The learning rate as a fraction of its peak: up linearly over the warm-up steps, then as `kind`, one of
    `train.settings.SCHEDULES`, says."""
    if step < warmup:
        return step / max(1, warmup)
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))
    return max(0.0, (total - step) / max(1, total - warmup))
