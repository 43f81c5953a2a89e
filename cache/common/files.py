"""The file system's side of writing: refusals as one typed error, durable files, locks that die with their owner."""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
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
        raise StorageError(f"cannot {action} {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:  # the library wraps the system's error in text
        raise StorageError(f"cannot {action} {path}: {error}") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file of a cache for reading, which a pipe or device in its place would block for ever.

    Raises:
        CorruptCacheError: it is no regular file.
        OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CorruptCacheError(f"{path}: is no regular file")
    return os.fdopen(handle, "rb", buffering=0)


class Inside:
    """Refuses paths that a link leads out of a folder; each folder below it is resolved once.

    Args:
        folder: the cache, or the part of it, that nothing may leave.
    """

    def __init__(self, folder: Path) -> None:
        self.root = os.path.realpath(folder)
        self.sound: set[Path] = set()

    def check(self, path: Path) -> Path:
        """The path.

        Raises:
            CorruptCacheError: it leaves the folder.
        """
        if path.parent not in self.sound:
            self._resolve(path.parent)
            self.sound.add(path.parent)
        if path.is_symlink():
            self._resolve(path)
        return path

    def _resolve(self, path: Path) -> None:
        if not (os.path.realpath(path) + os.sep).startswith(self.root + os.sep):
            raise CorruptCacheError(f"{path}: is a link that leaves the cache")


def sync(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, itself included."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


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


_held: set[int] = set()
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)


def _let_go() -> None:
    """A forked worker does not share its parent's locks, else it would hold them beyond the parent's death."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], object] | None = None) -> Iterator[bool]:
    """Hold the lock file `path`, which one process or thread can do at a time; the system frees it when that one dies.

    Args:
        path: made when needed, removed at the end.
        waiting: called once with the owner's process number, as text, if another one holds it. None: do not wait.

    Yields:
        Whether it is held. False where `waiting` is None and another one holds it, or where the file system has no
        locks.

    Raises:
        OSError: the lock file cannot be made.
    """
    handle, held = _acquire(path, waiting)
    try:
        yield held
    finally:
        if held:
            _held.discard(handle)
            path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, waiting: Callable[[str], object] | None) -> tuple[int, bool]:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            held, waited = _flock(handle, waiting)
            if not held or _is_at(handle, path):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner removed it meanwhile
        if waited:
            waiting = _say_no_more
    if held:
        _held.add(handle)
        os.pwrite(handle, f"{os.getpid():<10}".encode(), 0)
    return handle, held


def _flock(handle: int, waiting: Callable[[str], object] | None) -> tuple[bool, bool]:
    """Whether the lock was got, and whether it had to be waited for."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            return False, False
        waiting(os.pread(handle, 10, 0).decode(errors="replace").strip() or "?")
        fcntl.flock(handle, fcntl.LOCK_EX)
        return True, True
    except OSError as error:
        if error.errno in _NO_LOCKS_HERE:
            return False, False
        raise
    return True, False


def _say_no_more(owner: str) -> None:
    """Whoever has been told that it waits need not hear of every owner before it."""


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
