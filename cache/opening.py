"""Opening a cache, and checking its structure: every file there, of the right size and header.

    imdb = open_cache("cache/imdb")
    for batch in imdb["train"].batches(epoch=0): ...

Opening reads the manifest, maps every shard and checks its header and the edges of its offsets, and does the same
for stored plans; that takes milliseconds. `verify` reads every byte.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batches.options import BatchOptions
from .common.files import storage_errors
from .common.folder import Folder
from .common.hub import user_path
from .common.locks import hold_shared
from .console.progress import ConsoleProgress
from .console.text import counted
from .errors import CacheError, CorruptCacheError, InputError, MismatchError, NotACacheError, StorageError
from .format.files import FileInfo, open_file_info, open_listed
from .format.manifest import MANIFEST, TOKENIZER, Manifest
from .format.plan_file import PLAN_FILE, PLANS, plan_remedy
from .plans.spec import PlanSpec
from .reading.in_place import in_place
from .reading.manifest import naming_remedy, open_folder, read_manifest
from .reading.split_reader import SplitReader
from .reading.tokenizer import StoredTokenizer
from .reading.unlisted import Finding, find_unlisted
from .remote.urls import is_url, parse_url
from .writing.publishing import recover

if TYPE_CHECKING:
    from typing import Unpack

    from .batches.batches import Batches
    from .sharing.pushing import Pushed


def open_cache(folder: str | Path, *, verify: bool = False, quiet: bool = False) -> "Cache":
    """Open the cache in `folder`.

    Args:
        folder: for example "cache/imdb" or "~/imdb"; or a URL such as "s3://bucket/caches/imdb", whose cache is brought
            to the local store first, unless it is there (docs/sharing.md).
        verify: also check every byte against its checksum, as `prep verify` does.
        quiet: show no progress of a download.

    Raises:
        NotACacheError: the folder holds no cache.
        FormatVersionError: another version wrote it.
        CorruptCacheError: the manifest, or a file's size or header is not as written, or with `verify` any byte.
        MismatchError: a stored plan is of another cache.
        InputError: `folder` is a URL that names nothing.
        StorageError: the system does not let a file be read; a remote store or the network refuses.
    """
    if isinstance(folder, str) and is_url(folder):
        from .sharing.pulling import pull

        with pull(folder, progress=ConsoleProgress(quiet)) as pulled:
            return open_cache(pulled.folder, verify=verify)
    path = user_path(folder)
    while True:
        files = _open_folder(path)
        try:
            cache = Cache(files, read_manifest(files))
            for _ in cache.verify() if verify else ():
                pass
        except (CacheError, StorageError):
            if files.is_at(path):
                raise
        else:
            if files.is_at(path):
                return cache
        files.close()  # it was replaced while it was being opened


def _open_folder(path: Path) -> Folder:
    """The folder of a cache, open and in use: `prep gc` removes none whose lock is held."""
    try:
        folder = open_folder(path)
    except NotACacheError:
        if not recover(path):
            raise
        folder = open_folder(path)
    hold_shared(folder.handle)
    return folder


class Split(SplitReader):
    """One split of an open cache: its rows, its plans, its padded batches."""

    def batches(
        self, epoch: int = 0, spec: PlanSpec | str | None = None, **options: "Unpack[BatchOptions]"
    ) -> "Batches":
        """The padded batches of one epoch as tensors.

        Args:
            epoch: which epoch of the plan, from 0.
            spec: the plan's settings; default: the plan the cache was built with. A strategy's name takes batch size
                and seed of that plan.
            options: see `cache.batches.options.BatchOptions`: device, rank, world_size, gradient_accumulation_steps,
                equal_rows, attention_length, start, pad_to_multiple_of, always_mask, padding_side, packed, feed.

        Example:
            for batch in split.batches(epoch=0, spec=PlanSpec("tight", 32), device="cuda"):
                loss = model(**batch.model_inputs()).loss
        """
        from .batches.batches import Batches

        return Batches(self, epoch, spec, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process, such as a DataLoader's worker, opens the cache anew."""
        return _reopened_split, (self.folder.resolve(), self.fingerprint, self.name)


def _reopened_split(folder: Path, fingerprint: str, name: str) -> Split:
    return _reopened(folder, fingerprint)[name]


def _reopened(folder: Path, fingerprint: str) -> "Cache":
    """A cache that another process has open.

    Raises:
        MismatchError: another cache is there by now.
    """
    cache = open_cache(folder)
    if cache.manifest.fingerprint != fingerprint:
        raise MismatchError(
            f"{folder} was replaced by another cache ({cache.manifest.fingerprint[:12]}, not {fingerprint[:12]}); "
            "open it anew in the main process"
        )
    return cache


