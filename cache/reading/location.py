"""Where a cache lies: paths that stay inside its folder, and whether it is still the cache that was opened."""

from pathlib import Path

from ..common.files import Inside
from ..format.manifest import MANIFEST


class CacheLocation:
    """The folder of an open cache.

    Args:
        folder: where the cache lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._inside = Inside(folder)
        self._identity = identity(folder)

    def path_of(self, name: str) -> Path:
        """The path of something in the cache.

        Raises:
            CorruptCacheError: it is a link that leaves the cache.
        """
        return self._inside.check(self.folder / name)

    def was_replaced(self) -> bool:
        """Whether another cache, or none, is at the folder now. The mapped shards are still those of this one."""
        return identity(self.folder) != self._identity


def identity(folder: Path) -> tuple[int, int, int, int] | None:
    """What tells the cache at `folder` from one that replaced it; a later file may have an earlier one's inode."""
    try:
        stat = (folder / MANIFEST).stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size
