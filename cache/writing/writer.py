"""Writing a cache: its shards, its manifest; how they get into place is in `publishing`."""

from pathlib import Path

import numpy as np
import safetensors.numpy

from ..common.arrays import Array
from ..common.files import replacing, storage_errors, sync
from ..errors import InputError
from ..format.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    FileInfo,
    Manifest,
    ShardInfo,
    sha256_file,
    shard_name,
    shard_tensors,
)
from ..format.safetensors_file import DTYPES
from ..format.tasks import CLASSIFICATION, Task
from .publishing import building, publish, staging

__all__ = [
    "building",
    "file_info",
    "publish",
    "replacing",
    "staging",
    "storage_errors",
    "sync",
    "write_manifest",
    "write_shard",
]


def write_shard(
    folder: Path,
    split: str,
    index: int,
    input_ids: Array,
    lengths: Array,
    source_rows: Array,
    labels: Array | None,
    task: Task = CLASSIFICATION,
    first_lengths: Array | None = None,
) -> ShardInfo:
    """Write one shard of a cache under construction.

    Args:
        folder: the cache's (staging) folder.
        split: the split's name.
        index: the shard's number, from 0.
        input_ids: (tokens,) uint16, or uint32 where the vocabulary needs it; rows end to end.
        lengths: (rows,) tokens of each row.
        source_rows: (rows,) each row's index in its source split.
        labels: by task (rows,) class ids, (rows,) numbers, (rows, classes) 0 or 1, or (tokens,) class ids, -100 at
            tokens without one; None where it takes none.
        task: what the labels mean.
        first_lengths: (rows,) tokens of token type 0 of each row, for pairs.

    Returns:
        What the manifest says of it.
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    contents = {"offsets": offsets, "source_rows": source_rows, "labels": labels, "first_lengths": first_lengths}
    expected = shard_tensors(len(lengths), len(input_ids), 1, task)
    tensors = {
        "input_ids": np.ascontiguousarray(input_ids),
        **{
            name: np.ascontiguousarray(contents[name], DTYPES[expected[name][0]])
            for name in expected
            if name in contents
        },
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
    """Write the manifest, the last file of a cache.

    Raises:
        InputError: it is larger than a reader would accept.
    """
    path = folder / MANIFEST
    data = manifest.to_bytes()
    if len(data) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"the manifest of {manifest.name} would be {len(data):,} bytes, but at most {MAX_MANIFEST_BYTES:,} are "
            f"read back; its {len(manifest.task.label_names):,} label names take most of it"
        )
    with storage_errors(path):
        path.write_bytes(data)
