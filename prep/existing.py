"""Which cache a build is to make, and whether it is there already: both by its fingerprint."""

from pathlib import Path

from cache import Cache, open_cache
from cache.errors import CacheError, InputError, MismatchError, NotACacheError
from cache.format.manifest import LONG_TEXTS, MISSING_ROWS, Manifest, TokenizerInfo, fingerprint_of
from cache.format.tasks import Task
from cache.reading.manifest import open_folder, read_manifest
from cache.remote.urls import StoreUrl

from .choices import TRUNCATE
from .corpus.source import Source
from .settings import BuildSettings
from .tokenization.encoder import Encoder


def wanted_manifest(settings: BuildSettings, source: Source, encoder: Encoder) -> Manifest:
    """The manifest of a cache to build, without what follows from the rows; raises what `_holdout` does."""
    identity = {**source.identity, "holdout": _holdout(settings, source), "limit": settings.limit}
    if settings.task != "auto":
        identity["task"] = settings.task
    if settings.validation:
        identity["validation"] = settings.validation
    if settings.long_texts != TRUNCATE:
        identity[LONG_TEXTS] = settings.long_texts
    tokenizer = encoder.files
    content = {
        "source": identity,
        "label_names": source.label_names,
        "tokenizer": tokenizer.sha256,
        "special_tokens": True,
        "pad_id": encoder.pad_id,
        "padding_side": encoder.padding_side,
        "truncation_side": encoder.truncation_side,
        "max_length": encoder.max_length,
    }
    metric = {"metric": source.metric} if source.metric else {}
    return Manifest(
        name=settings.name or source.name,
        fingerprint=fingerprint_of(content),
        source={"argument": list(source.arguments) or source.argument, **identity, **metric},
        tokenizer=TokenizerInfo(
            tokenizer.name,
            tokenizer.revision,
            tokenizer.sha256,
            encoder.vocab_size,
            encoder.pad_id,
            encoder.padding_side,
            (),
        ),
        max_length=encoder.max_length,
        task=Task("classification", source.label_names or (), source.pair),  # as far as it is known yet
        plan=settings.plan,
        splits={},
    )


def _holdout(settings: BuildSettings, source: Source) -> float:
    """The fraction of split `train` to hold out as `test`.

    Raises:
        InputError: the source lacks the split that rows are to be held out of.
    """
    holdout = source.holdout if settings.holdout is None else settings.holdout
    has = f"but {source.where} has the splits {', '.join(source.splits)}"
    if holdout and set(source.splits) != {"train"}:
        raise InputError(f"--holdout takes part of a lone split 'train' as 'test', {has}; pass --holdout 0")
    if settings.validation and ("train" not in source.splits or "validation" in source.splits):
        raise InputError(f"--validation takes part of the split 'train' as 'validation', {has}; leave it out")
    if holdout + settings.validation >= 1:
        raise InputError(f"--holdout {holdout} and --validation {settings.validation} leave no rows to train on")
    return holdout


def existing_cache(path: Path, wanted: Manifest, force: bool) -> Cache | None:
    """The cache at `path` if it is the one wanted; None where there is none, or where it is to be replaced.

    Raises:
        InputError: something else is there.
        MismatchError: it is another cache, and `force` is not set.
    """
    try:
        with open_folder(path) as folder:
            found = read_manifest(folder)
    except NotACacheError:
        if path.exists() and any(path.iterdir()):
            raise InputError(
                f"{path} exists and is not a cache; move it away, or pass --name or --out for another folder"
            ) from None
        return None
    except CacheError:
        if force:
            return None
        raise
    if force:
        return None
    if found.fingerprint == wanted.fingerprint:
        return open_cache(path)
    raise different(path, found, wanted)


def different(place: Path | StoreUrl, found: Manifest, wanted: Manifest) -> MismatchError:
    """What to raise where another cache than the one wanted is at a folder or a URL."""
    return MismatchError(
        f"{place} holds a different cache: {'; '.join(_differences(found, wanted))}. "
        "Pass --name OTHER to keep both, or --force to replace it"
    )


def _differences(found: Manifest, wanted: Manifest) -> list[str]:
    compared = {
        "tokenizer": (found.tokenizer.name, wanted.tokenizer.name),
        "tokenizer.json": (found.tokenizer.sha256[:12], wanted.tokenizer.sha256[:12]),
        "max length": (found.max_length, wanted.max_length),
    }
    for key in {**found.source, **wanted.source}:
        if key not in ("argument", MISSING_ROWS):
            compared[key] = found.source.get(key), wanted.source.get(key)
    long = {"files": "the content of the source's files", "tables": "the texts or labels"}
    lines = [
        long.get(name, f"{name} {before!r} there, {after!r} asked for")
        for name, (before, after) in compared.items()
        if before != after
    ]
    return lines or ["settings of the tokenizer"]
