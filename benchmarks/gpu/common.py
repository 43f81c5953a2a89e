"""What every case of the GPU benchmark shares: device and cache, models of known shapes, windows of steps.

Models have random weights, so that nothing is downloaded. A case trains windows of some steps, the first of which warms
up; of the others tokens and seconds are summed first and divided once. The device is waited for at their ends alone.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache import open_cache
from train.models.heads import quiet_transformers

from ..timing import Json

SHAPES: dict[str, tuple[str, Json]] = {
    "minilm-6": ("bert", {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}),
    "bert-base": ("bert", {}),
    "modernbert-base": ("modernbert", {}),
}
"""Model to its type and what differs from the type's usual sizes."""
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

SEED = 321
WINDOWS = 4
"""Windows of steps in a case; the first one warms up."""
WORKERS = 4
"""Processes of the DataLoader beside ours, on an accelerator."""


@dataclass(frozen=True)
class Place:
    """Where everything is measured.

    Attributes:
        device: where to compute.
        quick: tiny shapes and few steps, to see that it works.
        cache: the folder of the cache.
    """

    device: torch.device
    quick: bool
    cache: str

    @classmethod
    def read(cls, settings: str) -> "Place":
        """From the command line."""
        given = json.loads(settings)
        cache = given["cache"]
        if not cache:
            from ..corpus import imdb_cache

            cache = str(imdb_cache())
        return cls(torch.device(given["device"]), given["quick"], cache)

    def config(self, model: str) -> Any:
        """A model's configuration."""
        from transformers import AutoConfig

        kind, sizes = SHAPES[model]
        sizes = {"pad_token_id": 0, "num_labels": 2, **sizes, **(TINY if self.quick else {})}
        return AutoConfig.for_model(kind, **sizes)

    def model(self, name: str) -> Any:
        """A classifier of random weights, on the device."""
        from transformers import AutoModelForSequenceClassification

        torch.manual_seed(SEED)
        with quiet_transformers(), self.device:
            return AutoModelForSequenceClassification.from_config(self.config(name))

    def window(self, batch_size: int) -> int:
        """Steps of a window: as many as the Trainer's length-grouped sampler sorts at a time, so that all lengths
        occur in it."""
        rows = len(open_cache(self.cache)["train"])
        return 2 if self.quick else max(1, min(50, rows // (4 * batch_size)))

    @functools.lru_cache(maxsize=1)  # noqa: B019  # there is one place in a process
    def rows(self) -> Any:
        """All rows as the Trainer and a DataLoader take them."""
        split = open_cache(self.cache)["train"]
        return [{"input_ids": row.input_ids.tolist(), "labels": row.label} for row in split]

    def collate(self) -> Any:
        """Transformers' collator, which pads to the longest row."""
        from transformers import AutoTokenizer, DataCollatorWithPadding

        return DataCollatorWithPadding(AutoTokenizer.from_pretrained(Path(self.cache) / "tokenizer"))

    def epoch_tokens(self) -> int:
        """Real tokens of all rows."""
        return open_cache(self.cache)["train"].info.tokens

    def workers(self) -> int:
        """Processes of a DataLoader."""
        return 0 if self.quick or self.device.type == "cpu" else WORKERS

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


@dataclass
class Window:
    """Sums over the steps of a window."""

    seconds: float = 0.0
    rows: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    model_flops: float = 0.0
    loss: float = 0.0


def rates(windows: list[Window], epoch_tokens: int, peak_tflops: float | None = None) -> Json:
    """Rates over all windows but the first, how far those of single windows spread, and the time of an epoch."""
    measured = windows[1:]
    seconds = sum(window.seconds for window in measured)
    real = sum(window.real_tokens for window in measured)
    each = [window.real_tokens / window.seconds for window in measured]
    tflops = sum(window.model_flops for window in measured) / seconds / 1e12
    return {
        "tokens_per_second": real / seconds,
        "spread": (max(each) - min(each)) * seconds / real,
        "rows_per_second": sum(window.rows for window in measured) / seconds,
        "padding": sum(window.padded_tokens for window in measured) / real - 1,
        "seconds": seconds,
        "epoch_seconds": epoch_tokens * seconds / real,
        "losses": [round(window.loss, 4) for window in windows],
        **({"model_tflops_per_second": tflops} if tflops else {}),
        **({"mfu": tflops / peak_tflops} if tflops and peak_tflops else {}),
    }
