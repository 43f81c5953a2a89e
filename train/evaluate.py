"""A model's scores on a split: `train.scores` counts, this feeds it."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from cache.errors import InputError
from cache.plans import PlanSpec
from cache.reader import Split

from . import device as devices
from .inputs import PADDING_SIDE, model_inputs
from .scores import Scores, tally_of


def evaluate(
    model: PreTrainedModel,
    split: Split,
    device: torch.device,
    precision: str,
    batch_size: int = 64,
    limit: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], object] = lambda rows: None,
) -> Scores | None:
    """Score a model on the rows of a split, in uniform batches where possible; their order does not matter.

    Args:
        model: on `device`.
        split: its labels must be the model's.
        device: where to compute.
        precision: `fp32` or `bf16`.
        batch_size: rows of a batch.
        limit: stop after the batch that reaches so many rows; batches come in an order that is random, but always the
            same. None: every row.
        stop: asked before each batch; once it says so, there is no result.
        progress: called with the rows of each batch when it is under way.

    Raises:
        InputError: the split has no rows.
    """
    if not len(split):
        raise InputError(f"split {split.name!r} of {split.cache.folder} has no rows, so there is nothing to evaluate")
    tally = tally_of(split.cache.manifest.task, device)
    loss = torch.zeros((), device=device)
    rows = 0
    model.eval()
    with torch.inference_mode(), devices.autocast(device, precision):
        for batch in split.batches(0, PlanSpec("tight", batch_size), device=device, padding_side=PADDING_SIDE):
            if stop():
                return None
            if rows >= (limit or len(split)):
                break
            rows += len(batch)
            if not batch.targets:
                continue
            output = model(**model_inputs(batch, model.config))
            loss += output.loss.float() * batch.targets
            tally.add(output.logits, batch.labels)
            progress(len(batch))
    return tally.scores(rows, float(loss))
