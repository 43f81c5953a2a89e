"""Publishing a finished cache atomically: complete or not at all, one builder at a time.

    cache/imdb/                    the cache
    cache/.imdb.building-1a2b3c4d/ a build under way, or what a killed one left
    cache/.imdb.replaced-1a2b3c4d/ for a moment, where the system cannot exchange two folders: the cache being replaced
    cache/.imdb.lock               held by the process that builds

A build is written to a folder beside the cache's, flushed to disk and renamed, so a half-built cache is never seen.
The next build removes what a killed one left: while it holds the lock, nobody else can be working on it.
"""

import contextlib
import ctypes
import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..common.files import storage_errors
from ..common.folder import Folder
from ..common.locks import locked
from ..errors import InputError, LengthwiseError
from ..format.manifest import MANIFEST


@contextlib.contextmanager
def building(target: Path, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the lock on building `target`. Once inside, check whether another process has just built it.

    Args:
        target: the cache's folder.
        waiting: called once with a message if another process is building it and this one has to wait.

    Raises:
        StorageError: the folder around it cannot be written.
    """

    def announce(owner: str) -> None:
        if waiting:
            waiting(f"{target} is being built by process {owner}; waiting for it")

    with contextlib.ExitStack() as stack:
        with storage_errors(target.parent):
            parent = stack.enter_context(Folder.make(target.parent))
            if stack.enter_context(locked(lock_file(target), announce)):
                _restore(parent, target.name)
                for name in _debris(parent, target.name):
                    _discard(parent, name)
        yield


def remove_leftovers(target: Path) -> None:
    """Remove what killed builds of `target` left beside it, unless another process is building it."""
    with contextlib.suppress(OSError, LengthwiseError), Folder.open(target.parent) as parent:
        if _debris(parent, target.name):
            with locked(lock_file(target)) as held:
                for name in _debris(parent, target.name) if held else ():
                    _discard(parent, name)


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Folder]:
    """A new empty folder beside `target`, removed unless it was published. Use it inside `building`.

    Raises:
        StorageError: it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with storage_errors(target.parent):
            parent = stack.enter_context(Folder.make(target.parent))
            name = _beside(target.name, "building")
            stack.callback(_discard, parent, name)
            folder = stack.enter_context(parent.folder(name, make=True))
        yield folder


def publish(folder: Folder, target: Path) -> None:
    """Rename a finished folder of `staging` to `target`. Who has the cache that was there open keeps it whole.

    Where the system can exchange two folders (Linux), there is a complete cache at `target` at every moment.

    Raises:
        InputError: `target` exists and is not a cache.
        StorageError: the file system refuses; what was at `target` is still there.
    """
    staged, name = folder.path.name, target.name
    with storage_errors(target), Folder.open(target.parent) as parent:
        sync_tree(folder)
        if parent.stat(name) is None:
            parent.rename(staged, name)
            return
        if not (target / MANIFEST).exists() and not (target.is_dir() and not any(target.iterdir())):
            raise InputError(f"{target} exists and is not a cache; move it away, or choose another name")
        if not exchange(parent, staged, name):
            _replace(parent, staged, name)


def sync_tree(folder: Folder) -> None:
    """fsync a folder and all it holds."""
    for _, _, files, parent in os.fwalk(dir_fd=folder.handle):
        with Folder(os.dup(parent), folder.path) as inner:
            for name in filter(inner.is_file, files):
                with inner.open_file(name) as file:
                    os.fsync(file.fileno())
            inner.sync()


def exchange(folder: Folder, one: str, two: str) -> bool:
    """Exchange two names in a folder in one atomic step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    rename_exchange = 2
    if renameat2 is None:
        return False
    if renameat2(folder.handle, os.fsencode(one), folder.handle, os.fsencode(two), rename_exchange):
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            return False
        raise OSError(code, os.strerror(code), two)
    folder.sync()
    return True


def recover(target: Path, patience_s: float = 1.0) -> bool:
    """Put back a cache whose replacement was killed half-way, if that is why `target` does not exist.

    Returns:
        Whether there is something at `target` now.
    """
    end = time.monotonic() + patience_s
    with contextlib.suppress(OSError), Folder.open(target.parent) as parent:
        while not target.exists() and _debris(parent, target.name, "replaced"):
            with locked(lock_file(target)) as held:
                if held:
                    _restore(parent, target.name)
                    break
            if time.monotonic() > end:
                break
            time.sleep(0.01)  # a living process is between its two renames
    return target.exists()


def lock_file(target: Path) -> Path:
    """The lock of whoever builds, downloads or removes the cache at `target`."""
    return target.parent / f".{target.name}.lock"


def _beside(name: str, kind: str) -> str:
    return f".{name}.{kind}-{secrets.token_hex(4)}"


def _debris(parent: Folder, name: str, kind: str = "building|replaced") -> list[str]:
    pattern = re.compile(rf"\.{re.escape(name)}\.({kind})-[0-9a-f]{{8}}")
    return [found for found in parent.names() if pattern.fullmatch(found)]


def _restore(parent: Folder, name: str) -> None:
    for aside in _debris(parent, name, "replaced"):
        if parent.stat(name) is None and parent.is_file(f"{aside}/{name}/{MANIFEST}"):
            parent.rename(f"{aside}/{name}", name)


def _discard(parent: Folder, name: str) -> None:
    """Remove a folder, to which a process that has it open may still be adding files."""
    for _ in range(20):
        with contextlib.suppress(OSError):
            parent.remove(name)
            if parent.stat(name) is None:
                return
        time.sleep(0.01)


def _replace(parent: Folder, folder: str, name: str) -> None:
    """Replace a folder by two renames; if killed between them, `recover` or the next `building` undoes the first."""
    aside = _beside(name, "replaced")
    parent.folder(aside, make=True).close()
    parent.rename(name, f"{aside}/{name}")
    try:
        parent.rename(folder, name)
    except OSError:
        parent.rename(f"{aside}/{name}", name)
        _discard(parent, aside)
        raise
    _discard(parent, aside)
