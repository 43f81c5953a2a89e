"""Reading safetensors files, mapped without a copy.

A cache is read from the page cache, as views of the mapped file. It may come from a stranger: what a file holds
follows from the manifest or the plan that lists it, so that its header can be compared and need not be parsed.
"""

import math
import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..common.arrays import Array
from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import CorruptCacheError
from .files import open_listed
from .safetensors_writer import Shapes, layout

DTYPES: dict[str, np.dtype[Any]] = {
    "I8": np.dtype("<i1"),
    "U8": np.dtype("<u1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
}
"""The tensor types a cache may hold, by their safetensors names."""


class MappedFile:
    """A safetensors file of so many bytes, mapped into memory: `tensors[name]` is a read-only view, valid while this
    object lives.

    Raises:
        CorruptCacheError: the file is missing, or its size, header or tensors are not as expected.
        StorageError: the system does not let it be read.
    """

    def __init__(self, folder: Folder, name: str, expected: Shapes, size: int) -> None:
        self.path = folder.path / name
        self.tensors: dict[str, Array] = {}
        with open_listed(folder, name, size) as file:
            self.identity = _identity(os.fstat(file.fileno()))
            offsets = check_header(file, size, expected, self.path)
            with storage_errors(self.path, "map"):
                data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        for name, (dtype, shape) in expected.items():
            self.tensors[name] = np.frombuffer(data, DTYPES[dtype], math.prod(shape), offsets[name]).reshape(shape)

    def check_unchanged(self, folder: Folder) -> None:
        """Refuse to go on if the file under the mapping was cut or written to.

        Reading a page past the end of a file that shrank kills the process (SIGBUS), so readers call this
        before each epoch. A file that was removed or replaced by a rename stays complete under the mapping. `folder` is
        the one that holds the file itself.
        """
        found = folder.stat(self.path.name)
        now = _identity(found) if found else self.identity
        if now[:2] == self.identity[:2] and now != self.identity:
            raise CorruptCacheError(
                f"{self.path}: the file changed while it was in use (size {self.identity[2]:,} to {now[2]:,} bytes); "
                "stop whatever writes to it and open the cache again"
            )


def _identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def check_header(file: BinaryIO, size: int, expected: Shapes, path: Path) -> dict[str, int]:
    """Check a safetensors header, byte for byte, against that of a file of these tensors and no others.

    Returns:
        The position of each tensor's first byte in the file.

    Raises:
        CorruptCacheError: the header or the size differs.
    """
    header, begins, end = layout(expected)
    found = file.read(len(header))
    if (found, size) != (header, end):
        text = found[8 : 8 + int.from_bytes(found[:8], "little")]
        raise CorruptCacheError(
            f"{path}: is {size:,} bytes long and its header is {text.strip()!r:.500}, expected {end:,} bytes and "
            f"{header[8:].strip()!r}"
        )
    return begins
