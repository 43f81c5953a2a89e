"""The cache: tokenized rows on disk, sorted by length, their batches planned ahead.

    from cache import open_cache

    imdb = open_cache("cache/imdb")
    for batch in imdb["train"].batches(epoch=0):
        loss = model(**batch.model_inputs()).loss

Names that need numpy or torch are looked up when they are first used: `import cache`, as the commands do, is light.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    CacheError,
    CorruptCacheError,
    FormatVersionError,
    InputError,
    LengthwiseError,
    MismatchError,
    NotACacheError,
    StorageError,
)
from .plans.spec import STRATEGIES, PlanSpec

if TYPE_CHECKING:
    from .batches.batch import Batch
    from .batches.batches import Batches
    from .batches.streams import BatchStream, StepDataset
    from .opening import Cache, Split, open_cache
    from .plans.strategies import EpochPlan, plan_epoch
    from .reading.row import Row

_MODULES = {
    "Batch": "batches.batch",
    "BatchStream": "batches.streams",
    "Batches": "batches.batches",
    "Cache": "opening",
    "EpochPlan": "plans.strategies",
    "Row": "reading.row",
    "Split": "opening",
    "StepDataset": "batches.streams",
    "open_cache": "opening",
    "plan_epoch": "plans.strategies",
}

__all__ = [
    "STRATEGIES",
    "Batch",
    "BatchStream",
    "Batches",
    "Cache",
    "CacheError",
    "CorruptCacheError",
    "EpochPlan",
    "FormatVersionError",
    "InputError",
    "LengthwiseError",
    "MismatchError",
    "NotACacheError",
    "PlanSpec",
    "Row",
    "Split",
    "StepDataset",
    "StorageError",
    "open_cache",
    "plan_epoch",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
