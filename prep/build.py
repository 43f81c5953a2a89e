"""The build: text to cache.

Text flows one way: record batches -> ids -> sorted runs -> shards -> plans -> manifest. Everything is
written beside its place and renamed into it at the end.
"""

import datetime
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from cache import Cache, open_cache
from cache.common.folder import Folder
from cache.common.progress import ConsoleProgress
from cache.errors import CacheError, InputError, MismatchError, NotACacheError
from cache.format.manifest import (
    Manifest,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    fingerprint_of,
    open_folder,
    read_manifest,
)
from cache.format.special_tokens import read_specials
from cache.format.tasks import MLM, TOKENS, Task
from cache.writing.publishing import building, publish, remove_leftovers, staging
from cache.writing.writer import ShardColumns, write_manifest, write_shard, write_tokenizer

from .rows.encoding import Encoded, encode_source, id_type
from .rows.external_sort import merge
from .rows.selection import Selection
from .settings import BuildSettings
from .sources.corpus import Source
from .sources.opening import open_source
from .tokenization.engines import ParityError
from .tokenization.tokenizer import Encoder, TokenizerFiles, default_max_length, find_tokenizer, with_space_before
from .tokenization.words import packed_type, unpack

ROW_BYTES = 16
"""Bytes of a row in a shard beside its ids, label and first length: offset, source row."""


@dataclass(frozen=True)
class BuildResult:
    """What became of it: the cache, whether it was there already, and how many epochs were planned now."""

    cache: Cache
    up_to_date: bool
    planned: int


@dataclass(frozen=True)
class Parts:
    """What a build works with: the text, the tokenizer's bytes, the tokenizer at work."""

    source: Source
    tokenizer: TokenizerFiles
    encoder: Encoder


def build(settings: BuildSettings, console: ConsoleProgress, source: Source | None = None) -> BuildResult:
    """Build a cache, or find that it is there.

    Args:
        settings: what is asked for.
        console: where progress goes.
        source: what to read; None = what `settings.source` names.

    Raises:
        InputError: the source, its columns, texts or labels, or a setting is wrong.
        MismatchError: another cache has the name, and `force` is not set.
        StorageError: the folder cannot be written.
    """
    source = source or open_source(settings.source, settings.columns, settings.memory_bytes)
    tokenizer = find_tokenizer(settings.tokenizer)
    if settings.task == MLM:
        read_specials(tokenizer.files, tokenizer.name)  # refuses a tokenizer without a mask token
    unread = f"{source.unread} is not read: --task mlm takes no labels" if source.unread else ""
    for note in filter(None, (source.note, unread, tokenizer.note)):
        console.log(note)
    if source.words:
        _check_words(settings, source)
        tokenizer = with_space_before(tokenizer)
    max_length = settings.max_length or source.max_length or default_max_length(tokenizer)
    parts = Parts(source, tokenizer, Encoder(tokenizer, max_length, settings.engine, source.pair, source.words))
    manifest = _empty_manifest(settings, parts)
    place = Path(settings.out) / manifest.name
    cache = _existing(place, manifest, settings.force)
    if cache:
        remove_leftovers(place)
    else:
        with building(place, console.log):
            # Another process may have built it while this one waited; --force replaces what it meant to replace.
            cache = _existing(place, manifest, settings.force)
            if cache is None:
                return _build(place, manifest, settings, parts, console)
    return BuildResult(cache, True, _write_plans(cache, settings, console))


def _check_words(settings: BuildSettings, source: Source) -> None:
    """Lists of words are for token classification only."""
    if source.pair:
        raise InputError(f"--text-pair takes texts, but the text column of {source.argument} holds lists of words")
    if settings.task not in ("auto", TOKENS):
        raise InputError(
            f"--task {settings.task} takes texts, but the text column of {source.argument} holds lists of words, which "
            f"are for --task {TOKENS}; see --text"
            + f", or build with their tags and adapt a model to them with train run --task {MLM}"
            * (settings.task == MLM)
        )


def _build(
    place: Path, manifest: Manifest, settings: BuildSettings, parts: Parts, console: ConsoleProgress
) -> BuildResult:
    with staging(place) as folder:
        complete = _write(folder, manifest, settings, parts, console)
        planned = _write_plans(Cache(folder, complete), settings, console)
        publish(folder, place)
    return BuildResult(open_cache(place), False, planned)


def _empty_manifest(settings: BuildSettings, parts: Parts) -> Manifest:
    """The manifest but for what only the rows can tell."""
    source, tokenizer, encoder = parts.source, parts.tokenizer, parts.encoder
    holdout = source.holdout if settings.holdout is None else settings.holdout
    if holdout and (set(source.splits) != {"train"}):
        raise InputError(
            f"--holdout takes part of a lone split 'train' as 'test', but {source.where} has "
            f"the splits {', '.join(source.splits)}; pass --holdout 0"
        )
    asked = {} if settings.task == "auto" else {"task": settings.task}
    identity = {**source.identity, "holdout": holdout, "limit": settings.limit, **asked}
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
    return Manifest(
        name=settings.name or source.name,
        fingerprint=fingerprint_of(content),
        source={"argument": source.argument, **identity, **({"metric": source.metric} if source.metric else {})},
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
        plan=asdict(settings.plan),
        splits={},
    )


