"""The file system's refusals as one typed error; opening regular files alone."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import safetensors

from ..errors import InputError, StorageError


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
    """Open a file; a pipe or device, which could block or never end, is an `InputError`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"cannot read {path}: it is a folder, pipe or device, expected a file")
    return os.fdopen(handle, "rb")
