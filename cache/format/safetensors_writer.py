"""Writing safetensors files to an open file, byte for byte as the safetensors library does, and their headers.

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


Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""The tensors of a file: name to (safetensors dtype, elements per axis)."""


def layout(shapes: Shapes) -> tuple[bytes, dict[str, int], int]:
    """The header of a file of these tensors, the position of each one's first byte in the order of the file, and the
    bytes of the whole file."""
    begins, end = {}, 0
    header = {}
    for name in sorted(shapes, key=lambda name: (RANK[shapes[name][0]][0], name.encode())):
        dtype, shape = shapes[name]
        begins[name], end = end, end + math.prod(shape) * RANK[dtype][1]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begins[name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: start + at for name, at in begins.items()}, start + end


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; a file that cannot be written raises OSError."""
    header, begins, _ = layout({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})
    file.write(header)
    for name in begins:
        file.write(tensors[name].data)
