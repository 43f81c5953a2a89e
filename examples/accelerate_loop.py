"""Accelerate: each process takes its share of every planned batch. Requires the package accelerate.

accelerate launch examples/accelerate_loop.py cache/imdb minilm
"""

import sys

import torch
from accelerate import Accelerator
from transformers import AutoModelForSequenceClassification

from cache import BatchStream, open_cache
from cache.common.hub import local_folder


def main(cache_folder: str, model_name: str, steps: int = 20) -> float:
    """Train for some steps; returns the last loss of this process."""
    accelerator = Accelerator()
    torch.manual_seed(321)
    cache = open_cache(cache_folder)
    folder = local_folder(model_name) or model_name
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(cache.manifest.task.label_names))
    model.train()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=5e-5))
    torch.manual_seed(321 + accelerator.process_index)  # dropout of its own
    share = {"rank": accelerator.process_index, "world_size": accelerator.num_processes, "device": accelerator.device}
    for number, batch in enumerate(BatchStream(cache["train"], epochs=3, **share), start=1):
        loss = model(**batch.model_inputs()).loss
        # Gradients are averaged over processes: weigh each by its share of the step.
        accelerator.backward(loss * batch.loss_weight * accelerator.num_processes)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"step {batch.step}: loss {loss.item():.4f}")
        if number == steps:
            break
    return loss.item()


if __name__ == "__main__":
    main(*sys.argv[1:3])
