"""The build: text to cache.

Text flows one way: record batches -> ids -> sorted runs -> shards -> plans -> manifest. Everything is written to a
temporary folder, which is renamed at the end.
"""

import contextlib
import datetime
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cache import Cache, open_cache
from cache.common.folder import Folder
from cache.common.hub import user_path
from cache.common.table_files import BY_NAME
from cache.console.progress import ConsoleProgress, waiting
from cache.console.text import counted
from cache.errors import InputError
from cache.format.manifest import MISSING_ROWS, Manifest
from cache.format.special_tokens import read_specials
from cache.format.tasks import MLM, TOKENS
from cache.remote.urls import StoreUrl
from cache.sharing.store import store_folder
from cache.writing.publishing import building, publish, remove_leftovers, staging
from cache.writing.writer import write_manifest, write_tokenizer

from .address_space import check_address_space
from .at_url import check_other_push, existing_at_url, find_place, lacks_epochs, push_built, stored
from .choices import CHUNK, DROP, LOCAL
from .corpus.missing import FilledRows, noting_left_out
from .corpus.source import STDIN, Source
from .existing import existing_cache, wanted_manifest
from .parsing.formats import not_csv
from .rows.assembly import Encoded, encode_source
from .rows.executors import Executor
from .rows.on_ray import check_ray, on_ray
from .rows.selection import Selection
from .rows.shards import write_splits
from .settings import BuildSettings
from .sources.opening import open_source
from .tokenization.encoder import Encoder
from .tokenization.engines import ParityError
from .tokenization.tokenizer_files import default_max_length, find_tokenizer, own_limit, with_space_before

SORTED_RUNS = ".runs"
"""Folder of the sorted runs of a build; splits have no such name."""


@dataclass(frozen=True)
class BuildResult:
    """A cache that was asked for.

    Attributes:
        cache: open, on this machine.
        up_to_date: whether it existed already.
        planned: how many epochs were planned now.
        url: where it was pushed to; None = nowhere.
    """

    cache: Cache
    up_to_date: bool
    planned: int
    url: StoreUrl | None = None

    @property
    def place(self) -> str:
        """The URL, or the folder."""
        return str(self.url or self.cache.folder)


def build(settings: BuildSettings, console: ConsoleProgress, source: Source | None = None) -> BuildResult:
    """Build a cache, or open it where it exists already; draw the epochs of the plan that are missing.

    `source` is what to read; None = what `settings.source` names.

    Raises:
        InputError: the source, its columns, texts or labels, or a setting is wrong.
        MismatchError: another cache has the name, and `force` is not set.
        StorageError: the folder cannot be written, or the store at a URL refuses.
    """
    check_address_space()
    url = find_place(settings.out)
    source = source or _opened(settings, console)
    _check_source(settings, source)
    if settings.missing == DROP:
        source = replace(source, splits={split: FilledRows(stream) for split, stream in source.splits.items()})
    with waiting("opening the tokenizer", console.quiet):
        tokenizer = find_tokenizer(settings.tokenizer)
    if settings.task == MLM:
        read_specials(tokenizer.files, tokenizer.name)  # refuses a tokenizer without a mask token
    unread = f"{source.unread} is not read: --task mlm takes no labels" if source.unread else ""
    for note in filter(None, (source.note, unread, tokenizer.note)):
        console.log(note)
    if source.words:
        tokenizer = with_space_before(tokenizer)
    max_length = settings.max_length or source.max_length or default_max_length(tokenizer)
    limit = own_limit(tokenizer)
    if limit is not None and max_length > limit:
        console.warn(
            f"--max-length {max_length}, but {tokenizer.name} is the tokenizer of a model whose rows have at "
            f"most {limit} tokens (model_max_length); such a model cannot train on this cache"
        )
    chunked = settings.long_texts == CHUNK
    encoder = Encoder(tokenizer, max_length, settings.engine, source.pair, source.words, chunked)
    manifest = wanted_manifest(settings, source, encoder)
    work = _Build(settings, source, encoder, manifest, console)
    if url is None:
        result = work.in_folder(user_path(settings.out) / manifest.name)
    else:
        result = work.at_url(url / manifest.name)
    default = result.cache.manifest.plan
    if default != settings.plan:
        console.warn(
            f"{result.place} was built with the plan {default.id}, which stays its default; "
            f"{settings.plan.id} is taken where it is named, from Python as spec={settings.plan!r}"
        )
    return result


def _opened(settings: BuildSettings, console: ConsoleProgress) -> Source:
    """The source that is named; a terminal shows that it is opened, for it may be downloaded, and files are hashed."""
    first = settings.source if isinstance(settings.source, str) else settings.source[0]
    with waiting(f"opening {first}", console.quiet):
        return open_source(settings.source, settings.columns, settings.memory_bytes)