def _existing(place: Path, wanted: Manifest, force: bool) -> Cache | None:
    """The cache that is already there, if it is the one wanted."""
    try:
        with open_folder(place) as folder:
            found = read_manifest(folder)
    except NotACacheError:
        if place.exists() and any(place.iterdir()):
            raise InputError(
                f"{place} exists and is no cache; move it away, or pass --name or --out for another place"
            ) from None
        return None
    except CacheError:
        if force:
            return None
        raise
    if found.fingerprint == wanted.fingerprint:
        return open_cache(place) if not force else None
    if force:
        return None
    raise MismatchError(
        f"{place} holds a different cache: {'; '.join(_differences(found, wanted))}. "
        "Pass --name OTHER to keep both, or --force to replace it"
    )


def _differences(found: Manifest, wanted: Manifest) -> list[str]:
    lines = [
        f"{name} {before!r} there, {after!r} asked for"
        for name, before, after in (
            ("tokenizer", found.tokenizer.name, wanted.tokenizer.name),
            ("tokenizer.json", found.tokenizer.sha256[:12], wanted.tokenizer.sha256[:12]),
            ("max length", found.max_length, wanted.max_length),
        )
        if before != after
    ]
    keys = [key for key in {**found.source, **wanted.source} if key != "argument"]
    for key in keys:
        before, after = found.source.get(key), wanted.source.get(key)
        if before != after and key == "files":
            lines.append("the content of the source's files")
        elif before != after and key == "tables":
            lines.append("the texts or labels")
        elif before != after:
            lines.append(f"{key} {before!r} there, {after!r} asked for")
    return lines or ["settings of the tokenizer"]


# --- writing


def _write(
    folder: Folder, manifest: Manifest, settings: BuildSettings, parts: Parts, console: ConsoleProgress
) -> Manifest:
    """Write all files of the cache but its plans; returns the complete manifest."""
    spill = folder.path / ".runs"  # no split has such a name
    task = parts.source.task if settings.task == "auto" else settings.task
    selection = Selection(task, manifest.source["holdout"], settings.limit)
    arguments = (parts.source, parts.encoder, selection, spill, settings.memory_bytes, console)
    try:
        encoded = encode_source(*arguments)
    except ParityError as difference:
        console.log(f"warning: {difference}; tokenizing everything with tokenizers instead")
        parts.encoder.use("tokenizers")
        shutil.rmtree(spill, ignore_errors=True)
        encoded = encode_source(*arguments)
    facts, vocab_size = parts.encoder.facts(), parts.encoder.vocab_size
    parts.encoder.release()
    splits = {name: _write_split(folder, name, encoded, settings.shard_bytes, vocab_size) for name in encoded.splits}
    shutil.rmtree(spill, ignore_errors=True)
    complete = replace(
        manifest,
        splits=splits,
        task=encoded.task,
        tokenizer=replace(manifest.tokenizer, files=write_tokenizer(folder, parts.tokenizer.files)),
        build=facts,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_manifest(folder, complete)
    return complete


def _write_split(folder: Folder, name: str, encoded: Encoded, shard_bytes: int, vocab_size: int) -> SplitInfo:
    shards: list[ShardInfo] = []
    split = encoded.splits[name]
    labels, counts = split.labels, split.store.counts
    row_bytes = ROW_BYTES + (0 if labels is None else labels[:1].nbytes) + (4 if encoded.task.pair else 0)
    dtype = id_type(vocab_size) if encoded.marked is None else packed_type(vocab_size)
    for part in merge(split.store.sorted_runs, counts, dtype, shard_bytes, row_bytes):
        rows, ids = part.source_rows, part.ids
        first = None if split.first_lengths is None else split.first_lengths[rows]
        own = None if labels is None else labels[rows]
        if encoded.marked is not None:
            ids, marks = unpack(ids)
            own = encoded.marked[marks]
        columns = ShardColumns(ids, part.lengths, rows, own, first)
        shards.append(write_shard(folder, name, len(shards), columns, encoded.task))
    lengths = np.flatnonzero(counts)
    return SplitInfo(
        rows=int(counts.sum()),
        tokens=int(counts @ np.arange(len(counts))),
        shortest=int(lengths[0]) if len(lengths) else 0,
        longest=int(lengths[-1]) if len(lengths) else 0,
        length_histogram=tuple(counts.tolist()),
        shards=tuple(shards),
    )


def _write_plans(cache: Cache, settings: BuildSettings, console: ConsoleProgress) -> int:
    """Draw the epochs of the plan that are not there yet."""
    if "train" not in cache:
        return 0
    with console.bar("planning", settings.epochs, "epochs") as bar:
        _, added = cache["train"].keep_plan(settings.plan, settings.epochs, lambda _: bar.update(1))
    return added
