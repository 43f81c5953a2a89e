"""Noticing that a cache was replaced while it was worked on."""

import contextlib
from collections.abc import Iterator

from ..common.folder import Folder
from ..errors import LengthwiseError, StorageError


@contextlib.contextmanager
def in_place(cache: Folder, action: str) -> Iterator[None]:
    """Work that is for the cache that its path leads to: an `action` as in "open it again to store plans in it".

    Raises:
        StorageError: another cache, or none, is at the path when the work begins or ends.
    """
    try:
        _check(cache, action)
        yield
    except LengthwiseError:
        _check(cache, action)
        raise
    _check(cache, action)


def _check(cache: Folder, action: str) -> None:
    if not cache.is_at(cache.path):
        raise StorageError(f"{cache.path}: another cache is there now, or none; open it again to {action}") from None
