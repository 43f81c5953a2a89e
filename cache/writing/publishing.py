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
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..common.files import storage_errors, sync, sync_tree
from ..common.locks import locked
from ..errors import InputError
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
            target.parent.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(locked(_lock_file(target), announce)):
                _restore(target)
                for path in _debris(target):
                    _discard(path)
        yield


@contextlib.contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new empty folder beside `target`, removed unless it was renamed away. Use it inside `building`.

    Raises:
        StorageError: it cannot be made.
    """
    folder = _beside(target, "building")
    with storage_errors(target.parent):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        _discard(folder)


def publish(folder: Path, target: Path) -> None:
    """Rename a finished folder to `target`. A cache that was there is removed; who has it mapped keeps it whole.

    Where the system can exchange two folders (Linux), there is a complete cache at `target` at every moment.

    Raises:
        InputError: `target` exists and is not a cache.
        StorageError: the file system refuses; what was at `target` is still there.
    """
    with storage_errors(target):
        sync_tree(folder)
        if not os.path.lexists(target):
            folder.rename(target)
            sync(target.parent)
            return
        if not (target / MANIFEST).exists() and not (target.is_dir() and not any(target.iterdir())):
            raise InputError(f"{target} exists and is not a cache; move it away, or choose another name")
        old = folder if _exchange(folder, target) else _replace(folder, target)
        sync(target.parent)
    _discard(old)


def recover(target: Path, patience_s: float = 1.0) -> bool:
    """Put back a cache whose replacement was killed half-way, if that is why `target` does not exist.

    Returns:
        Whether there is something at `target` now.
    """
    end = time.monotonic() + patience_s
    with contextlib.suppress(OSError):
        while not target.exists() and _debris(target, "replaced"):
            with locked(_lock_file(target)) as held:
                if held:
                    _restore(target)
                    break
            if time.monotonic() > end:
                break
            time.sleep(0.01)  # a living process is between its two renames
    return target.exists()


def _lock_file(target: Path) -> Path:
    return target.parent / f".{target.name}.lock"


def _beside(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{kind}-{secrets.token_hex(4)}"


def _debris(target: Path, kind: str = "building|replaced") -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.({kind})-[0-9a-f]{{8}}")
    return sorted(path for path in target.parent.iterdir() if pattern.fullmatch(path.name))


def _restore(target: Path) -> None:
    for path in _debris(target, "replaced"):
        if not os.path.lexists(target) and (path / target.name / MANIFEST).exists():
            (path / target.name).rename(target)


def _discard(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _exchange(one: Path, two: Path) -> bool:
    """Exchange two folders in one atomic step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    at_working_folder, rename_exchange = -100, 2
    if renameat2(at_working_folder, os.fsencode(one), at_working_folder, os.fsencode(two), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(two))


def _replace(folder: Path, target: Path) -> Path:
    """Replace a folder by two renames; if killed between them, `recover` or the next `building` undoes the first."""
    aside = _beside(target, "replaced")
    aside.mkdir()
    target.rename(aside / target.name)
    try:
        folder.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        aside.rmdir()
        raise
    return aside
