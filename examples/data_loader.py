"""A torch DataLoader over planned batches: ready-made, hence `batch_size=None`; workers are allowed.

python examples/data_loader.py cache/imdb
"""

import sys

from torch.utils.data import DataLoader

from cache import StepDataset, open_cache


def main(cache_folder: str, workers: int = 2) -> int:
    """Read two epochs; returns the rows seen."""
    dataset = StepDataset(open_cache(cache_folder)["train"])
    rows = 0
    for epoch in range(2):
        dataset.set_epoch(epoch)
        for inputs in DataLoader(dataset, batch_size=None, num_workers=workers):
            rows += len(inputs["labels"])
        print(f"epoch {epoch}: {len(dataset):,} batches, {rows:,} rows so far")
    return rows


if __name__ == "__main__":
    main(sys.argv[1])
