"""The cache: tokenized rows on disk, sorted by length, their batches planned ahead.

from cache import open_cache

imdb = open_cache("cache/imdb")
for batch in imdb["train"].batches(epoch=0):
    loss = model(**batch.model_inputs()).loss
"""

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
from .plans import STRATEGIES, EpochPlan, PlanSpec, plan_epoch
from .reader import Cache, Row, Split, open_cache

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
