"""From a folder under construction to a cache in its place: complete or not at all, one builder at a time.

    cache/imdb/                    the cache
    cache/.imdb.building-1a2b3c4d/ a build under way, or what a killed one left
    cache/.imdb.replaced-1a2b3c4d/ for a moment, where the system cannot exchange two folders: the cache being replaced
    cache/.imdb.lock               held by the process that builds

A build is written beside its place, flushed to disk and renamed into place, so a half-built cache is never seen.
What a killed build left is removed by the next one, which knows by the lock that nobody works on it any more.
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

from ..common.files import locked, storage_errors, sync, sync_tree
from ..errors import InputError
from ..format.manifest import MANIFEST


@contextlib.contextmanager
def building(place: Path, waiting: Callable[[str], object] | None = None) -> Iterator[None]:
    """Be the only process that builds `place`; look inside whether another one has just built it.

    Args:
        place: the cache's folder.
        waiting: called once with a message, if another process builds it now and this one waits.

    Raises:
        StorageError: the folder around it cannot be written.
    """

    def say(owner: str) -> None:
        if waiting:
            waiting(f"{place} is being built by process {owner}; waiting for it")

    with contextlib.ExitStack() as stack:
        with storage_errors(place.parent):
            place.parent.mkdir(parents=True, exist_ok=True)
            if stack.enter_context(locked(_lock_file(place), say)):
                _restore(place)
                for path in _debris(place):
                    _discard(path)
        yield


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """A new empty folder beside `place`, removed unless it was renamed away. Use it inside `building`.

    Raises:
        StorageError: it cannot be made.
    """
    folder = _beside(place, "building")
    with storage_errors(place.parent):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        _discard(folder)


def publish(folder: Path, place: Path) -> None:
    """Rename a finished folder to `place`. A cache that was there goes away, but stays whole for who has it mapped.

    Where the system can exchange two folders (Linux), there is a complete cache at `place` at every moment.

    Raises:
        InputError: something that is no cache is in the way.
        StorageError: the file system refuses; what was at `place` is still there.
    """
    with storage_errors(place):
        sync_tree(folder)
        if not os.path.lexists(place):
            folder.rename(place)
            sync(place.parent)
            return
        if not (place / MANIFEST).exists() and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(f"{place} exists and is no cache; move it away, or choose another name")
        old = folder if _exchange(folder, place) else _replace(folder, place)
        sync(place.parent)
    _discard(old)


def recover(place: Path, patience_s: float = 1.0) -> bool:
    """Put back a cache whose replacement was killed half-way, if that is why `place` does not exist.

    Returns:
        Whether there is something at `place` now.
    """
    end = time.monotonic() + patience_s
    with contextlib.suppress(OSError):
        while not place.exists() and _debris(place, "replaced"):
            with locked(_lock_file(place)) as held:
                if held:
                    _restore(place)
                    break
            if time.monotonic() > end:
                break
            time.sleep(0.01)  # a living process is between its two renames
    return place.exists()


def _lock_file(place: Path) -> Path:
    return place.parent / f".{place.name}.lock"


def _beside(place: Path, kind: str) -> Path:
    return place.parent / f".{place.name}.{kind}-{secrets.token_hex(4)}"


def _debris(place: Path, kind: str = "building|replaced") -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(place.name)}\.({kind})-[0-9a-f]{{8}}")
    return sorted(path for path in place.parent.iterdir() if pattern.fullmatch(path.name))


def _restore(place: Path) -> None:
    for path in _debris(place, "replaced"):
        if not os.path.lexists(place) and (path / place.name / MANIFEST).exists():
            (path / place.name).rename(place)


def _discard(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _exchange(one: Path, two: Path) -> bool:
    """Exchange two folders at once; False where the system or the file system cannot."""
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


def _replace(folder: Path, place: Path) -> Path:
    """Two renames; a process killed between them leaves what `recover` and the next `building` put back."""
    aside = _beside(place, "replaced")
    aside.mkdir()
    place.rename(aside / place.name)
    try:
        folder.rename(place)
    except OSError:
        (aside / place.name).rename(place)
        aside.rmdir()
        raise
    return aside
