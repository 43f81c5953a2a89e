"""Reading, writing and removing files below a directory that is held open, following no link.

A stranger may have made the folder: nothing outside it is read, written or removed. It stays the same folder when its
path is given to another one meanwhile. Files and folders are made with the modes that the user's umask asks for.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import BinaryIO, NoReturn, Self

from ..errors import CorruptCacheError, StorageError
from .locks import locked_handle

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe or device would block for ever
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class Folder:
    """A directory held open. Names are plain names, or paths below it such as "train/shard-00000.safetensors".

    Every method raises `CorruptCacheError` where a name is a link, pipe or device, and OSError where the file system
    refuses.

    Args:
        handle: a descriptor of the directory, closed with this object.
        path: how to name it in messages.
    """

    def __init__(self, handle: int, path: Path) -> None:
        self.handle, self.path = handle, path

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a directory by its path, in which links are followed: they are the user's own choice."""
        return cls(os.open(path, _FOLDER), Path(path))

    @classmethod
    def make(cls, path: str | Path) -> Self:
        """`open`, after it and its parents are made where they are missing, their names flushed to disk."""
        path = Path(path)
        if not path.is_dir():
            with cls.make(path.parent) as parent:
                parent._make(path.name)
        return cls.open(path)

    def close(self) -> None:
        """Close the handle."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if os is not None:  # as it is when the interpreter ends, and the system closes what is open
            self.close()

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open folder cannot be pickled: its handle is this process's own")

    def is_at(self, path: str | Path) -> bool:
        """Whether `path` leads to this very directory, not to another one that has its name by now."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self.handle))  # noqa: PTH116  # links are followed
        except OSError:
            return False

    def checked_path(self) -> Path:
        """Its path, for a library that takes nothing else.

        Raises:
            StorageError: another folder is at that path by now.
        """
        if not self.is_at(self.path):
            raise StorageError(f"{self.path} was moved or replaced while it was in use; put it back and start again")
        return self.path

    # --- folders in it

    def folder(self, name: str, *, make: bool = False) -> "Folder":
        """Open a folder below this one; with `make`, those that are missing are made."""
        found = Folder(os.dup(self.handle), self.path)
        for part in _parts(name):
            with found:
                found = found._step(part, make)
        return found

    def _make(self, name: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=self.handle)
            self.sync()

    def _step(self, name: str, make: bool) -> "Folder":
        if make:
            self._make(name)
        try:
            handle = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.handle)
        except OSError as error:
            self._refuse_link(name, error)
            raise
        return Folder(handle, self.path / name)

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator["Folder"]:
        """A new folder that is renamed to `name` at the end, replacing what is there, or is removed.

        Whoever writes its files flushes them to disk.
        """
        temporary = _temporary(name)
        try:
            self._make(temporary)
            with self.folder(temporary) as folder:
                yield folder
                folder.sync()
            self.remove(name)
            self.rename(temporary, name)
        finally:
            self.remove(temporary)

    # --- files in it

    def open_file(self, name: str) -> BufferedReader:
        """Open a regular file for reading."""
        with self._parent(name) as (folder, last):
            return os.fdopen(folder._regular(last, _READ), "rb")

    def append(self, name: str) -> BufferedRandom:
        """Open a regular file for reading and appending; it is made where it is missing."""
        with self._parent(name) as (folder, last):
            return os.fdopen(folder._regular(last, _APPEND), "a+b")

    def _regular(self, name: str, flags: int) -> int:
        try:
            handle = os.open(name, flags, 0o666, dir_fd=self.handle)
        except OSError as error:
            self._refuse_link(name, error)
            if error.errno == errno.ENXIO:  # a pipe without a reader, opened for writing
                raise CorruptCacheError(f"{self.path / name}: is not a regular file") from None
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise CorruptCacheError(f"{self.path / name}: is not a regular file")
        return handle

    def read(self, name: str, limit: int) -> bytes:
        """The content of a file.

        Raises:
            CorruptCacheError: it is longer than `limit` bytes.
        """
        with self.open_file(name) as file:
            chunks, left = [], limit + 1
            while left and (chunk := file.read(min(left, 1 << 20))):
                chunks.append(chunk)
                left -= len(chunk)
        if not left:
            raise CorruptCacheError(f"{self.path / name}: larger than {limit:,} bytes, which no file of this kind is")
        return b"".join(chunks)

    @contextlib.contextmanager
    def create(self, name: str, *, durable: bool = True) -> Iterator[BinaryIO]:
        """A new file, open for writing; anything of that name is an error. It is flushed to disk at the end where it is
        to be `durable`; not needed before `publish`, which does."""
        with self._parent(name) as (folder, last):
            handle = os.open(last, _CREATE, 0o666, dir_fd=folder.handle)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(handle)

    @contextlib.contextmanager
    def replace(self, name: str, *, durable: bool = True) -> Iterator[BinaryIO]:
        """A file open for writing that replaces `name` at the end, complete or not at all; `durable` as for
        `create`."""
        with self._parent(name) as (folder, last):
            temporary = _temporary(last)
            try:
                with folder.create(temporary, durable=durable) as file:
                    yield file
                folder.rename(temporary, last)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder.handle)

    def write(self, name: str, data: bytes) -> None:
        """`replace` with content at hand."""
        with self.replace(name) as file:
            file.write(data)

    # --- files and folders

    def names(self) -> list[str]:
        """The names in it, sorted."""
        return sorted(os.listdir(self.handle))  # noqa: PTH208  # of a handle, which pathlib does not take

    def stat(self, name: str) -> os.stat_result | None:
        """The status of a file, a folder, or a link itself and not its target; None if there is nothing."""
        try:
            with self._parent(name) as (folder, last):
                return os.stat(last, dir_fd=folder.handle, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_file(self, name: str) -> bool:
        """Whether it is a regular file."""
        found = self.stat(name)
        return found is not None and stat.S_ISREG(found.st_mode)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, link or folder, durably; a file, link or empty folder of the new name is replaced."""
        with self._parent(old) as (source, name), self._parent(new) as (target, to):
            os.rename(name, to, src_dir_fd=source.handle, dst_dir_fd=target.handle)
            target.sync()

    def leftovers(self) -> list[str]:
        """The temporary files and folders of writers; while no other process writes here, those of killed ones."""
        return [name for name in self.names() if _TEMPORARY.fullmatch(name)]

    def remove(self, name: str) -> None:
        """Remove a file, a link (its target stays), or a folder with all it holds; nothing there is no error."""
        found = self.stat(name)
        if found is None:
            return
        with contextlib.suppress(FileNotFoundError), self._parent(name) as (folder, last):
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(last, dir_fd=folder.handle)
            else:
                os.unlink(last, dir_fd=folder.handle)

    def sync(self) -> None:
        """fsync the folder, which makes the names in it last."""
        os.fsync(self.handle)

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], object] | None = None) -> Iterator[bool]:
        """Hold the folder's lock, which one process can do at a time; the system frees it when that one dies.

        Nothing is written: it is the lock of the directory itself.

        Args:
            waiting: called once if another process holds it. None: do not wait.

        Yields:
            Whether it is held; see `cache.common.locks.locked`.
        """
        # Opened anew, so that threads exclude each other too.
        with locked_handle(os.open(".", _FOLDER, dir_fd=self.handle), waiting) as held:
            yield held

    @contextlib.contextmanager
    def _parent(self, name: str) -> Iterator[tuple["Folder", str]]:
        """The folder that a path below this one ends in, and the last name."""
        *before, last = _parts(name)
        if not before:
            yield self, last
            return
        with self.folder("/".join(before)) as folder:
            yield folder, last

    def _refuse_link(self, name: str, error: OSError) -> None:
        """Say so where it is a link that the system refused to follow."""
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            found = self.stat(name)
            if found is not None and stat.S_ISLNK(found.st_mode):
                raise CorruptCacheError(f"{self.path / name}: is a link, which is not followed here") from None


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}")


def _temporary(name: str) -> str:
    return f".{name}.{secrets.token_hex(4)}"


def _parts(name: str) -> list[str]:
    parts = name.split("/")
    if not all(parts) or any(part in (".", "..") or "\0" in part for part in parts):
        raise CorruptCacheError(f"{name!r}: is not a path below a folder")
    return parts
