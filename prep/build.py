"""The build: text to cache.

Text flows one way: record batches -> ids -> sorted runs -> shards -> plans -> manifest. Everything is written to a
temporary folder, which is renamed at the end.
"""

import contextlib
import datetime
import resource
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from cache import Cache, open_cache
from cache.common.folder import Folder
from cache.common.progress import ConsoleProgress
from cache.errors import InputError
from cache.format.manifest import MISSING_ROWS, Manifest
from cache.format.special_tokens import read_specials
from cache.format.tasks import MLM, TOKENS
from cache.writing.publishing import building, publish, remove_leftovers, staging
from cache.writing.writer import write_manifest, write_tokenizer

from .choices import DROP, LOCAL
from .existing import existing_cache, wanted_manifest
from .rows.assembly import Encoded, encode_source
from .rows.executors import Executor
from .rows.on_ray import check_ray, on_ray
from .rows.selection import Selection
from .rows.shards import write_splits
from .settings import BuildSettings
from .sources.corpus import STDIN, Source
from .sources.missing import FilledRows, noting_left_out
from .sources.opening import open_source
from .tokenization.encoder import Encoder
from .tokenization.engines import ParityError
from .tokenization.tokenizer_files import default_max_length, find_tokenizer, own_limit, with_space_before

ADDRESS_SPACE = 1 << 30
"""Bytes that a process must be allowed to map: libraries take 500 MB of them, threads and their caches the rest."""


@dataclass(frozen=True)
class BuildResult:
    """The cache, whether it existed already, and how many epochs were planned now."""

    cache: Cache
    up_to_date: bool
    planned: int


def build(settings: BuildSettings, console: ConsoleProgress, source: Source | None = None) -> BuildResult:
    """Build a cache, or open it where it exists already; draw the epochs of the plan that are missing.

    Args:
        settings: all settings.
        console: where progress goes.
        source: what to read; None = what `settings.source` names.

    Raises:
        InputError: the source, its columns, texts or labels, or a setting is wrong.
        MismatchError: another cache has the name, and `force` is not set.
        StorageError: the folder cannot be written.
    """
    _check_address_space()
    source = source or open_source(settings.source, settings.columns, settings.memory_bytes)
    if settings.delimiter is not None and source.identity["kind"] != "files":
        raise InputError(f"--delimiter is for csv and text files, but {source.where} is neither; leave it out")
    _check_executor(settings, source)
    if settings.missing == DROP:
        source = replace(source, splits={split: FilledRows(stream) for split, stream in source.splits.items()})
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
    limit = own_limit(tokenizer)
    if limit is not None and max_length > limit:
        console.log(
            f"warning: --max-length {max_length}, but {tokenizer.name} is the tokenizer of a model whose rows have at "
            f"most {limit} tokens (model_max_length); such a model cannot train on this cache"
        )
    encoder = Encoder(tokenizer, max_length, settings.engine, source.pair, source.words)
    manifest = wanted_manifest(settings, source, tokenizer, encoder)
    path = Path(settings.out) / manifest.name
    cache = existing_cache(path, manifest, settings.force)
    if cache:
        remove_leftovers(path)
        return BuildResult(cache, True, _write_plans(cache, settings, console))
    with building(path, console.log):
        # Another process may have built it while this one waited.
        cache = existing_cache(path, manifest, settings.force)
        if cache:
            return BuildResult(cache, True, _write_plans(cache, settings, console))
        with staging(path) as folder:
            with _executor(settings, folder.path, console) as executor:
                spill = folder.path / SORTED_RUNS
                encoded = _encode(source, encoder, manifest, settings, spill, executor, console)
                complete = _write(folder, manifest, encoded, encoder, settings, executor, console)
            planned = _write_plans(Cache(folder, complete), settings, console)
            publish(folder, path)
        return BuildResult(open_cache(path), False, planned)


def _executor(
    settings: BuildSettings, folder: Path, console: ConsoleProgress
) -> contextlib.AbstractContextManager[Executor]:
    """Where the tasks of the build run."""
    if settings.executor == LOCAL:
        return contextlib.nullcontext(Executor())
    return on_ray(settings.part_bytes, folder, console)


def _check_executor(settings: BuildSettings, source: Source) -> None:
    """Tasks of other processes read files, which all of them can see."""
    if settings.executor == LOCAL:
        return
    check_ray()
    if source.argument in ("", STDIN):
        raise InputError(
            f"--executor {settings.executor} reads files that all machines see, but "
            f"{'standard input' if source.argument else source.where} is in this process; write it to a file, or leave "
            "--executor out"
        )


def _check_address_space() -> None:
    """Refuse to start where the libraries that parse and tokenize would abort for lack of memory."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise InputError(
            f"this process may have {limit >> 20:,} MiB of address space, expected {ADDRESS_SPACE >> 20:,} MiB or more "
            "to build a cache; first run: ulimit -v unlimited"
        )


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


# --- writing


SORTED_RUNS = ".runs"
"""Folder of the sorted runs of a build; splits have no such name."""


def _encode(
    source: Source,
    encoder: Encoder,
    manifest: Manifest,
    settings: BuildSettings,
    spill: Path,
    executor: Executor,
    console: ConsoleProgress,
) -> Encoded:
    """Tokenize the source into sorted runs; with `tokenizers` where a faster engine gives other ids."""
    task = source.task if settings.task == "auto" else settings.task
    held = {"test": manifest.source["holdout"], "validation": settings.validation}
    selection = Selection(task, {name: fraction for name, fraction in held.items() if fraction}, settings.limit)
    arguments = (source, encoder, selection, spill, settings.memory_bytes, executor, console)
    with noting_left_out(settings.missing == DROP):
        try:
            return encode_source(*arguments)
        except ParityError as difference:
            console.log(f"warning: {difference}; tokenizing everything with tokenizers instead")
            encoder.use("tokenizers")
            shutil.rmtree(spill, ignore_errors=True)
            return encode_source(*arguments)


def _write(
    folder: Folder,
    manifest: Manifest,
    encoded: Encoded,
    encoder: Encoder,
    settings: BuildSettings,
    executor: Executor,
    console: ConsoleProgress,
) -> Manifest:
    """Write shards, tokenizer and manifest; returns the complete manifest."""
    facts = {**encoder.facts(), "rows_checked": encoded.rows_checked}
    encoder.release()
    splits = write_splits(folder, encoded, settings.shard_bytes, executor, console)
    shutil.rmtree(folder.path / SORTED_RUNS, ignore_errors=True)
    complete = replace(
        manifest,
        source={**manifest.source, **({MISSING_ROWS: encoded.left_out} if encoded.left_out else {})},
        splits=splits,
        task=encoded.task,
        tokenizer=replace(manifest.tokenizer, files=write_tokenizer(folder, encoder.files.files)),
        build=facts,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_manifest(folder, complete)
    return complete


def _write_plans(cache: Cache, settings: BuildSettings, console: ConsoleProgress) -> int:
    """Draw the epochs of the plan that are missing; returns how many."""
    if "train" not in cache:
        return 0
    with console.bar("planning", settings.epochs, "epochs") as bar:
        _, added = cache["train"].keep_plan(settings.plan, settings.epochs, lambda _: bar.update(1))
    return added
