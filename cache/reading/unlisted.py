"""What lies in a cache's folder beside the files that are read: it is never opened, only named."""

import stat
from collections.abc import Iterator, Set
from pathlib import PurePosixPath
from typing import NamedTuple

from ..common.folder import Folder

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "pipe"}
SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
"""Modes that no file of a cache has: it would run with another user's rights."""


class Finding(NamedTuple):
    """Something that does not belong to a cache, or a file of it that anybody may change.

    Attributes:
        name: its path below the cache.
        what: "file", "folder", "link", "pipe" or "device"; of a file of the cache what is wrong with its mode.
    """

    name: str
    what: str


def find_unlisted(cache: Folder, listed: Set[str]) -> Iterator[Finding]:
    """Find what lies in a cache beside its files, which are `listed` by their paths below it, and files with odd
    modes."""
    folders = {str(parent) for name in listed for parent in PurePosixPath(name).parents}
    return _find(cache, "", listed, folders)


def _find(folder: Folder, prefix: str, listed: Set[str], folders: Set[str]) -> Iterator[Finding]:
    for name in folder.names():
        found, path = folder.stat(name), prefix + name
        if found is None:
            continue
        if path not in listed and not (path in folders and stat.S_ISDIR(found.st_mode)):
            yield Finding(path, KINDS.get(stat.S_IFMT(found.st_mode), "device"))
            continue
        if found.st_mode & stat.S_IWOTH:
            yield Finding(path, "anybody may change it")
        if path in folders:
            with folder.folder(name) as inner:
                yield from _find(inner, f"{path}/", listed, folders)
        elif found.st_mode & SPECIAL:
            yield Finding(path, f"has the mode {stat.S_IMODE(found.st_mode):o}")
