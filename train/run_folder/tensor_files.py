"""Torch tensors in safetensors files of a folder that follows no link; the library itself takes paths only."""

import safetensors.torch
import torch

from cache.common.folder import Folder
from cache.format.safetensors_writer import Tensor, write_safetensors

DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip
"""Types of tensors by their safetensors names."""

Tensors = dict[str, torch.Tensor]


def write_tensors(folder: Folder, name: str, tensors: Tensors) -> None:
    """Write tensors to a new file, flushed to disk."""
    with folder.create(name) as file:
        write_safetensors(file, {key: _on_disk(tensor) for key, tensor in tensors.items()})


def _on_disk(tensor: torch.Tensor) -> Tensor:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return Tensor(DTYPES[tensor.dtype], tuple(tensor.shape), flat.view(torch.uint8).numpy().data)


def read_tensors(folder: Folder, name: str) -> Tensors:
    """The tensors of a file, mapped into memory.

    Raises:
        SafetensorError: it is not a safetensors file.
    """
    with folder.open_file(name) as file:
        return safetensors.torch.load_file(f"/dev/fd/{file.fileno()}")


def check_tensors(found: Tensors, expected: Tensors) -> None:
    """Raise a ValueError for tensors that have other names, types or shapes than expected."""
    if differing := sorted(found.keys() ^ expected.keys()):
        raise ValueError(f"{differing[0]} is {'unknown' if differing[0] in found else 'missing'}")
    for name, tensor in found.items():
        if (tensor.dtype, tensor.shape) != (expected[name].dtype, expected[name].shape):
            raise ValueError(
                f"{name} is {tensor.dtype} {list(tensor.shape)}, expected "
                f"{expected[name].dtype} {list(expected[name].shape)}"
            )
