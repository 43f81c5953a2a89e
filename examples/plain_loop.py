"""A plain PyTorch loop over planned batches; where it stopped in them is kept, and the next run goes on from there.

python examples/plain_loop.py cache/imdb minilm
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from cache import BatchStream, open_cache
from cache.common.hub import local_folder


def main(cache_folder: str, model_name: str, steps: int = 20, state_file: str = "stream.json") -> float:
    """Train for some steps; returns the last loss."""
    torch.manual_seed(321)
    cache = open_cache(cache_folder)
    labels = len(cache.manifest.task.label_names)
    folder = local_folder(model_name) or model_name
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    stream = BatchStream(cache["train"], epochs=3)
    if Path(state_file).exists():
        stream.load_state_dict(json.loads(Path(state_file).read_text()))
    model.train()
    for number, batch in enumerate(stream, start=1):
        loss = model(**batch.model_inputs()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {batch.step}: {tuple(batch.input_ids.shape)} loss {loss.item():.4f}")
        if number == steps:
            break
    Path(state_file).write_text(json.dumps(stream.state_dict()))
    return loss.item()


if __name__ == "__main__":
    main(*sys.argv[1:3])
