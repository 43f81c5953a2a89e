"""The local store: caches that were pulled, one folder each, named by what they hold; and room made in it.

    ~/.cache/lengthwise/
      imdb-4f1c0a9be2d7-<32 hex digits>/            a cache: name, fingerprint, sha256 of its manifest
      .imdb-4f1c0a9be2d7-….pulling-1a2b3c4d/        a download under way, or one that was stopped
      .imdb-4f1c0a9be2d7-….lock                     held by the process that downloads or removes it
      imdb-4f1c0a9be2d7/                            a cache that was built for a URL, until it is pushed
      .imdb-4f1c0a9be2d7.building-1a2b3c4d/         its build under way, or one that was killed

Whoever has a cache open holds its folder's lock, shared, so that what is in use is never removed. The time of a folder
is that of its last use. Two caches with one fingerprint but other manifests are two: a stranger cannot name the
fingerprint of yours, and have theirs used in its place.
"""

import contextlib
import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from ..common.files import storage_errors
from ..common.folder import Folder
from ..common.hub import user_path
from ..common.locks import locked
from ..console.sizes import parse_bytes
from ..console.text import sized
from ..errors import StorageError
from ..format.manifest import MANIFEST
from ..remote.mounted import file_sizes
from ..writing.publishing import lock_file
from .listing import RemoteCache

_BUILT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*-[0-9a-f]{12}")
_CACHE = re.compile(rf"{_BUILT.pattern}-[0-9a-f]{{32}}")
_UNFINISHED = re.compile(rf"\.({_BUILT.pattern}(-[0-9a-f]{{32}})?)\.(pulling|removing|building)-[0-9a-f]{{8}}")


def store_folder() -> Path:
    """Where caches are pulled to: $LENGTHWISE_STORE, else lengthwise in the user's cache folder."""
    given = os.environ.get("LENGTHWISE_STORE")
    return user_path(given or os.environ.get("XDG_CACHE_HOME", "~/.cache")) / ("" if given else "lengthwise")


def store_limit() -> int | None:
    """Most bytes that the store may hold: $LENGTHWISE_STORE_SIZE; None: no limit."""
    size = os.environ.get("LENGTHWISE_STORE_SIZE")
    return parse_bytes(size, "LENGTHWISE_STORE_SIZE") if size else None


def store_name(cache: RemoteCache) -> str:
    """The name of a cache's folder in the store."""
    digest = hashlib.sha256(cache.data).hexdigest()
    return f"{cache.manifest.name}-{cache.manifest.fingerprint[:12]}-{digest[:32]}"


@dataclass(frozen=True)
class StoredCache:
    """A folder of the store, or a download that was stopped.

    Attributes:
        name: of the folder.
        bytes: of its files.
        used: when it was last used, seconds since 1970.
    """

    name: str
    bytes: int
    used: float


@dataclass(frozen=True)
class Collected:
    """What a garbage collection did.

    Attributes:
        removed: what was removed.
        in_use: what would have gone, but is in use.
        built: caches that were built for a URL and are not pushed: they lie nowhere else, and stay.
        left: bytes that the store holds now, `built` not counted.
    """

    removed: list[StoredCache]
    in_use: list[StoredCache]
    built: list[StoredCache]
    left: int


def collect_garbage(store: Path, max_bytes: int | None) -> Collected:
    """Remove downloads and builds that were stopped, then caches, the longest unused first, until the store is small
    enough.

    What another process has open or downloads stays. Anything that is not of the store stays.

    Args:
        store: its folder; none there is an empty one.
        max_bytes: most that it may hold afterwards; None: only what was stopped is removed.

    Raises:
        StorageError: the file system refuses.
    """
    removed, in_use = [], []
    with storage_errors(store):
        try:
            folder = Folder.open(store)
        except (FileNotFoundError, NotADirectoryError):
            return Collected([], [], [], 0)
        with folder:
            unfinished = [_measured(folder, name) for name in folder.names() if _UNFINISHED.fullmatch(name)]
            caches = [_measured(folder, name) for name in folder.names() if _CACHE.fullmatch(name)]
            names = [name for name in folder.names() if _BUILT.fullmatch(name) and folder.is_file(f"{name}/{MANIFEST}")]
            built = [_measured(folder, name) for name in names]
            left = sum(item.bytes for item in (*unfinished, *caches))
            for item in (*unfinished, *sorted(caches, key=lambda cache: cache.used)):
                if not item.name.startswith(".") and (max_bytes is None or left <= max_bytes):
                    continue
                if _remove(folder, item.name):
                    removed.append(item)
                    left -= item.bytes
                else:
                    in_use.append(item)
    return Collected(removed, in_use, built, left)


def make_room(store: Path, needed: int) -> None:
    """Keep the store within its limit, if it has one, once `needed` bytes are added.

    Raises:
        StorageError: what is in use leaves no room.
    """
    limit = store_limit()
    if limit is None:
        return
    left = collect_garbage(store, max(0, limit - needed)).left if needed <= limit else 0
    if left + needed > limit:
        raise StorageError(
            f"{store} may hold {sized(limit)} (LENGTHWISE_STORE_SIZE), {sized(left)} of it are in use, "
            f"but this cache takes {sized(needed)}; raise the limit, or pull with --to FOLDER"
        )


def _measured(store: Folder, name: str) -> StoredCache:
    found = store.stat(name)
    with contextlib.suppress(FileNotFoundError), store.folder(name) as folder:
        return StoredCache(name, sum(size for _, size in file_sizes(folder)), found.st_mtime if found else 0.0)
    return StoredCache(name, 0, 0.0)


def _remove(store: Folder, name: str) -> bool:
    """Remove a folder of the store unless it is in use; it has no name that anybody would open while it goes."""
    owner = found[1] if (found := _UNFINISHED.fullmatch(name)) else name
    with locked(lock_file(store.path / owner)) as nobody_writes:
        if not nobody_writes:
            return False
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(store.folder(name))
            except FileNotFoundError:
                return True
            if not stack.enter_context(folder.locked()):
                return False
            going = f".{owner}.removing-{secrets.token_hex(4)}"
            store.rename(name, going)
        store.remove(going)
    return True
