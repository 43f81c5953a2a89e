"""Folders of this machine at file:// URLs, such as one that a cluster shares: read and written through `Folder`."""

import contextlib
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import StorageError
from .base import CHUNK_BYTES, ObjectStore
from .transfer import Report


class MountedFolder(ObjectStore):
    """A folder by its path."""

    @property
    def _path(self) -> Path:
        return Path("/", self.url.path)

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        path = self._path / name
        try:
            with storage_errors(path, "read"), Folder.open(self._path) as root, root.open_file(name) as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise FileNotFoundError(path) from None
            raise

    def sizes(self, folder: str) -> dict[str, int]:
        with storage_errors(self._path / folder, "read"):
            try:
                with Folder.open(self._path) as root, root.folder(folder) as start:
                    return dict(file_sizes(start))
            except (FileNotFoundError, NotADirectoryError):
                return {}

    def folders(self) -> list[str]:
        with storage_errors(self._path, "read"):
            try:
                return sorted(item.name for item in self._path.iterdir() if item.is_dir() and item.name[0] != ".")
            except (FileNotFoundError, NotADirectoryError):
                return []

    def write(self, name: str, file: BinaryIO, report: Report) -> None:
        parent = name.rpartition("/")[0]
        with storage_errors(self._path / name), Folder.make(self._path) as root:
            if parent:
                root.folder(parent, make=True).close()
            with root.replace(name) as out:
                while chunk := file.read(CHUNK_BYTES):
                    out.write(chunk)
                    report(len(chunk))

    def remove(self, name: str) -> None:
        with storage_errors(self._path / name), contextlib.suppress(FileNotFoundError), Folder.open(self._path) as root:
            root.remove(name)


def file_sizes(folder: Folder, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Paths and sizes of the regular files in a folder and in all its folders; what goes meanwhile is passed over."""
    for name in folder.names():
        found = folder.stat(name)
        if found is None:
            continue
        if stat.S_ISREG(found.st_mode):
            yield prefix + name, found.st_size
        elif stat.S_ISDIR(found.st_mode):
            with contextlib.suppress(FileNotFoundError), folder.folder(name) as inner:
                yield from file_sizes(inner, f"{prefix}{name}/")
