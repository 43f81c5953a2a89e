"""A model's scores on a split: `train.metrics.scores` counts, this feeds it."""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from transformers import PreTrainedModel

from cache import Batch, Split
from cache.errors import InputError, MismatchError
from cache.format.tasks import Task
from cache.plans.spec import PlanSpec

from ..forward.half_weights import HalfWeights
from ..forward.inputs import PADDING_SIDE, model_inputs
from ..forward.masked_lm import Masking, is_masked_model, masked_forward, summed_loss
from ..models.classes import map_classes
from ..models.library_errors import library_errors
from ..runtime import device as devices
from ..runtime.distributed import ALONE, Ranks
from .base import Metric, Scores
from .perplexity import MaskedLMMetric
from .scores import metric_of


@devices.memory_errors()
def evaluate(
    model: PreTrainedModel,
    split: Split,
    device: torch.device,
    precision: str,
    batch_size: int = 64,
    limit: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], object] = lambda rows: None,
    ranks: Ranks = ALONE,
) -> Scores | None:
    """Score a model on the rows of a split, in uniform batches where possible; their order does not matter. Where only
    some rows are asked for, they are drawn at random, whatever their lengths.

    A masked language model is scored on masked tokens, always the same ones, at any batch size. Ranks take turns with
    the batches, and each gets the scores that one process would: the same numbers are added in the same order.

    Args:
        model: on `device`.
        split: its classes must be among the model's; they are matched by name.
        device: where to compute.
        precision: `fp32`, `bf16` or `fp16`.
        batch_size: rows of a batch; about, where some rows are asked for.
        limit: score so many rows, always the same ones. None: every row.
        stop: asked before each batch; once it says so, on any rank, there is no result.
        progress: called with the rows of each batch when it is under way, another rank's included.
        ranks: the processes that evaluate together.

    Raises:
        InputError: the split has no rows, or there is no mask token.
        MismatchError: the split has a class that the model lacks.
        MemoryError: a batch does not fit.
    """
    if not len(split):
        raise InputError(f"split {split.name!r} of {split.folder} has no rows, so there is nothing to evaluate")
    masked = is_masked_model(model)
    score, metric = _masked(model, split, device) if masked else _labelled(model, split, device)
    losses: list[torch.Tensor] = []  # () each, 0 of a batch that another rank computes
    rows, stopped = 0, False
    model.eval()
    half = HalfWeights(model, precision)
    with torch.inference_mode(), half.in_use(), devices.autocast(device, precision):
        for batch in _batches(split, device, batch_size, limit):
            stopped = stop()
            if stopped:
                break
            rows += len(batch)
            mine = len(losses) % ranks.world_size == ranks.rank
            losses.append(torch.zeros((), device=device))
            if mine and (masked or batch.targets):
                with library_errors(MismatchError, f"the model cannot compute rows {batch.rows.tolist()[:8]}, …"):
                    losses[-1], logits, labels = score(batch)
                metric.update(logits, labels)
            progress(len(batch))
    if ranks.totals(stopped)[0]:
        return None
    metric.sum_ranks(ranks)
    each = ranks.sum_(torch.stack(losses)).tolist()
    return metric.compute(rows, math.fsum(each))


def _batches(split: Split, device: torch.device, batch_size: int, limit: int | None) -> Iterator[Batch]:
    """All rows, or about `limit` random ones: a single batch of a plan, sorted by length and cut into parts."""
    if limit is None or limit >= len(split):
        return iter(split.batches(0, PlanSpec("tight", batch_size), device=device, padding_side=PADDING_SIDE))
    spec, parts = PlanSpec("dynamic", limit), -(-limit // batch_size)
    cut = split.batches(0, spec, device=device, padding_side=PADDING_SIDE, gradient_accumulation_steps=parts)
    return islice(cut, parts)


def score_names(task: Task, masked: bool) -> tuple[str, ...]:
    """The names of the scores that `evaluate` gives for a cache's task, or of a masked language model; the loss among
    them."""
    device = torch.device("cpu")
    metric: Metric = MaskedLMMetric(device) if masked else metric_of(task, device)
    return tuple(name for name in metric.compute(0, 0.0).summary() if name != "rows")


Score = Callable[[Batch], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""From a batch to its loss () summed over targets or masked tokens, what the model says of each, and what is right."""


def _labelled(model: PreTrainedModel, split: Split, device: torch.device) -> tuple[Score, Metric]:
    classes = map_classes(model.config, split.task, device)

    def score(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = model_inputs(batch, model.config)
        inputs["labels"] = classes(inputs["labels"])
        output = model(**inputs)
        return output.loss.float() * batch.targets, output.logits, inputs["labels"]

    return score, metric_of(classes.task, device)


def _masked(model: PreTrainedModel, split: Split, device: torch.device) -> tuple[Score, Metric]:
    masking, (forward, _) = Masking.of(split, device), masked_forward(model)

    def score(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        masked = masking.mask(batch)
        return summed_loss(forward, positions=masking.masked_positions(masked), **model_inputs(masked, model.config))

    return score, MaskedLMMetric(device)
