"""Files and folders at URLs, which readers take as they take local ones.

A file is read over the network piece by piece, and nothing of it is kept. What its store calls its version (an ETag)
says in the manifest which content it had, and is compared before and after it is read.

The libraries that move the bytes do not survive a fork: they are used in forked processes alone
(`cache.common.forked`).
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

from cache.common.files import open_regular
from cache.errors import InputError
from cache.remote.bucket import Bucket
from cache.remote.hub import HubDataset
from cache.remote.opening import open_remote
from cache.remote.ranges import RemoteFile
from cache.remote.transfer import WORKERS, watched
from cache.remote.urls import StoreUrl, parse_url

Found = TypeVar("Found")


@dataclass(frozen=True)
class Listed:
    """A file as it was listed: its bytes and version."""

    size: int
    version: str


@dataclass(frozen=True)
class RemotePath:
    """A file or a folder at a URL, with the methods of `Path` that sources use.

    Attributes:
        url: of it.
        listed: of a file.
        files: of a folder, those below it, by names in it.
    """

    url: StoreUrl
    listed: Listed | None = None
    files: dict[str, Listed] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return str(self.url)

    def __lt__(self, other: "RemotePath") -> bool:
        return str(self).split("/") < str(other).split("/")

    def __truediv__(self, name: str) -> "RemotePath":
        below = f"{name}/"
        files = {file.removeprefix(below): found for file, found in self.files.items() if file.startswith(below)}
        return RemotePath(self.url / name, self.files.get(name), files)

    @property
    def _plain(self) -> PurePosixPath:
        """Without the revision of a dataset."""
        path = re.sub("@[^/]*", "", self.url.path) if self.url.scheme == "hf" else self.url.path
        return PurePosixPath(self.url.host, path)

    @property
    def name(self) -> str:
        return self._plain.name

    @property
    def stem(self) -> str:
        return self._plain.stem

    @property
    def suffix(self) -> str:
        return self._plain.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._plain.suffixes

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(parse_url(self.url.parent))

    def resolve(self) -> "RemotePath":
        return self

    def is_file(self) -> bool:
        return self.listed is not None

    def is_dir(self) -> bool:
        return bool(self.files)

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def stat(self) -> os.stat_result:
        size = self.listed.size if self.listed else 0
        return os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0))

    def iterdir(self) -> "Iterator[RemotePath]":
        groups: dict[str, dict[str, Listed]] = {}
        for file, found in self.files.items():
            name, _, rest = file.partition("/")
            groups.setdefault(name, {})[rest] = found
        for name in sorted(groups):
            listed = groups[name].pop("", None)
            yield RemotePath(self.url / name, listed, groups[name])

    def glob(self, pattern: str) -> "Iterator[RemotePath]":
        for file in sorted(self.files):
            if is_meant(file, pattern):
                yield RemotePath(self.url / file, self.files[file])

    def remote(self) -> RemoteFile:
        """The file, if it is what was listed.

        Raises:
            InputError: it is not.
            StorageError: the store or the network refuses.
        """
        try:
            found = watched(lambda _: connected(self.url).ranges(below(self.url)), self.url)
        except FileNotFoundError:
            found = None
        if found is None or Listed(found.size, found.version) != self.listed:
            raise changed(self)
        return found


SourcePath = Path | RemotePath
"""A file or folder of this machine, or at a URL."""


def changed(path: SourcePath) -> InputError:
    """The error for a file that is no longer what it was when the build began."""
    return InputError(f"{path} changed while it was being read; build again once nothing writes to it")


def open_bytes(path: SourcePath) -> BinaryIO:
    """Open a file, of this machine or another, for reading; see `open_regular` and `RemotePath.remote`."""
    return path.remote().open() if isinstance(path, RemotePath) else open_regular(path)


def each(function: Callable[..., Found], paths: Sequence[SourcePath], *arguments: Any) -> list[Found]:
    """What a function gives for each of some files, in order: several at once where they are waited for."""

    def call(path: SourcePath) -> Found:
        return function(path, *arguments)

    if not any(isinstance(path, RemotePath) for path in paths):
        return list(map(call, paths))
    with ThreadPoolExecutor(WORKERS) as threads:
        return list(threads.map(call, paths))


def check_unchanged(path: SourcePath) -> None:
    """Raise an `InputError` where a file at a URL is no longer what was listed."""
    if isinstance(path, RemotePath):
        path.remote()


@cache
def _connect(root: StoreUrl, process: int) -> Bucket | HubDataset:  # no connection outlives a fork
    return cast(Bucket | HubDataset, open_remote(root))


def connected(url: StoreUrl) -> Bucket | HubDataset:
    """The bucket or dataset that a URL lies in, one connection for each process."""
    path = "/".join(url.path.split("/")[:3]) if url.scheme == "hf" else ""
    return _connect(StoreUrl(url.scheme, url.host, path), os.getpid())


def below(url: StoreUrl) -> str:
    """What a URL names in its bucket or dataset."""
    return "/".join(url.path.split("/")[3:]) if url.scheme == "hf" else url.path


def is_meant(file: str, pattern: str) -> bool:
    """Whether a path is what a glob means, as `glob` has it: * within a name, ** for any folders."""
    return _matches(file.split("/"), pattern.split("/"))


def _matches(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_matches(parts[number:], patterns[1:]) for number in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])