class Cache(Mapping[str, Split]):
    """An open cache: a mapping from split name to `Split`.

    Everything is read through the handle of its folder, and of that folder alone: after the cache is replaced by
    another one, this object still reads the one that was opened.

    Args:
        files: its folder, open.
        manifest: what its manifest says.

    Attributes:
        folder: the path of its folder.
        manifest: everything it says of itself.
    """

    def __init__(self, files: Folder, manifest: Manifest) -> None:
        self._files, self.folder, self.manifest = files, files.path, manifest
        with self.naming_remedy():
            self._tokenizer = StoredTokenizer(files, manifest.tokenizer)
            self._splits = {name: Split(files, manifest, name, self._tokenizer) for name in manifest.splits}
            for split in self._splits.values():
                split.stored_plans()

    def __getitem__(self, split: str) -> Split:
        if split not in self._splits:
            raise InputError(f"{self.folder} has no split {split!r}; it has {', '.join(self._splits)}")
        return self._splits[split]

    def get(self, split: str, default: Any = None) -> Any:
        """The split of that name; `default` where there is none."""
        return self._splits.get(split, default)

    def __contains__(self, split: object) -> bool:
        return split in self._splits

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {counted(len(split), 'row')}" for name, split in self._splits.items())
        return f"Cache({str(self.folder)!r}, {splits})"

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process opens it anew."""
        return _reopened, (self.folder.resolve(), self.manifest.fingerprint)

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer that made the ids; `AutoTokenizer.from_pretrained` reads it."""
        return self.folder / TOKENIZER

    def tokenizer_files(self) -> dict[str, bytes]:
        """The content of each of the tokenizer's files, by name, checked against the manifest.

        Raises:
            CorruptCacheError: one differs from its checksum.
        """
        with self.naming_remedy():
            return self._tokenizer.read()

    def naming_remedy(self) -> AbstractContextManager[None]:
        """Within it, a `CorruptCacheError` ends with the command that builds this cache anew."""
        return naming_remedy(self.manifest.source.get("argument"))

    def verify(self) -> Iterator[FileInfo]:
        """Check every byte of every file, plans included; yields each file once it is found sound.

        Raises:
            CorruptCacheError: a file is missing, of another size, or differs from its checksum.
            StorageError: another cache is at its path by now.
        """
        with self.naming_remedy(), in_place(self._files, "verify it"):
            for info in self._listed():
                with open_listed(self._files, info.file, info.bytes) as file:
                    if open_file_info(info.file, file).sha256 != info.sha256:
                        reason = f"its bytes differ from their checksum{self._plan_remedy(info.file)}"
                        raise CorruptCacheError(f"{self.folder / info.file}: {reason}")
                yield info
            for split in self.values():
                split.check_rows()
                split.check_plans()

    def _plan_remedy(self, file: str) -> str:
        """What to do where a file of a plan is damaged; empty for other files."""
        return plan_remedy(self.folder / file.rpartition("/")[0]) if f"/{PLANS}/" in file else ""

    def unlisted(self) -> list[Finding]:
        """What lies in the folder and does not belong to the cache, by name; and files of it that anybody may change.

        None of it is ever read.
        """
        with storage_errors(self.folder, "read"):
            return list(find_unlisted(self._files, {MANIFEST, *self._file_names()}))

    def push(self, url: str, *, force: bool = False, progress: ConsoleProgress | None = None) -> "Pushed":
        """Send it to a URL, every byte checked before; its manifest is written last.

        Args:
            url: for example "s3://bucket/caches/imdb".
            force: replace another cache that is there.
            progress: where to show it.

        Raises:
            InputError: `url` is not a URL, names no bucket, or holds another cache.
            CorruptCacheError: a byte of this cache differs from its checksum; nothing is sent.
            StorageError: the store or the network refuses.
        """
        from .sharing.pushing import push_files

        progress = progress or ConsoleProgress()
        target = parse_url(url)
        with progress.bar("verifying", sum(info.bytes for info in self._listed()), "B") as bar:
            for info in self.verify():
                bar.update(info.bytes)
        return push_files(self._files, self._file_names(), target, force, progress)

    def _file_names(self) -> list[str]:
        """The paths of all its files but the manifest; each plan.json after what it lists."""
        plans = (
            f"{split.name}/{PLANS}/{spec.id}/{PLAN_FILE}" for split in self.values() for spec in split.stored_plans()
        )
        return [*(info.file for info in self._listed()), *plans]

    def _listed(self) -> Iterator[FileInfo]:
        """Every file that is read: those of the manifest, the epochs of plans; paths below the cache."""
        yield from self.manifest.files
        for split in self.values():
            for spec, plan in split.stored_plans().items():
                yield from (replace(info, file=f"{split.name}/{PLANS}/{spec.id}/{info.file}") for info in plan.epochs)
