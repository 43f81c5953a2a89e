"""Building a cache from Python."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache import Cache
from cache.common.progress import ConsoleProgress
from cache.errors import InputError
from cache.plans.spec import PlanSpec

from .build import build
from .settings import BuildSettings
from .sources.in_memory import given_source


def build_cache(
    data: Any,
    labels: Any = None,
    *,
    text_pairs: Any = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | Sequence[str] | None = None,
    name: str | None = None,
    out: str | os.PathLike[str] = "cache",
    task: str = "auto",
    tokenizer: str | None = None,
    engine: str = "auto",
    max_length: int | None = None,
    holdout: float | None = None,
    limit: int | None = None,
    strategy: str = "smart",
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    epochs: int = 3,
    memory_bytes: int = 1 << 30,
    force: bool = False,
    quiet: bool = False,
) -> Cache:
    """Build a cache as `prep build` does, or open the one that is there already with the same content.

    Args:
        data: texts as a list or the like, with `labels`; or a table: a DataFrame of pandas or polars, an Arrow table,
            anything else with `__arrow_c_stream__`, or a `datasets.Dataset`; or a dict of tables, the keys the names
            of splits, such as a `DatasetDict`; or what `prep build` takes: a preset, a Hub id, a file, a folder.
        labels: of the texts: numbers, names of classes, or lists of them; none where the task is mlm.
        text_pairs: a second text for each of the texts, for rows of two; or let `data` hold pairs.
        text, text_pair, label: columns of a table; None = the usual names, and no pairs. Several labels: a class each.
        name: of the cache; needed where the data comes from memory.
        out: folder of the caches.
        task: what labels are: auto, classification, regression, multi-label or token-classification, for which a list
            holds lists of words and `labels` lists of tags; or mlm, which takes none.
        tokenizer: Hub id, folder or `minilm`; None = bert-base-uncased.
        engine: who tokenizes: auto, nanotoken, gigatoken or tokenizers.
        max_length: tokens a row is truncated to; None = the preset's or the tokenizer's, at most 512.
        holdout: fraction of a lone split `train` to hold out as `test`; None = none, but for some presets.
        limit: most rows of each split, drawn at random.
        strategy, batch_size, max_tokens, seed: the plan to draw; see `cache.PlanSpec`.
        epochs: of it.
        memory_bytes: about how much memory the build may take, beside the data.
        force: replace a different cache of the same name.
        quiet: say nothing.

    Returns:
        The cache, open.

    Raises:
        InputError: the data, a text, a label or a setting is wrong.
        MismatchError: another cache has the name, and `force` is not set.
        StorageError: the folder cannot be written.

    Example:
        cache = build_cache(frame, text="review", label="stars", name="reviews", holdout=0.1)
    """
    columns = tuple(label) if label is not None and not isinstance(label, str) else label
    named_source = isinstance(data, str | os.PathLike)
    settings = BuildSettings(
        source=os.fspath(data) if named_source else "",
        out=Path(out),
        name=name,
        text=text,
        label=columns,
        text_pair=text_pair,
        task=task,
        tokenizer=tokenizer,
        engine=engine,
        max_length=max_length,
        holdout=holdout,
        limit=limit,
        plan=PlanSpec.of(strategy, batch_size, max_tokens, seed),
        epochs=epochs,
        force=force,
        memory_bytes=memory_bytes,
    )
    if named_source and (labels is not None or text_pairs is not None):
        raise InputError(f"{data!r} is taken for a preset, a file, a folder or a Hub id, which takes no labels=")
    source = (
        None if named_source else given_source(data, labels, text_pairs, settings.name, settings.columns, settings.task)
    )
    return build(settings, ConsoleProgress(quiet), source).cache
