"""The Hugging Face Trainer over planned batches. Requires the package accelerate.

python examples/hf_trainer.py cache/imdb minilm out

Under torchrun each process takes planned batches of its own: a step has the rows of as many of them as there are
processes.
"""

import sys
from operator import itemgetter
from typing import Any

from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from cache import StepDataset, open_cache
from cache.common.hub import local_folder


class PlannedTrainer(Trainer):
    """Takes its batches as planned; accelerate tells the dataset the epoch, and skips to the step to resume at."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """A loader whose items are whole batches; with no batch size, accelerate can neither skip nor share them."""
        return self.accelerator.prepare(DataLoader(self.train_dataset, batch_size=1, collate_fn=itemgetter(0)))


def main(cache_folder: str, model_name: str, out: str, resume: bool | str = False, **arguments: Any) -> Trainer:
    """Train, or go on from a checkpoint: that of the folder `resume`, or where it is True the newest in `out`."""
    cache = open_cache(cache_folder)
    names = cache.manifest.task.label_names
    folder = local_folder(model_name) or model_name
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names))
    settings = TrainingArguments(out, report_to="none", **arguments)
    trainer = PlannedTrainer(model, settings, train_dataset=StepDataset(cache["train"], always_mask=True))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:4], max_steps=20, logging_steps=5)
