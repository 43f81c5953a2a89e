"""Reading safetensors files, mapped without a copy.

A cache is read from the page cache, as views of the mapped file. It may come from a stranger: the header is checked
in full before any byte of data is used.
"""

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from ..common.arrays import Array
from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import CorruptCacheError
from .checksummed_json import unique_keys
from .files import open_listed

Expected = Mapping[str, tuple[str, tuple[int, ...]]]
"""What a file must hold: name to (safetensors dtype, shape)."""

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

MAX_HEADER_BYTES = 64 * 1024
"""A header of ours has at most six tensors, some 600 bytes; anything near this limit is not ours."""


class MappedFile:
    """A safetensors file mapped into memory: `tensors[name]` is a read-only view, valid while this object lives.

    Args:
        folder: where it lies.
        name: of the file, below that folder.
        expected: what the file must hold, name to (safetensors dtype, number of elements per axis).
        size: bytes that the file must have.

    Raises:
        CorruptCacheError: the file is missing, or its size, header or tensors are not as expected.
        StorageError: the system does not let it be read.
    """

    def __init__(self, folder: Folder, name: str, expected: Expected, size: int) -> None:
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
        before each epoch. A file that was removed or replaced by a rename stays complete under the mapping.

        Args:
            folder: the one that holds the file itself.
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


def check_header(file: BinaryIO, size: int, expected: Expected, path: Path) -> dict[str, int]:
    """Check a safetensors header against what the file must hold.

    Args:
        file: at its beginning.
        size: bytes of the whole file.
        expected: name to (dtype, shape), every tensor of the file.
        path: named in errors.

    Returns:
        The position of each tensor's first byte in the file.

    Raises:
        CorruptCacheError: anything differs; tensors must also fill the file without gap or overlap.
    """

    def broken(why: str) -> CorruptCacheError:
        return CorruptCacheError(f"{path}: {why}")

    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise broken(f"not a safetensors file (header of {length:,} bytes in a file of {size:,})")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise broken(f"the safetensors header does not parse ({error})") from None
    if not isinstance(header, dict) or set(header) != set(expected):
        raise broken(f"its header is {header!r:.200}, expected the tensors {', '.join(expected)}")
    start, spans = 8 + length, {}
    for name, (dtype, shape) in expected.items():
        entry = header[name]
        span = entry.get("data_offsets") if isinstance(entry, dict) else None
        if entry != {"dtype": dtype, "shape": list(shape), "data_offsets": span}:
            raise broken(f"tensor {name!r} is {entry!r:.200}, expected {dtype} {list(shape)}")
        nbytes = math.prod(shape) * DTYPES[dtype].itemsize
        if not _is_span(span) or span[1] - span[0] != nbytes or span[0] < 0:
            raise broken(f"tensor {name!r} lies at {span}, expected {nbytes:,} bytes")
        if (start + span[0]) % DTYPES[dtype].itemsize:
            raise broken(f"tensor {name!r} is not aligned")
        spans[name] = span
    position = 0
    for begin, end in sorted(spans.values()):
        if begin != position:
            raise broken(f"its tensors leave a gap or overlap at byte {begin:,}")
        position = end
    if start + position != size:
        raise broken(f"is {size:,} bytes long, expected {start + position:,}")
    return {name: start + span[0] for name, span in spans.items()}


def _is_span(span: object) -> TypeGuard[list[int]]:
    return isinstance(span, list) and len(span) == 2 and all(type(value) is int for value in span)
