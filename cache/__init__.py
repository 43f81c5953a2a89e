"""The cache: tokenized rows on disk, sorted by length, their batches planned ahead.

    from cache import open_cache

    imdb = open_cache("cache/imdb")
    for batch in imdb["train"].batches(epoch=0):
        loss = model(**batch.model_inputs()).loss

Names are looked up when they are first used: importing `cache.errors` alone, as the commands do, loads no numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from .plans.strategies import EpochPlan, plan_epoch
    from .reading.opening import Cache, Row, Split, open_cache

__all__ = [
    "STRATEGIES",
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
    "StorageError",
    "open_cache",
    "plan_epoch",
]

_MODULES = ("errors", "plans.spec", "plans.strategies", "reading.opening")


def __getattr__(name: str) -> object:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f".{module}", __name__), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
