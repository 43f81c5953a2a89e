"""FSDP2 over planned batches: weights, gradients and moments are divided among the ranks, for models too large for one
device. DistributedDataParallel, and `train run`, need no such thing up to about a billion parameters.

torchrun --nproc-per-node 2 examples/fsdp_loop.py cache/imdb minilm
"""

import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForSequenceClassification

from cache import BatchStream, open_cache
from cache.common.hub import local_folder


def main(cache_folder: str, model_name: str, steps: int = 20) -> float:
    """Train for some steps; returns the loss of the last one, over all ranks."""
    dist.init_process_group()
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type != "cpu":
        device = torch.device(device.type, dist.get_node_local_rank())
        torch.accelerator.set_device_index(device)
    torch.manual_seed(321)  # the same new head on all ranks
    cache = open_cache(cache_folder)
    folder = local_folder(model_name) or model_name
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(cache.manifest.task.label_names))
    model.to(device).train()
    for layer in model.base_model.encoder.layer:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    torch.manual_seed(321 + dist.get_rank())  # dropout of its own
    share = {"rank": dist.get_rank(), "world_size": dist.get_world_size(), "device": device}
    for number, batch in enumerate(BatchStream(cache["train"], epochs=3, **share), start=1):
        # Gradients are averaged over ranks: weigh each loss by its share of the step, 0 for a dummy batch.
        loss = model(**batch.model_inputs()).loss * batch.loss_weight
        (loss * dist.get_world_size()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach()
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            print(f"step {batch.step}: loss {total.item():.4f}")
        if number == steps:
            break
    dist.destroy_process_group()
    return total.item()


if __name__ == "__main__":
    main(*sys.argv[1:3])
