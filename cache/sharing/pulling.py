"""Pulling a cache: into the store or a folder, once for all processes of a machine, checked before it has its name.

Each file is hashed as it comes, flushed and renamed; the manifest is written last, then the folder gets its name. A
pull that was stopped goes on with the files that are whole.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..common.files import storage_errors
from ..common.folder import Folder
from ..common.hub import user_path
from ..common.locks import hold_shared, locked
from ..console.progress import ConsoleProgress
from ..console.text import sized
from ..errors import CorruptCacheError, InputError, StorageError
from ..format.files import FileInfo, file_info
from ..format.manifest import MANIFEST, MAX_MANIFEST_BYTES
from ..format.plan_file import PLAN_FILE
from ..remote.base import Remote
from ..remote.failures import UnreachableError
from ..remote.opening import open_remote
from ..remote.transfer import Report, transfer, watched
from ..remote.urls import parse_url
from ..writing.publishing import lock_file, publish
from .listing import RemoteCache, RemotePlan, read_cache, read_plans
from .store import make_room, store_folder, store_name


@dataclass
class Pulled:
    """A cache that was pulled. It is in use, and stays in the store, until its context is left.

    Attributes:
        folder: where it lies.
        name: of the cache.
        files: how many it has, its manifest included; plans only if they were pulled just now.
        bytes: of them.
        fetched_bytes: those that came just now: 0 where the cache was there.
        held: its folder, open and locked.
    """

    folder: Path
    name: str
    files: int
    bytes: int
    fetched_bytes: int
    held: Folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()


def pull(url: str, to: str | Path | None = None, progress: ConsoleProgress | None = None) -> Pulled:
    """Bring the cache at `url` to this machine, unless it is there.

    Args:
        url: for example "s3://bucket/caches/imdb".
        to: the folder that it becomes; default: one in the store.
        progress: where to show it.

    Raises:
        InputError: `url` is not a URL, names no bucket, or `to` holds something else.
        NotACacheError: there is no cache.
        CorruptCacheError, FormatVersionError: it is not what its writer wrote.
        StorageError: the store, the network or the file system refuses.
    """
    progress = progress or ConsoleProgress()
    remote = open_remote(parse_url(url))
    try:
        cache = watched(lambda report: read_cache(remote, report), remote.url)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}; `prep list {store_folder()}` shows the caches that were pulled before"
        ) from None
    target = store_folder() / store_name(cache) if to is None else user_path(to)
    download = _Download(remote, cache, progress)

    def announce(owner: str) -> None:
        progress.log(f"{target} is being pulled by process {owner}; waiting for it")

    held = _hold(target, cache)
    if held is None:
        with storage_errors(target.parent):
            parent = Folder.make(target.parent)
        with parent, storage_errors(target), locked(lock_file(target), announce):
            held = _hold(target, cache)  # another process may just have pulled it
            if held is None:
                download.find_plans()
                if to is None:
                    make_room(target.parent, download.bytes)
                with _staging(parent, target.name, cache) as staging:
                    download.run(staging)
                    publish(staging, target)
                held = _hold(target, cache)
    if held is None:
        raise StorageError(f"{target} was removed as soon as it was pulled; repeat the command")
    return Pulled(target, cache.manifest.name, download.files, download.bytes, download.fetched_bytes, held)


def _hold(target: Path, cache: RemoteCache) -> Folder | None:
    """The folder `target` if it is this very cache, open and in use; nothing is written, so that a store may be
    read-only. None where nothing is there.

    Raises:
        InputError: it is something else.
    """
    something_else = InputError(
        f"{target} holds something else already; name another folder: --to FOLDER, or move it away"
    )
    with storage_errors(target, "read"), contextlib.ExitStack() as stack:
        try:
            held = stack.enter_context(Folder.open(target))
            is_there = held.is_file(MANIFEST) and held.read(MANIFEST, MAX_MANIFEST_BYTES) == cache.data
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise something_else from None
        if not is_there and held.names():
            raise something_else
        if not is_there:
            return None
        hold_shared(held.handle)
        if not held.is_at(target):  # it was removed meanwhile
            return None
        with contextlib.suppress(OSError):
            os.utime(held.handle)  # the time of its last use
        stack.pop_all()
        return held


@contextlib.contextmanager
def _staging(parent: Folder, name: str, cache: RemoteCache) -> Iterator[Folder]:
    """The folder that a download is made in: what one that was stopped left there is kept, if it is of this cache."""
    own = f".{name}.pulling-{hashlib.sha256(cache.data).hexdigest()[:8]}"
    unfinished = re.compile(rf"\.{re.escape(name)}\.pulling-[0-9a-f]{{8}}")
    for other in filter(unfinished.fullmatch, parent.names()):
        if other != own:
            parent.remove(other)
    try:
        with parent.folder(own, make=True) as staging:
            yield staging
    finally:
        with contextlib.suppress(OSError):  # it is empty if nothing was fetched, or if it was at the cache's place
            os.rmdir(own, dir_fd=parent.handle)


class _Download:
    """One download of a cache."""

    def __init__(self, remote: Remote, cache: RemoteCache, progress: ConsoleProgress) -> None:
        self.remote, self.cache, self.progress = remote, cache, progress
        self.plans: list[RemotePlan] = []
        self.fetched_bytes = 0

    def find_plans(self) -> None:
        """Take the plans that are there, too."""
        self.plans = watched(lambda report: read_plans(self.remote, self.cache.manifest, report), self.remote.url)

    @property
    def infos(self) -> list[FileInfo]:
        """The files with a checksum; the manifest and each plan's plan.json have none."""
        return [*self.cache.manifest.files, *(info for plan in self.plans for info in plan.files)]

    @property
    def files(self) -> int:
        """How many there are."""
        return len(self.infos) + len(self.plans) + 1

    @property
    def bytes(self) -> int:
        """Of all files."""
        small = (*(plan.data for plan in self.plans), self.cache.data)
        return sum(info.bytes for info in self.infos) + sum(map(len, small))

    def run(self, staging: Folder) -> None:
        """Fetch into `staging` what is not there, then write the plans' plan.json and the manifest.

        Raises:
            CorruptCacheError: a file there is not what is listed.
            StorageError: no room, or the remote store or the file system refuses.
        """
        infos = self.infos
        missing = [info for info in infos if not _is_whole(staging, info)]
        self.fetched_bytes = sum(info.bytes for info in missing)
        if len(missing) < len(infos):
            self.progress.log(f"{len(infos) - len(missing):,} of {len(infos):,} files were pulled before")
        self._check_space(staging)
        for folder in {info.file.rpartition("/")[0] for info in infos}:
            with staging.folder(folder, make=True) as inner:
                for name in inner.leftovers():
                    inner.remove(name)
        with self.progress.bar("pulling", self.bytes, "B") as bar:
            bar.update(self.bytes - self.fetched_bytes)
            transfer(missing, lambda info, report: self._fetch(staging, info, report), self.remote.url, bar)
        for plan in self.plans:
            staging.write(f"{plan.folder}/{PLAN_FILE}", plan.data)
        staging.write(MANIFEST, self.cache.data)

    def _check_space(self, staging: Folder) -> None:
        free = shutil.disk_usage(staging.handle).free
        if self.fetched_bytes > free:
            raise StorageError(
                f"{self.remote.url} takes {sized(self.fetched_bytes)} more, {staging.path.parent} has "
                f"{sized(free)} free; make room (`prep gc --max-size SIZE`), or pull to another disk: `prep pull --to "
                "FOLDER`, or set LENGTHWISE_STORE"
            )

    def _fetch(self, staging: Folder, info: FileInfo, report: Report) -> None:
        digest, size, path = hashlib.sha256(), 0, staging.path / info.file
        name = f"{self.remote.url / info.file}"
        try:
            chunks = self.remote.chunks(info.file)
            first = next(chunks, b"")
        except FileNotFoundError:
            raise CorruptCacheError(f"{name}: is missing, though the cache lists it{_REMEDY}") from None
        with contextlib.closing(chunks), storage_errors(path), staging.replace(info.file) as file:
            for chunk in itertools.chain([first], chunks):
                size += len(chunk)
                if size > info.bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
                report(len(chunk))
            if size != info.bytes:
                length = f"more than {info.bytes:,}" if size > info.bytes else f"{size:,}"
                raise CorruptCacheError(f"{name}: is {length} bytes long, expected {info.bytes:,}{_REMEDY}")
            if digest.hexdigest() != info.sha256:
                raise CorruptCacheError(
                    f"{name}: its bytes differ from their checksum, nothing of it was kept{_REMEDY}"
                )


_REMEDY = "; push the cache anew (`prep push CACHE URL --force`) from where it is sound"


def _is_whole(folder: Folder, info: FileInfo) -> bool:
    whole = FileInfo(info.file, info.bytes, info.sha256)
    return folder.is_file(info.file) and file_info(folder, info.file) == whole
