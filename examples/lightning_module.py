"""Lightning over planned batches. Requires the package lightning.

python examples/lightning_module.py cache/imdb minilm

Save checkpoints at the ends of epochs: from one within, Lightning takes as many batches as were left, but from the
epoch's first on, as it does with any DataLoader that has no state.
"""

import sys
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

from cache import StepDataset, open_cache
from cache.common.hub import local_folder


class Classifier(lightning.LightningModule):
    """A classifier that trains on whatever batches it is given."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model.train()  # Lightning leaves it as it is, and `from_pretrained` for evaluation

    def training_step(self, inputs: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        """The loss of a planned batch."""
        loss: torch.Tensor = self.model(**inputs).loss
        self.log("loss", loss, batch_size=len(inputs["labels"]))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=5e-5)


class Planned(lightning.LightningDataModule):
    """Batches as planned; each epoch's loader is made anew (`reload_dataloaders_every_n_epochs=1`)."""

    def __init__(self, cache_folder: str) -> None:
        super().__init__()
        self.dataset = StepDataset(open_cache(cache_folder)["train"])

    def train_dataloader(self) -> DataLoader[Any]:
        """The loader of the epoch that begins."""
        self.dataset.set_epoch(self.trainer.current_epoch if self.trainer else 0)
        return DataLoader(self.dataset, batch_size=None)


def main(cache_folder: str, model_name: str, **arguments: Any) -> lightning.Trainer:
    """Train for some steps."""
    cache = open_cache(cache_folder)
    folder = local_folder(model_name) or model_name
    labels = len(cache.manifest.task.label_names)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)
    trainer = lightning.Trainer(reload_dataloaders_every_n_epochs=1, **arguments)
    trainer.fit(Classifier(model), datamodule=Planned(cache_folder))
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:3], max_steps=20)
