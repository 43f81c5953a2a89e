"""Remote files that are read piece by piece, in any order: by each piece a request, none of which is for all of it."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from ..errors import StorageError
from .transfer import watched

BLOCK_BYTES = 4 << 20
"""Bytes of a request at least."""


@dataclass(frozen=True)
class RemoteFile:
    """A remote file.

    Attributes:
        name: its URL, for errors.
        size: bytes.
        version: what the store tells this content of it from others by: an ETag, or the time it was written.
        fetch: called with the first position wanted and how many bytes; it blocks.
    """

    name: str
    size: int
    version: str
    fetch: Callable[[int, int], bytes]

    def open(self) -> BinaryIO:
        """The file for reading, in large pieces."""
        return cast(BinaryIO, io.BufferedReader(_Ranges(self), BLOCK_BYTES))

    def read(self, position: int, size: int) -> bytes:
        """Some bytes of it.

        Raises:
            UnreachableError: the connection was cut three times, or nothing came for a minute.
            StorageError: the store refuses, or gives fewer bytes.
        """
        data = watched(lambda _: self.fetch(position, size), self.name)
        if len(data) != size:
            raise StorageError(
                f"{self.name}: gave {len(data):,} of the {size:,} bytes from {position:,}; it changed, or its store "
                "cannot be read in parts; repeat the command"
            )
        return data


class _Ranges(io.RawIOBase):
    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readall(self) -> bytes:  # the library's own asks for 8 kB at once
        return b"".join(iter(lambda: self.read(BLOCK_BYTES) or b"", b""))

    def readinto(self, buffer: Any, /) -> int:
        size = max(0, min(len(buffer), self._file.size - self._position))
        if size:
            buffer[:size] = self._file.read(self._position, size)
        self._position += size
        return size
