"""Writing a cache's shards and its manifest; `publishing` renames the finished folder."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..common.arrays import Array
from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import InputError
from ..format.files import FileInfo, file_info
from ..format.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    TOKENIZER,
    Manifest,
    ShardInfo,
    shard_name,
    shard_tensors,
)
from ..format.safetensors_file import DTYPES
from ..format.safetensors_writer import Tensor, write_safetensors
from ..format.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class ShardColumns:
    """The rows of a shard that is to be written: N rows of together T tokens.

    Attributes:
        input_ids: (T,) uint16, or uint32 where the vocabulary needs it; rows end to end.
        lengths: (N,) tokens of each row.
        source_rows: (N,) each row's index in its source split.
        labels: by task (N,) class ids, (N,) numbers, (N, classes) 0 or 1, or (T,) class ids, -100 at tokens without
            one; None where the task takes no labels.
        first_lengths: (N,) tokens of token type 0 of each row; None where rows are not pairs.
    """

    input_ids: Array
    lengths: Array
    source_rows: Array
    labels: Array | None
    first_lengths: Array | None = None


def write_shard(
    folder: Folder, split: str, index: int, columns: ShardColumns, task: Task = CLASSIFICATION
) -> ShardInfo:
    """Write one shard of a cache under construction, its number counted from 0; one that was begun before is replaced.
    Returns what the manifest says of it."""
    lengths, input_ids = columns.lengths, columns.input_ids
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    contents = {**vars(columns), "offsets": offsets}
    expected = shard_tensors(len(lengths), len(input_ids), 1, task)
    dtypes = {name: DTYPES[kind] for name, (kind, _) in expected.items()} | {"input_ids": input_ids.dtype}
    tensors = {name: Tensor.of(np.asarray(contents[name], dtype)) for name, dtype in dtypes.items()}
    file_name = shard_name(split, index)
    with storage_errors(folder.path / file_name):
        folder.folder(split, make=True).close()
        with folder.replace(file_name, durable=False) as file:
            write_safetensors(file, tensors)
        info = file_info(folder, file_name)
    return ShardInfo(file_name, info.bytes, info.sha256, rows=len(lengths), tokens=len(input_ids))


def write_tokenizer(folder: Folder, files: Mapping[str, bytes]) -> tuple[FileInfo, ...]:
    """Write the files of the tokenizer, by name; returns what the manifest says of them."""
    with storage_errors(folder.path / TOKENIZER), folder.folder(TOKENIZER, make=True) as target:
        for name, content in files.items():
            with target.create(name, durable=False) as file:
                file.write(content)
    return tuple(
        FileInfo(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in sorted(files.items())
    )


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Write the manifest, the last file of a cache.

    Raises:
        InputError: it is larger than a reader would accept.
    """
    data = manifest.to_bytes()
    if len(data) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"the manifest of {manifest.name} would be {len(data):,} bytes, but at most {MAX_MANIFEST_BYTES:,} are "
            f"read back; its {len(manifest.task.label_names):,} label names take most of it"
        )
    with storage_errors(folder.path / MANIFEST):
        folder.write(MANIFEST, data)
