"""Writing a cache: complete or not at all.

It is written into a hidden folder beside its place, flushed to disk, and renamed into place, so that a half-built
cache is never seen.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.numpy

from .errors import StorageError
from .format import MANIFEST, FileInfo, Manifest, ShardInfo, sha256_file, shard_name
from .plans import Ints


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the file system's refusals into a `StorageError` that names `path` and the reason."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:  # the library wraps the system's error in text
        raise StorageError(f"cannot write {path}: {error}") from error


@contextlib.contextmanager
def staging(place: Path) -> Iterator[Path]:
    """A new empty folder beside `place`, removed unless it was renamed away.

    Raises:
        StorageError: it cannot be made.
    """
    with storage_errors(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.building-", dir=place.parent))
        folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, place: Path) -> None:
    """Rename a finished folder to `place`; what was there before goes away, but stays whole for who has it mapped."""
    with storage_errors(place):
        sync_tree(folder)
        if place.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{place.name}.replaced-", dir=place.parent))
            place.rename(old / place.name)
            folder.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        else:
            folder.rename(place)
        sync(place.parent)


def sync(path: Path) -> None:
    """fsync a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, itself included."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def write_shard(
    folder: Path, split: str, index: int, input_ids: Ints, lengths: Ints, source_rows: Ints, labels: Ints
) -> ShardInfo:
    """Write one shard of a cache under construction.

    Args:
        folder: the cache's (staging) folder.
        split: the split's name.
        index: the shard's number, from 0.
        input_ids: (tokens,) uint16, or uint32 where the vocabulary needs it; rows end to end.
        lengths: (rows,) tokens of each row.
        source_rows: (rows,) each row's index in its source split.
        labels: (rows,) class ids.

    Returns:
        What the manifest says of it.
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    tensors = {
        "input_ids": np.ascontiguousarray(input_ids),
        "offsets": offsets,
        "source_rows": np.ascontiguousarray(source_rows, np.int64),
        "labels": np.ascontiguousarray(labels, np.int64),
    }
    name = shard_name(split, index)
    path = folder / name
    with storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        safetensors.numpy.save_file(tensors, path)
        info = file_info(path)
    return ShardInfo(name, info.bytes, info.sha256, rows=len(lengths), tokens=len(input_ids))


def file_info(path: Path) -> FileInfo:
    """Name, size and checksum of a file."""
    return FileInfo(path.name, path.stat().st_size, sha256_file(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, the last file of a cache."""
    path = folder / MANIFEST
    with storage_errors(path):
        path.write_bytes(manifest.to_bytes())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there is flushed and renamed to `path`, or removed."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
