"""The checkpoints of a run: which there are, the newest intact one, deleting old ones."""

import contextlib
import re
import stat
from collections.abc import Callable

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CorruptCacheError, MismatchError

from ..run_folder.folder import Json
from .checkpoint import STATE, Checkpoint, read_checkpoint, step_name


def checkpoints(root: Folder) -> list[str]:
    """The names of a run's checkpoints, newest first."""
    found = [name for name in root.names() if _NAME.fullmatch(name) and not _half_deleted(root, name)]
    return sorted(found, key=lambda name: int(name[5:]), reverse=True)


_NAME = re.compile("step-[0-9]{6,12}")


def _half_deleted(root: Folder, name: str) -> bool:
    found = root.stat(name)
    return found is not None and stat.S_ISDIR(found.st_mode) and root.stat(f"{name}/{STATE}") is None


def prune(root: Folder, keep: int, best_step: int | None) -> None:
    """Delete all but the `keep` newest checkpoints and the best one."""
    for name in checkpoints(root)[keep:]:
        if best_step is None or name != step_name(best_step):
            _remove(root, name)


def clean(root: Folder) -> None:
    """Delete what killed processes left unfinished."""
    with storage_errors(root.path):
        for name in root.names():
            if name in root.leftovers() or (_NAME.fullmatch(name) and _half_deleted(root, name)):
                root.remove(name)


def _remove(root: Folder, name: str) -> None:
    """Delete a checkpoint, its state first, so that a half-deleted one is not taken for a checkpoint."""
    with storage_errors(root.path / name), contextlib.suppress(CorruptCacheError):  # it is a link, not followed
        root.remove(f"{name}/{STATE}")
    with contextlib.suppress(OSError):
        root.remove(name)


def newest_checkpoint(root: Folder, owner: Json, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest intact checkpoint; damaged newer ones are reported and deleted.

    Raises:
        MismatchError: it belongs to another cache or to other settings.
        StorageError: it cannot be read.
    """
    for name in checkpoints(root):
        try:
            found = read_checkpoint(root, name)
        except CorruptCacheError as error:
            warn(f"{error}; going back to the checkpoint before it")
            _remove(root, name)
            continue
        differing = [name for name in owner if found.state.get(name) != owner[name]]
        if differing:
            lines = [f"{name}: {found.state.get(name)!r:.80} there, {owner[name]!r:.80} here" for name in differing]
            raise MismatchError(f"the checkpoint {found.folder.path} belongs to another run:\n  " + "\n  ".join(lines))
        return found
    return None