@dataclass(frozen=True)
class _Build:
    """What is to be built, wherever it goes: `manifest` is the cache's, without what follows from the rows."""

    settings: BuildSettings
    source: Source
    encoder: Encoder
    manifest: Manifest
    console: ConsoleProgress

    def in_folder(self, path: Path) -> BuildResult:
        """Build the cache at `path`, or open it."""
        found = self._existing(path)
        if found:
            remove_leftovers(path)
            return found
        with building(path, self.console.log):
            return self._locked(path)

    def at_url(self, url: StoreUrl) -> BuildResult:
        """Build the cache on this machine and push it, or pull it; afterwards it lies in the local store, too.

        Raises:
            MismatchError: there is another cache at the URL, and `force` is not set.
            InputError: another push to the URL is under way, or was stopped, and `force` is not set.
        """
        path = store_folder() / f"{self.manifest.name}-{self.manifest.fingerprint[:12]}"
        if existing_at_url(url, self.manifest, self.settings.force) and not path.exists():
            return self._pulled(url)
        with building(path, self.console.log):
            # Another process may have pushed it while this one waited.
            if existing_at_url(url, self.manifest, self.settings.force):
                if path.exists():  # its push failed here, and somebody pushed it by hand
                    stored(open_cache(path))
                return self._pulled(url)
            check_other_push(url, path, self.settings.force)
            built = self._locked(path)
            push_built(built.cache, url, self.settings.force, self.console)
            return replace(built, cache=stored(built.cache), up_to_date=False, url=url)

    def _existing(self, path: Path) -> BuildResult | None:
        cache = existing_cache(path, self.manifest, self.settings.force)
        return BuildResult(cache, True, self._plan(cache)) if cache else None

    def _locked(self, path: Path) -> BuildResult:
        """Build the cache at `path`, inside `building`."""
        found = self._existing(path)  # another process may have built it while this one waited
        if found:
            return found
        with staging(path) as folder:
            with _executor(self.settings, folder.path, self.console) as executor:
                encoded = self._encode(folder.path / SORTED_RUNS, executor)
                complete = self._write(folder, encoded, executor)
            planned = self._plan(Cache(folder, complete))
            publish(folder, path)
        return BuildResult(open_cache(path), False, planned)

    def _pulled(self, url: StoreUrl) -> BuildResult:
        cache = open_cache(str(url), quiet=self.console.quiet)
        planned = self._plan(cache)
        if lacks_epochs(url, cache, self.settings.plan, self.settings.epochs):
            cache.push(str(url), progress=self.console)
        return BuildResult(cache, True, planned, url)

    def _encode(self, spill: Path, executor: Executor) -> Encoded:
        """Tokenize the source into sorted runs; with `tokenizers` where a faster engine gives other ids."""
        settings, source = self.settings, self.source
        task = source.task if settings.task == "auto" else settings.task
        held = {"test": self.manifest.source["holdout"], "validation": settings.validation}
        wanted = {name: fraction for name, fraction in held.items() if fraction}
        selection = Selection(task, wanted, settings.limit, settings.plan.max_tokens)
        encode = partial(
            encode_source, source, self.encoder, selection, spill, settings.memory_bytes, executor, self.console
        )
        with noting_left_out(settings.missing == DROP):
            try:
                return encode()
            except ParityError as difference:
                self.console.warn(f"{difference}; tokenizing everything with tokenizers instead")
                self.encoder.use("tokenizers")
                shutil.rmtree(spill, ignore_errors=True)
                return encode()

    def _write(self, folder: Folder, encoded: Encoded, executor: Executor) -> Manifest:
        """Write shards, tokenizer and manifest; returns the complete manifest."""
        facts = {**self.encoder.facts(), "rows_checked": encoded.rows_checked}
        self.encoder.release()
        splits = write_splits(folder, encoded, self.settings.shard_bytes, executor, self.console)
        shutil.rmtree(folder.path / SORTED_RUNS, ignore_errors=True)
        empty = sum(sum(split.length_histogram[: self.encoder.special_tokens + 1]) for split in splits.values())
        if empty:
            self.console.warn(
                f"{counted(empty, 'row')} without text, of special tokens alone; --missing drop leaves such rows out"
            )
        missing = {MISSING_ROWS: encoded.left_out} if encoded.left_out else {}
        complete = replace(
            self.manifest,
            source={**self.manifest.source, **missing},
            splits=splits,
            task=encoded.task,
            tokenizer=replace(self.manifest.tokenizer, files=write_tokenizer(folder, self.encoder.files.files)),
            build=facts,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        write_manifest(folder, complete)
        return complete

    def _plan(self, cache: Cache) -> int:
        """Draw the epochs of the plan that are missing; returns how many."""
        if "train" not in cache:
            return 0
        epochs = self.settings.epochs
        with self.console.bar("planning", epochs, "epochs") as bar:
            return cache["train"].keep_plan(self.settings.plan, epochs, lambda _: bar.update(1))[1]


def _executor(
    settings: BuildSettings, folder: Path, console: ConsoleProgress
) -> contextlib.AbstractContextManager[Executor]:
    """Where the tasks of the build run."""
    if settings.executor == LOCAL:
        return contextlib.nullcontext(Executor())
    return on_ray(settings.part_bytes, folder, console)


def _check_source(settings: BuildSettings, source: Source) -> None:
    """Raise an `InputError` where a setting does not go with the source."""
    if settings.columns.cells != BY_NAME and source.identity["kind"] != "files":
        raise not_csv(settings.columns.cells, source.where)
    _check_executor(settings, source)
    if source.words:
        _check_words(settings, source)
    if settings.long_texts == CHUNK and source.pair:
        raise InputError(f"--long-texts {CHUNK} takes one text per row, but {source.where} has two; leave it out")


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
