"""Files by path: the file system's refusals as one typed error, files written as a whole or not at all."""

import contextlib
import errno
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
        more = "; allow more: ulimit -n 65536" if error.errno == errno.EMFILE else ""
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}{more}") from error
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


def sync(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
