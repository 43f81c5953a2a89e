"""Locks that the system frees when the process that holds them ends: of a lock file, of an open directory."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EBADF)


@contextlib.contextmanager
def locked_handle(handle: int, waiting: Callable[[], object] | None = None) -> Iterator[bool]:
    """Hold the lock of a file or directory, which one handle can do at a time; the handle is closed at the end.

    Args:
        handle: a descriptor that was opened for this alone.
        waiting: called once if another process holds it. None: do not wait.

    Yields:
        Whether it is held; see `locked`.
    """
    _held.add(handle)
    try:
        yield _acquire(lambda wait: fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)), waiting)
    finally:
        _held.discard(handle)
        os.close(handle)


def hold_shared(handle: int) -> bool:
    """Hold a file's or directory's lock shared with others, until the handle and its copies are closed.

    Returns:
        Whether it is held: False while another handle has it alone, or where the file system has no locks.
    """
    return _acquire(lambda _: fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB))


def _acquire(attempt: Callable[[bool], object], waiting: Callable[[], object] | None = None) -> bool:
    """Call `attempt` without waiting; where the lock is taken, call `waiting`, then `attempt` that waits. Returns
    whether it is held; see `locked`."""
    try:
        try:
            attempt(False)
        except (BlockingIOError, TimeoutError):
            if waiting is None:
                return False
            waiting()
            attempt(True)
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        return False
    return True


_held: set[int] = set()


def _let_go() -> None:
    """Close the locks in a forked worker: it would hold them after its parent's end."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[str], object] | None = None) -> Iterator[bool]:
    """Hold a lock file, which one process or thread can do at a time; the system frees it when that process ends.

    Args:
        path: of the lock file, made where it is missing and removed at the end.
        waiting: called once with the owner's process number, as text, if another one holds it. None: do not wait.

    Yields:
        Whether it is held. False where `waiting` is None and another one holds it, or where the file system has no
        locks.

    Raises:
        OSError: the lock file cannot be made.
    """
    from filelock import FileLock

    lock = FileLock(path, on_acquired=_write_owner, fallback_to_soft=False)
    held = _acquire(lambda wait: lock.acquire(blocking=wait), waiting and (lambda: waiting(_owner(path))))
    try:
        yield held
    finally:
        if held:
            path.unlink(missing_ok=True)  # who waits for it notices that its file is gone, and makes a new one
            lock.release()


def _write_owner(handle: int) -> None:
    os.pwrite(handle, f"{os.getpid():<10}".encode(), 0)


def _owner(path: Path) -> str:
    """The number of the process that holds a lock; "?" where it is just being written or was just removed."""
    try:
        return path.read_text(errors="replace").strip() or "?"
    except OSError:
        return "?"
