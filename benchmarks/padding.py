"""Padding of real reviews: whether a row's logits depend on it, and how much of it accumulation leaves.

    python -m benchmarks.padding

The largest difference of a row's logits in batches with more or less padding. The tokens of an epoch, padding included,
and of its largest micro-batch, with batches cut into 1, 2 and 4 micro-batches by cost, and into every n-th row.
"""

import itertools
import json

import numpy as np
import torch

from cache import PlanSpec, Split, open_cache
from cache.batches.micro_batches import Sharing, micro_batches
from cache.reading.padding import gather_rows, row_mask

from .corpus import imdb_cache, small_bert

PADDINGS = (0, 1, 50, 200)
"""Columns of padding behind the longest row of a batch, tokens."""
ROWS = 64


def main() -> None:
    split = open_cache(imdb_cache())["train"]
    for strategy, batch_size in itertools.product(("dynamic", "smart", "tight"), (16, 64)):
        for steps in (1, 2, 4):
            count_accumulated(split, PlanSpec(strategy, batch_size), steps)
    compare_logits(split)


def count_accumulated(split: Split, spec: PlanSpec, steps: int) -> None:
    """Print the tokens of an epoch in so many micro-batches a batch."""
    plan, facts = split.plan(spec, 0), {}
    for name, equal_rows in (("by_cost", False), ("every_nth_row", True)):
        sharing = Sharing(split.max_length, accumulation_steps=steps, equal_rows=equal_rows)
        tokens = micro_batches(plan, split.lengths, 0, len(plan), sharing).padded_tokens
        facts[name] = {"padded_tokens": int(tokens.sum()), "largest_micro_batch": int(tokens.max())}
    print(json.dumps({"stage": "accumulation", "plan": spec.id, "micro_batches": steps, **facts}))


def compare_logits(split: Split) -> None:
    """Print the largest difference between a row's logits in batches of other widths, and the largest logit."""
    from train.models.heads import quiet_transformers

    torch.manual_seed(0)
    from transformers import AutoModelForSequenceClassification

    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(small_bert(6)).eval()
    rows = np.sort(np.random.default_rng(0).choice(len(split), ROWS, replace=False))
    rows = rows[split.lengths[rows] + max(PADDINGS) <= model.config.max_position_embeddings]
    alone, largest = {}, 0.0
    for row in rows.tolist():
        alone[row] = _logits(model, split, np.array([row]), 0)[0]
        largest = max(largest, float(alone[row].abs().max()))
    difference = 0.0
    for padding in PADDINGS:
        for part in np.array_split(rows, len(rows) // 8):
            found = _logits(model, split, part, padding)
            expected = torch.stack([alone[row] for row in part.tolist()])
            difference = max(difference, float((found - expected).abs().max()))
    facts = {"rows": len(rows), "paddings": PADDINGS, "largest_difference": difference, "largest_logit": largest}
    print(json.dumps({"stage": "padding", **facts}))


def _logits(model: torch.nn.Module, split: Split, rows: np.ndarray, padding: int) -> torch.Tensor:
    lengths = split.lengths[rows]
    width = int(lengths[-1]) + padding
    tensors = split.shard(0)
    ids = gather_rows(tensors["input_ids"], tensors["offsets"][rows], lengths, width, 0)
    with torch.inference_mode():
        mask = torch.from_numpy(row_mask(lengths, width).astype(np.int64))
        return model(input_ids=torch.from_numpy(ids.astype(np.int64)), attention_mask=mask).logits


if __name__ == "__main__":
    main()
