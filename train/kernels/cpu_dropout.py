"""Dropout on the CPU from raw random bits.

torch draws a CPU's dropout one number at a time, which costs more than the matrix products around it. Here 64-bit
words of numpy's SFC64 are cut into numbers of 16 bits, and the masking is integer arithmetic on sign bits. A value is
dropped with probability p, to within 2^-15, independently of the others, as by `torch.nn.Dropout`; only the choice of
values differs. The generator's seed comes from torch's own generator, so a run whose random state is restored draws the
same numbers.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Supported precisions, and integers of the same size."""
TOP = 1 << 15
"""How many different numbers are drawn: 16 bits for each value, of which one is the sign."""


def random_source() -> np.random.SFC64:
    """A generator seeded by torch's."""
    return np.random.SFC64(int(torch.randint(2**62, ())))


def sign_bits(source: np.random.SFC64, shape: torch.Size, kept: float, integer: torch.dtype) -> torch.Tensor:
    """Integers of `shape` whose sign bit is set with probability `kept`; their other bits are noise."""
    words = source.random_raw(-(-shape.numel() // 4))
    numbers = torch.from_numpy(words.view(np.int16))[: shape.numel()].view(shape)
    threshold = min(round(kept * TOP), TOP - 1)
    return numbers.bitwise_and_(TOP - 1).sub_(threshold).to(integer)  # 0 … TOP - 1 less the threshold


class _Dropout(torch.autograd.Function):
    """`values`, each set to 0 with probability `p`, the others divided by 1 - p."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, p: float) -> torch.Tensor:
        integer = INTEGERS[values.dtype]
        keep = sign_bits(random_source(), values.shape, 1 - p, integer)
        keep.bitwise_right_shift_(8 * integer.itemsize - 1)  # all ones where kept, all zeros where not
        ctx.save_for_backward(keep)
        ctx.scale = 1 / (1 - p)
        return _masked(values, keep, ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _masked(grad, ctx.saved_tensors[0], ctx.scale), None


def _masked(values: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
    return (values.contiguous().view(keep.dtype) & keep).view(values.dtype).mul_(scale)


def dropout(module: nn.Dropout, values: torch.Tensor) -> torch.Tensor:
    """What `module` computes, on the CPU from raw bits."""
    if not module.training or not 0 < module.p < 1 or values.device.type != "cpu" or values.dtype not in INTEGERS:
        return nn.functional.dropout(values, module.p, module.training, module.inplace)
    dropped: torch.Tensor = _Dropout.apply(values, module.p)  # type: ignore[no-untyped-call]
    return dropped


def use_raw_bits(model: nn.Module) -> None:
    """Make every `nn.Dropout` of a model draw from raw bits."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.forward = partial(dropout, module)  # type: ignore[method-assign]
