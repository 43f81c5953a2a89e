"""Building a cache from Python."""

import os
from collections.abc import Mapping
from typing import Any, Unpack, get_type_hints

from cache import Cache
from cache.common.arguments import checked
from cache.console.progress import ConsoleProgress
from cache.errors import InputError

from .build import build
from .settings import BuildOptions, BuildSettings
from .sources.in_memory import given_source


def build_cache(
    data: Any, labels: Any = None, *, text_pairs: Any = None, quiet: bool = False, **options: Unpack[BuildOptions]
) -> Cache:
    """Build a cache as `prep build` does, or open the one that is there already with the same content.

    Args:
        data: texts as a list or the like, with `labels`; or a table: a DataFrame of pandas or polars, an Arrow table,
            anything else with `__arrow_c_stream__`, a `datasets.Dataset`, a list of dicts, one for each row, or a dict
            of lists, one for each column; or a dict of tables, the keys the names of splits, such as a `DatasetDict`;
            or what `prep build` takes: a preset, a Hub id, a file, a folder, a glob, or a dict of such files by split.
        labels: of the texts: numbers, names of classes, lists of them, or lists of 0 and 1, one for each class; none
            where the task is mlm.
        text_pairs: a second text for each of the texts, for rows of two; or let `data` hold pairs.
        quiet: print warnings alone.

    Keyword arguments, as the options of `prep build`:
        name: of the cache; None = the source's. Needed where the data comes from memory.
        out: folder of the caches (default "cache"), or its URL: the cache is pushed there, and is in the local store.
        text, text_pair, label: columns of a table; None = those with usual names. Several labels: a class each.
        task: what labels are: auto (default), classification, regression, multi-label or token-classification, for
            which a text is a list of words and its label a list of tags; or mlm, which takes none.
        tokenizer: Hub id, folder or `minilm`; None = bert-base-uncased.
        engine: who tokenizes: auto (default), nanotoken, gigatoken or tokenizers.
        max_length: tokens a row is truncated to; None = the preset's or the tokenizer's, at most 512.
        long_texts: what becomes of longer texts: truncate (default), or chunk, for the task mlm: a text is several
            rows, cut from its beginning on, with all of its tokens.
        holdout: fraction of a lone split `train` to hold out as `test`; None = none, but for some presets.
        validation: fraction of split `train` to hold out as `validation`, beside `holdout` (default 0).
        limit: most rows of each split, drawn at random; None = all.
        strategy, batch_size, max_tokens, seed: the plan of split `train`; see `cache.PlanSpec`.
        epochs: of the plan (default 3).
        delimiter: what separates the cells of csv and text files; None = what their names say.
        quotes: whether quotes around their cells may hold delimiters and line breaks, or are part of the text; None =
            they may, but it is an error where cells between tabs hold both, or a text follows the quote that ends a
            cell of several lines.
        missing: what becomes of rows whose text or label is missing or empty: error (default) or drop.
        memory_bytes: about how much memory the build may take, beside the data (default 1 GiB).
        executor: where to encode files: local (default), or ray, on a cluster; each of its tasks takes that memory.
        force: replace a different cache of the same name.

    Returns:
        The cache, open.

    Raises:
        InputError: the data, a text, a label or a setting is wrong.
        MismatchError: another cache has the name, and `force` is not set.
        StorageError: the folder cannot be written, or the store at a URL refuses.

    Example:
        cache = build_cache(frame, text="review", label="stars", name="reviews", holdout=0.1)
    """
    options = _checked(options)
    typed = _typed(data)
    if typed is None:
        settings = BuildSettings("", **options)
        source = given_source(data, labels, text_pairs, settings.name, settings.columns, settings.task)
        return build(settings, ConsoleProgress(quiet), source).cache
    if labels is not None or text_pairs is not None:
        raise InputError(f"{data!r} is taken for a preset, a file, a folder or a Hub id, which takes no labels=")
    return build(BuildSettings(typed, **options), ConsoleProgress(quiet)).cache


def _checked(options: BuildOptions) -> BuildOptions:
    """The options, all of them known and of the right types, or an `InputError`."""
    unknown = options.keys() - BuildOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(BuildOptions.__annotations__)
        raise InputError(f"build_cache has no option {', '.join(sorted(unknown))}; it has {known}")
    if hasattr(tokenizer := options.get("tokenizer"), "save_pretrained"):
        raise InputError(
            f"tokenizer is a {type(tokenizer).__name__}, expected a folder or a Hub id; save it with "
            "tokenizer.save_pretrained(FOLDER), and pass tokenizer=FOLDER"
        )
    found: BuildOptions = BuildOptions(**checked(options, get_type_hints(BuildOptions)))  # type: ignore[typeddict-item]
    return found


def _typed(data: Any) -> str | tuple[str, ...] | None:
    """What is typed behind `prep build` for a source that is named; None for data in memory."""
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    if isinstance(data, Mapping) and data and all(isinstance(path, str | os.PathLike) for path in data.values()):
        return tuple(f"{split}={os.fspath(path)}" for split, path in data.items())
    return None
