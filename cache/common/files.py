"""Files by path: the file system's refusals as one typed error, files written as a whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

import safetensors

from ..errors import CorruptCacheError, StorageError


@contextlib.contextmanager
def storage_errors(path: Path, action: str = "write") -> Iterator[None]:
    """Turn the file system's refusals into a `StorageError` that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:  # the library wraps the system's error in text
        raise StorageError(f"cannot {action} {path}: {error}") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file of a cache for reading, which a pipe or device in its place would block for ever.

    Raises:
        CorruptCacheError: it is not a regular file.
        OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CorruptCacheError(f"{path}: is not a regular file")
    return os.fdopen(handle, "rb", buffering=0)


class Inside:
    """Refuses paths that a link leads out of a folder; each folder below it is resolved once.

    Args:
        folder: the cache, or the part of it, that nothing may leave.
    """

    def __init__(self, folder: Path) -> None:
        self.root = os.path.realpath(folder)
        self.sound: set[Path] = set()

    def check(self, path: Path) -> Path:
        """The path.

        Raises:
            CorruptCacheError: it leaves the folder.
        """
        if path.parent not in self.sound:
            self._resolve(path.parent)
            self.sound.add(path.parent)
        if path.is_symlink():
            self._resolve(path)
        return path

    def _resolve(self, path: Path) -> None:
        if not (os.path.realpath(path) + os.sep).startswith(self.root + os.sep):
            raise CorruptCacheError(f"{path}: is a link that leaves the cache")


def sync(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, itself included."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there is flushed and renamed to `path`, or removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
