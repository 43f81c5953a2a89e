"""A remote folder: reading files below it by name, listing it; what holds objects can be written, too.

Names come from manifests that a stranger may have written: they were checked when they were parsed. FileNotFoundError
says that there is nothing of a name; everything else is a typed error of `failures`.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import closing
from typing import BinaryIO, Self

from ..errors import CorruptCacheError
from .transfer import Report
from .urls import StoreUrl

CHUNK_BYTES = 2 << 20
"""Bytes that are read, hashed and written at once: of a bucket, one request."""


class Remote(ABC):
    """A folder somewhere else. Its methods block; `transfer` and `watched` run them."""

    def __init__(self, url: StoreUrl) -> None:
        self.url = url

    @abstractmethod
    def chunks(self, name: str) -> Generator[bytes, None, None]:
        """The content of a file, in pieces of `CHUNK_BYTES` at most."""

    @abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """The files in a folder below this one and in all its folders, by names in it; none where there is none."""

    @abstractmethod
    def folders(self) -> list[str]:
        """The names of the folders in this one."""

    def check(self) -> None:
        """Raise where the bucket or dataset itself is missing, or the store refuses; what lies in it is not asked."""
        self.folders()

    def below(self, name: str) -> Self:
        """The folder of that name in this one, over the same connection."""
        found = copy.copy(self)
        found.url = self.url / name
        return found

    def read(self, name: str, limit: int, report: Report) -> bytes:
        """The content of a file of at most `limit` bytes; it reports 0 for each part, for no progress is shown."""
        content = bytearray()
        with closing(self.chunks(name)) as chunks:
            for chunk in chunks:
                report(0)
                content += chunk
                if len(content) > limit:
                    raise CorruptCacheError(
                        f"{self.url / name}: larger than {limit:,} bytes, which no file of this kind is"
                    )
        return bytes(content)


class ObjectStore(Remote):
    """A remote folder whose files are written and removed one by one, each seen whole or not at all."""

    @abstractmethod
    def write(self, name: str, file: BinaryIO, report: Report) -> None:
        """Write a file, replacing what has its name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; nothing there is no error."""
