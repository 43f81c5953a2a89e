"""The one door through which files are read, written and removed in a folder that a stranger may have made.

A `Folder` is a directory held open by a handle. Whatever is done in it is done relative to that handle and follows no
link, so nothing outside it can be read, written or removed, and it stays the same folder when its path is given to
another one meanwhile. Files and folders are made with the modes that the user's umask asks for.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import BinaryIO, Self

from ..errors import CorruptCacheError, StorageError

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe or device would block for ever
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EBADF)


class Folder:
    """A directory held open. Names are plain names, or paths below it such as "train/shard-00000.safetensors".

    Every method raises `CorruptCacheError` where a link, pipe or device stands in the way of a name, and OSError where
    the file system refuses.

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
        """Open a directory by its path; it and its parents are made where they are missing, and last."""
        path = Path(path)
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            with cls.open(folder.parent) as parent:
                parent.sync()
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
        self.close()

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    # --- folders in it

    def folder(self, name: str, *, make: bool = False) -> "Folder":
        """Open a folder below this one; with `make`, those that are missing are made."""
        found = Folder(os.dup(self.handle), self.path)
        for part in _parts(name):
            with found:
                found = found._step(part, make)
        return found

    def _step(self, name: str, make: bool) -> "Folder":
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=self.handle)
        try:
            handle = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.handle)
        except OSError as error:
            self._refuse_link(name, error)
            raise
        return Folder(handle, self.path / name)

    @contextlib.contextmanager
    def staging(self, name: str) -> Iterator["Folder"]:
        """A new folder that takes the name `name` at the end, or is removed. Whoever writes its files flushes them."""
        temporary = _temporary(name)
        try:
            os.mkdir(temporary, dir_fd=self.handle)
            with self._step(temporary, make=False) as folder:
                yield folder
                folder.sync()
            self.remove(name)
            self.rename(temporary, name)
        finally:
            self.remove(temporary)

    def checked_path(self) -> Path:
        """Its path, for a library that takes nothing else.

        Raises:
            StorageError: another folder is at that path by now.
        """
        with contextlib.suppress(OSError):
            if os.path.samestat(self.path.stat(), os.fstat(self.handle)):
                return self.path
        raise StorageError(f"{self.path} was moved or replaced while it was in use; put it back and start again")

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
                raise CorruptCacheError(f"{self.path / name}: is no regular file") from None
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise CorruptCacheError(f"{self.path / name}: is no regular file")
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
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A new file, open for writing and flushed to disk at the end; anything of that name is an error."""
        with self._parent(name) as (folder, last):
            handle = os.open(last, _CREATE, 0o666, dir_fd=folder.handle)
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def replace(self, name: str) -> Iterator[BinaryIO]:
        """A file open for writing that takes the place of `name` at the end, complete or not at all."""
        with self._parent(name) as (folder, last):
            temporary = _temporary(last)
            try:
                with folder.create(temporary) as file:
                    yield file
                folder.rename(temporary, last)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder.handle)

    def write(self, name: str, data: bytes) -> None:
        """`replace` with content at hand."""
        with self.replace(name) as file:
            file.write(data)

    # --- both

    def names(self) -> list[str]:
        """What it holds, in order."""
        return sorted(os.listdir(self.handle))  # noqa: PTH208  # of a handle, which pathlib does not take

    def stat(self, name: str) -> os.stat_result | None:
        """What lies at a name, a link itself and not its target; None if nothing does."""
        try:
            with self._parent(name) as (folder, last):
                return os.stat(last, dir_fd=folder.handle, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def remove(self, name: str) -> None:
        """Remove a file, a link (its target stays), or a folder with all it holds; nothing there is no error."""
        found = self.stat(name)
        if found is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(found.st_mode):
                shutil.rmtree(name, dir_fd=self.handle)
            else:
                os.unlink(name, dir_fd=self.handle)

    def rename(self, old: str, new: str) -> None:
        """Give a file, link or folder in it a new name, which lasts; a file or link of that name is replaced."""
        if len(_parts(old)) + len(_parts(new)) > 2:
            raise ValueError("only within one folder")
        os.rename(old, new, src_dir_fd=self.handle, dst_dir_fd=self.handle)
        self.sync()

    def leftovers(self) -> list[str]:
        """The temporary files and folders of writers; while no other process writes here, those of killed ones."""
        return [name for name in self.names() if _TEMPORARY.fullmatch(name)]

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
            Whether it is held. False where `waiting` is None and another one holds it, or where the file system has no
            locks.
        """
        handle = os.open(
            ".", _FOLDER, dir_fd=self.handle
        )  # a description of its own, so that threads exclude each other
        _held.add(handle)
        try:
            yield _lock(handle, waiting)
        finally:
            _held.discard(handle)
            os.close(handle)

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
        raise CorruptCacheError(f"{name!r}: is no name of something in a folder")
    return parts


def _lock(handle: int, waiting: Callable[[], object] | None) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            return False
        waiting()
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        return False
    return True


_held: set[int] = set()


def _let_go() -> None:
    """A forked worker does not share its parent's locks, else it would hold them beyond the parent's death."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
