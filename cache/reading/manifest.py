"""Opening the folder of a cache and reading its manifest."""

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import CorruptCacheError, NotACacheError
from ..format.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest
from ..format.plan_file import PLAN_REMEDY


def open_folder(path: Path) -> Folder:
    """Open the folder of a cache.

    Raises:
        NotACacheError: there is none.
        StorageError: the system does not let it be read.
    """
    with storage_errors(path, "read"):
        try:
            return Folder.open(path)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_cache(path, "is not a folder" if path.exists() else "does not exist") from None


def read_manifest(folder: Folder) -> Manifest:
    """Read the manifest of the cache in an open folder.

    Raises:
        NotACacheError: there is none.
        FormatVersionError, CorruptCacheError: see `Manifest.from_bytes`.
        StorageError: the system does not let it be read.
    """
    path = folder.path / MANIFEST
    with storage_errors(path, "read"):
        try:
            data = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            raise _no_cache(folder.path, "is a folder without a manifest") from None
    with naming_remedy(_salvaged_argument(data)):
        return Manifest.from_bytes(data, path)


def _no_cache(path: Path, what: str) -> NotACacheError:
    return NotACacheError(
        f"{path} {what}, so it is not a cache; `prep list` shows the caches here, `prep build` makes one"
    )


@contextlib.contextmanager
def naming_remedy(argument: object) -> Iterator[None]:
    """Add the way out to the message of a `CorruptCacheError` that has none: the command that builds a cache of source
    `argument`, which may be a list."""
    try:
        yield
    except CorruptCacheError as error:
        if _REMEDY in str(error) or PLAN_REMEDY in str(error):
            raise
        given = argument if isinstance(argument, list) else [argument]
        usable = all(isinstance(part, str) and part and part.isprintable() for part in given)
        source = shlex.join(map(str, given)) if usable else ""
        source = source if 0 < len(source) < 1000 else "SOURCE"
        raise CorruptCacheError(
            f"{error}{_REMEDY}prep build {source} --force (with the other options it was built with)"
        ) from None


_REMEDY = "; to build the cache anew: "


def _salvaged_argument(data: bytes) -> object:
    found = re.search(rb'"argument": ("(?:[^"\\]|\\.)*"|\[[^]]*\])', data)
    with contextlib.suppress(ValueError):
        return json.loads(found.group(1)) if found else None
    return None
