"""Opening a cache: every file there, of the right size and header, nothing outside its folder; milliseconds.

    imdb = open_cache("cache/imdb")
    for batch in imdb["train"].batches(epoch=0): ...

Opening reads the manifest, maps every shard and checks its header and the edges of its offsets, and does the same
for stored plans. `verify` reads every byte.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from ..common.files import Inside, storage_errors
from ..errors import CacheError, CorruptCacheError, InputError, NotACacheError
from ..format.manifest import MANIFEST, TOKENIZER, FileInfo, Manifest, naming_remedy, read_manifest, sha256_file
from ..format.safetensors_file import opened
from ..writing.publishing import recover
from .splits import Row, Split

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
        before = _identity(path)
        try:
            cache = Cache(path, _read_manifest(path))
        except CacheError as error:
            now = _identity(path)
            if now == before and (now is not None or isinstance(error, NotACacheError)):
                raise
            continue  # it was replaced while it was being opened
        if before == _identity(path):
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


class Cache(Mapping[str, "Split"]):
    """An open cache: a mapping from split name to `Split`.

    Attributes:
        folder: where it lies.
        manifest: everything it says of itself.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._inside = Inside(folder)
        self._identity = _identity(folder)
        with self.naming_remedy():
            for info in self._tokenizer_files():
                with opened(self.path_of(info.file), info.bytes):
                    pass
            self._splits = {name: Split(self, name, info) for name, info in manifest.splits.items()}
            for split in self._splits.values():
                split.stored_plans()

    def __getitem__(self, split: str) -> "Split":
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

    def path_of(self, name: str) -> Path:
        """The path of something in the cache.

        Raises:
            CorruptCacheError: it is a link that leaves the cache.
        """
        return self._inside.check(self.folder / name)

    def was_replaced(self) -> bool:
        """Whether another cache, or none, is at the folder now. The mapped shards are still those of this one."""
        return _identity(self.folder) != self._identity

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
                path = self.path_of(info.file)
                with opened(path, info.bytes), storage_errors(path, "read"):
                    if sha256_file(path) != info.sha256:
                        raise CorruptCacheError(f"{path}: its bytes differ from their checksum")
                yield info
            for split in self.values():
                split.check_rows()
            for split, plan in plans:
                for epoch in range(len(plan.epochs)):
                    plan.load(epoch, split.lengths, self.manifest.max_length)


def _identity(folder: Path) -> tuple[int, int, int, int] | None:
    """What tells the cache at `folder` from one that replaced it; a later file may have an earlier one's inode."""
    try:
        stat = (folder / MANIFEST).stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
