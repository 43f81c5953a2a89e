"""The files that a manifest, a plan or a checkpoint lists: name, size and checksum."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import CorruptCacheError
from .checksummed_json import MAX_COUNT, Fields


@dataclass(frozen=True)
class FileInfo:
    """One file of the cache, relative to the folder that lists it."""

    file: str
    bytes: int
    sha256: str


def file_info(folder: Folder, name: str) -> FileInfo:
    """Name, size and checksum of a file in a folder."""
    with folder.open_file(name) as file:
        return open_file_info(name, file)


def open_file_info(name: str, file: BufferedReader) -> FileInfo:
    """Name, size and checksum of a file that is open for reading, at its beginning."""
    return FileInfo(name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


@contextlib.contextmanager
def listed_errors(path: Path) -> Iterator[None]:
    """Within it, the system's errors about a file or folder that a manifest or a plan lists are typed ones.

    Raises:
        CorruptCacheError: it is missing.
        StorageError: the system does not let it be read.
    """
    with storage_errors(path, "read"):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise CorruptCacheError(f"{path}: is missing, though the cache lists it") from None


@contextlib.contextmanager
def open_listed(folder: Folder, name: str, size: int) -> Iterator[BufferedReader]:
    """A file that a manifest or a plan lists, open for reading.

    Raises:
        CorruptCacheError: it is missing, of another size, or not a regular file.
        StorageError: the system does not let it be read.
    """
    path = folder.path / name
    with listed_errors(path):
        file = folder.open_file(name)
    with file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise CorruptCacheError(f"{path}: is {found:,} bytes long, expected {size:,}")
        yield file


def sha256_file(path: Path) -> str:
    """sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(fields: Fields, expected: str, accept: Callable[[str], bool], limit: int = MAX_COUNT) -> dict[str, Any]:
    """The parts of a `FileInfo` of at most `limit` bytes in a JSON object; `accept` says which names are taken."""
    return {
        "file": fields.check("file", expected, lambda v: isinstance(v, str) and accept(v)),
        "bytes": fields.integer("bytes", 0, limit),
        "sha256": fields.digest("sha256"),
    }
