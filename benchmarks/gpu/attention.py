"""The kernels of attention, alone: forward and backward, with and without a mask, and over packed rows."""

import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from train.kernels.packed_attention import packed_attention

from ..timing import Json
from .common import SEED, Place

HEADS, HEAD_WIDTH = 12, 64
"""Of BERT-base."""
PACKED = "packed"
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
PADDING_SHARE = 20
"""With a mask, the last row's last 1/20 is padding, as in a batch of almost equal lengths."""


def measure_attention(
    place: Place, kernel: str, batch_size: int, width: int, masked: bool, dropout: float, precision: str
) -> Json:
    """Microseconds of a forward and a backward pass, and the FLOPs of its four-and-eight products a second.

    A kernel that does not compute such a batch on this device is a result, too.
    """
    torch.manual_seed(SEED)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shape = (1, HEADS, batch_size * width, HEAD_WIDTH) if kernel == PACKED else (batch_size, HEADS, width, HEAD_WIDTH)
    parts = [torch.randn(shape, device=place.device, dtype=dtype, requires_grad=True) for _ in range(3)]
    if kernel == PACKED:
        ends = torch.arange(0, batch_size * width + 1, width, dtype=torch.int32, device=place.device)

        def attend() -> torch.Tensor:
            return packed_attention(*parts, dropout, HEAD_WIDTH**-0.5, (ends, ends), (width, width))
    else:
        mask = None
        if masked:  # of the shape and strides that models get
            real = torch.ones(batch_size, width, dtype=torch.bool, device=place.device)
            real[-1, width - width // PADDING_SHARE :] = False
            mask = real[:, None, None, :].expand(-1, 1, width, -1)

        def attend() -> torch.Tensor:
            with sdpa_kernel(BACKENDS[kernel]):
                return scaled_dot_product_attention(*parts, attn_mask=mask, dropout_p=dropout)

    try:
        seconds = _time(place, attend)
    except (RuntimeError, NotImplementedError) as error:
        return {"unsupported": str(error).splitlines()[0][:200]}
    flops = 12 * batch_size * HEADS * width**2 * HEAD_WIDTH
    return {"us": seconds * 1e6, "tflops_per_second": flops / seconds / 1e12}


def _time(place: Place, attend: Callable[[], torch.Tensor]) -> float:
    """Seconds of a forward and a backward pass: of many, the device waited for at the end alone."""
    passes = 2 if place.quick else 50
    grad = torch.ones_like(attend())
    begin = 0.0
    for number in range(2 * passes):  # the first half warms up
        if number == passes:
            place.synchronize()
            begin = time.perf_counter()
        attend().backward(grad)
    place.synchronize()
    return (time.perf_counter() - begin) / passes
