"""Writing safetensors files to an open file, byte for byte as the safetensors library does.

The library takes a path only: it follows what lies there, and its files have mode 0600 whatever the umask.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from ..common.arrays import Array

ORDER = (
    ("BOOL", 1), ("U8", 1), ("I8", 1), ("F8_E5M2", 1), ("F8_E4M3", 1), ("I16", 2), ("U16", 2), ("F16", 2), ("BF16", 2),
    ("I32", 4), ("U32", 4), ("F32", 4), ("F64", 8), ("I64", 8), ("U64", 8),
)  # fmt: skip
"""Types and the bytes of an element, in the library's order; its files begin with the last."""

RANK = {name: (-rank, size) for rank, (name, size) in enumerate(ORDER)}


class Tensor(NamedTuple):
    """A tensor as a file holds it.

    Attributes:
        dtype: a safetensors name, such as "F32".
        shape: elements per axis.
        data: its bytes, little-endian, in C order.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Any

    @classmethod
    def of(cls, array: Array) -> "Tensor":
        """A numpy array, copied only where it is not contiguous or not little-endian."""
        array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        kind = "BOOL" if array.dtype == bool else f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
        return cls(kind, array.shape, array.reshape(-1).view("u1").data)


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; a file that cannot be written raises OSError."""
    order = sorted(tensors, key=lambda name: (RANK[tensors[name].dtype][0], name.encode()))
    header, position = {}, 0
    for name in order:
        dtype, shape, _ = tensors[name]
        end = position + math.prod(shape) * RANK[dtype][1]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        if tensors[name].data.nbytes != math.prod(tensors[name].shape) * RANK[tensors[name].dtype][1]:
            raise ValueError(f"tensor {name!r} has {tensors[name].data.nbytes} bytes, its shape says otherwise")
        file.write(tensors[name].data)
