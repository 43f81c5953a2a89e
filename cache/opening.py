"""Opening a cache: every file there, of the right size and header, nothing outside its folder; milliseconds.

    imdb = open_cache("cache/imdb")
    for batch in imdb["train"].batches(epoch=0): ...

Opening reads the manifest, maps every shard and checks its header and the edges of its offsets, and does the same
for stored plans. `verify` reads every byte.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batches.options import BatchOptions
from .common.files import storage_errors
from .errors import CacheError, CorruptCacheError, InputError, MismatchError, NotACacheError
from .format.files import FileInfo, sha256_file
from .format.manifest import TOKENIZER, Manifest, naming_remedy, read_manifest
from .format.safetensors_file import opened
from .plans.spec import PlanSpec
from .reading.location import CacheLocation, identity
from .reading.split_reader import Row, SplitReader
from .reading.tokenizer import read_tokenizer
from .writing.publishing import recover

if TYPE_CHECKING:
    from typing import Unpack

    from .batches.batch import Batches

__all__ = ["Cache", "Row", "Split", "open_cache"]


def open_cache(folder: str | Path, *, verify: bool = False) -> "Cache":
    """Open the cache in `folder`.

    Args:
        folder: for example "cache/imdb".
        verify: also check every byte against its checksum, as `prep verify` does.

    Raises:
        NotACacheError: the folder holds no cache.
        FormatVersionError: another version wrote it.
        CorruptCacheError: the manifest, or a file's size or header is not as written, or with `verify` any byte.
        MismatchError: a stored plan is of another cache.
        StorageError: the system does not let a file be read.
    """
    path = Path(folder)
    while True:
        before = identity(path)
        try:
            cache = Cache(path, _read_manifest(path))
        except CacheError as error:
            now = identity(path)
            if now == before and (now is not None or isinstance(error, NotACacheError)):
                raise
            continue  # it was replaced while it was being opened
        if before == identity(path):
            break
    if verify:
        for _ in cache.verify():
            pass
    return cache


def _read_manifest(path: Path) -> Manifest:
    try:
        return read_manifest(path)
    except NotACacheError:
        if not recover(path):
            raise
        return read_manifest(path)


class Split(SplitReader):
    """One split of an open cache: its rows, its plans, its padded batches."""

    def batches(self, epoch: int = 0, spec: PlanSpec | None = None, **options: "Unpack[BatchOptions]") -> "Batches":
        """The padded batches of one epoch as tensors.

        Args:
            epoch: which epoch of the plan, from 0.
            spec: the plan's settings; default: the plan the cache was built with.
            options: see `cache.batches.options.BatchOptions`: device, rank, world_size, gradient_accumulation_steps,
                start, pad_to_multiple_of, always_mask, padding_side, feed.

        Example:
            for batch in split.batches(epoch=0, spec=PlanSpec("tight", 32), device="cuda"):
                loss = model(**batch.model_inputs()).loss
        """
        from .batches.batch import Batches

        return Batches(self, epoch, spec, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy in another process, such as a DataLoader's worker, opens the cache anew."""
        return _reopened, (self.folder.resolve(), self.fingerprint, self.name)


def _reopened(folder: Path, fingerprint: str, name: str) -> Split:
    """The split of a cache that another process has open.

    Raises:
        MismatchError: another cache is there by now.
    """
    cache = open_cache(folder)
    if cache.manifest.fingerprint != fingerprint:
        raise MismatchError(
            f"{folder} was replaced by another cache ({cache.manifest.fingerprint[:12]}, not {fingerprint[:12]}); "
            "open it anew in the main process"
        )
    return cache[name]


class Cache(Mapping[str, Split]):
    """An open cache: a mapping from split name to `Split`.

    Attributes:
        folder: where it lies.
        manifest: everything it says of itself.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.location = CacheLocation(folder)
        with self.naming_remedy():
            for info in self._tokenizer_files():
                with opened(self.location.path_of(info.file), info.bytes):
                    pass
            self._splits = {name: Split(self.location, manifest, name) for name in manifest.splits}
            for split in self._splits.values():
                split.stored_plans()

    def __getitem__(self, split: str) -> Split:
        if split not in self._splits:
            raise InputError(f"{self.folder} has no split {split!r}; it has {', '.join(self._splits) or 'none'}")
        return self._splits[split]

    def __contains__(self, split: object) -> bool:
        return split in self._splits

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {len(split):,} rows" for name, split in self._splits.items())
        return f"Cache({str(self.folder)!r}, {splits})"

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer that made the ids; `AutoTokenizer.from_pretrained` reads it."""
        return self.folder / TOKENIZER

    def tokenizer_files(self) -> dict[str, bytes]:
        """The content of each of the tokenizer's files, by name, checked against the manifest.

        Raises:
            CorruptCacheError: one is missing, or differs from its checksum.
        """
        with self.naming_remedy():
            return read_tokenizer(self.location, self.manifest.tokenizer)

    def naming_remedy(self) -> AbstractContextManager[None]:
        """Within it, a `CorruptCacheError` ends with the command that builds this cache anew."""
        return naming_remedy(self.manifest.source.get("argument"))

    def _tokenizer_files(self) -> Iterator[FileInfo]:
        for info in self.manifest.tokenizer.files:
            yield FileInfo(f"{TOKENIZER}/{info.file}", info.bytes, info.sha256)

    def verify(self) -> Iterator[FileInfo]:
        """Check every byte of every file, plans included; yields each file once it is found sound.

        Raises:
            CorruptCacheError: a file is missing, of another size, or differs from its checksum.
        """
        with self.naming_remedy():
            plans = [(split, plan) for split in self.values() for plan in split.stored_plans().values()]
            files = [*self._tokenizer_files(), *(shard for split in self.values() for shard in split.info.shards)]
            for _, plan in plans:
                prefix = plan.folder.relative_to(self.folder).as_posix()
                files += [FileInfo(f"{prefix}/{info.file}", info.bytes, info.sha256) for info in plan.epochs]
            for info in files:
                path = self.location.path_of(info.file)
                with opened(path, info.bytes), storage_errors(path, "read"):
                    if sha256_file(path) != info.sha256:
                        raise CorruptCacheError(f"{path}: its bytes differ from their checksum")
                yield info
            for split in self.values():
                split.check_rows()
            for split, plan in plans:
                for epoch in range(len(plan.epochs)):
                    plan.load(epoch, split.lengths, self.manifest.max_length)
