"""Attention on the CPU, with dropout, a block of rows at a time.

While training with dropout, torch's attention on the CPU takes a path of one full-size pass after the other in fp32,
most of it drawing random numbers: more than half of a small encoder's step. Here the scores of some rows at a time,
as many as fit into the processor's cache, go through product, softmax, dropout and product. The sign of a stored
probability says whether dropout keeps it, so that backward needs no separate mask.

Scores are held in the precision of the queries, as in transformers' eager attention; in fp32 everything equals torch's
own attention up to rounding.

Shapes: B rows, N heads of D, Q queries, K keys.
"""

from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cpu_dropout import INTEGERS, random_source, sign_bits, use_raw_bits

NAME = "lengthwise_cpu"
"""The name under which transformers finds this attention."""

BLOCK_BYTES = 1 << 20
"""Size of the scores computed at a time: what a core's second-level cache holds."""


def use_cpu_kernels(model: PreTrainedModel, device: torch.device) -> str | None:
    """Make a model attend by blocks and draw its dropout from raw bits, where it computes on a CPU.

    Returns:
        None, or the reason why its attention stays as it is.
    """
    if device.type != "cpu":
        return f"{device.type} has kernels of its own"
    use_raw_bits(model)
    if model.config._attn_implementation != "sdpa":
        return f"its attention is {model.config._attn_implementation}, not sdpa"
    ALL_ATTENTION_FUNCTIONS.register(NAME, blocked_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)
    return None


def blocked_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' interface asks for it: (B, N, Q, D) and twice (B, N, K, D) in, (B, Q, N, D) out.

    Anything but plain attention on a CPU is passed on to torch's own.
    """
    plain = (
        query.device.type == "cpu"
        and query.dtype in INTEGERS
        and query.dtype == key.dtype == value.dtype
        and query.shape[1] == key.shape[1] == value.shape[1]
        and (0 < dropout < 1 or query.dtype == torch.bfloat16)  # in fp32 and without dropout torch's own is faster
        and not (options.get("is_causal") or getattr(module, "is_causal", False))
        and options.get("position_bias") is None
    )
    if not plain:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: torch.Tensor = _Attention.apply(query, key, value, _as_bias(attention_mask, query.dtype), dropout, scale)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


def _as_bias(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """A mask (B or 1, 1 or N, Q or 1, K), boolean or to be added, as what to add to scores."""
    if mask is None:
        return None
    masked = torch.finfo(dtype).min / 2  # finite even with a score added, so a fully masked row is not nan
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, masked)
    return mask.to(dtype).clamp_min(masked)


class _Attention(torch.autograd.Function):
    """softmax(query keyᵀ scale + bias), dropped out, times value."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None,
        p: float,
        scale: float,
    ) -> torch.Tensor:
        query, key, value = (query * scale).contiguous(), key.contiguous(), value.contiguous()
        if bias is not None:
            bias = bias.expand(len(query), *bias.shape[1:])
        shape, size = (*query.shape[:3], key.shape[2]), _rows_at_a_time(query, key)
        kept_for_backward = any(ctx.needs_input_grad[:3])
        weights = query.new_empty(shape if kept_for_backward else (min(size, shape[0]), *shape[1:]))
        out = query.new_empty(*query.shape[:3], value.shape[3])
        source = random_source() if p else None
        for start in range(0, len(query), size):
            rows = slice(start, start + size)
            block = weights[rows] if kept_for_backward else weights[: len(query[rows])]
            scores = block.flatten(0, 1)  # (rows x N, Q, K)
            torch.bmm(query[rows].flatten(0, 1), key[rows].flatten(0, 1).mT, out=scores)
            if bias is not None:
                block.add_(bias[rows])
            weigh(scores, p, source)
            torch.bmm(kept(scores, p), value[rows].flatten(0, 1), out=out[rows].flatten(0, 1))
        ctx.save_for_backward(query, key, value, weights)
        ctx.p, ctx.scale, ctx.size = p, scale, size
        return out.mul_(-1 / (1 - p)) if p else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        grad = (grad / (1 - ctx.p)).contiguous()
        grad_query, grad_key, grad_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for start in range(0, len(query), ctx.size):
            rows = slice(start, start + ctx.size)
            q, k, v, g = (part[rows].flatten(0, 1) for part in (query, key, value, grad))
            signed = weights[rows].flatten(0, 1)
            torch.bmm(kept(signed, ctx.p).mT, g, out=grad_value[rows].flatten(0, 1))
            scores = weigh_backward(torch.bmm(g, v.mT), signed, ctx.p)
            torch.bmm(scores, k, out=grad_query[rows].flatten(0, 1))
            torch.bmm(scores.mT, q, out=grad_key[rows].flatten(0, 1))
        if ctx.p:
            grad_value.neg_()
        return grad_query.mul_(ctx.scale), grad_key, grad_value, None, None, None


def weigh(scores: torch.Tensor, p: float, source: np.random.SFC64 | None) -> None:
    """Turn scores (…, Q, K) into probabilities, in place; with dropout p > 0 those that it keeps become negative."""
    torch.softmax(scores, -1, out=scores)
    if source:
        signs = sign_bits(source, scores.shape, 1 - p, INTEGERS[scores.dtype])
        scores.view(signs.dtype).bitwise_or_(signs.bitwise_and_(torch.iinfo(signs.dtype).min))


def weigh_backward(grad: torch.Tensor, signed: torch.Tensor, p: float) -> torch.Tensor:
    """The gradient of scores from that of the probabilities, which is overwritten, and from what `weigh` left."""
    if p:
        integer = INTEGERS[signed.dtype]
        grad.view(integer).bitwise_and_(signed.view(integer) >> (8 * integer.itemsize - 1))
    return torch._softmax_backward_data(grad, signed.abs(), -1, signed.dtype)


def kept(signed: torch.Tensor, p: float) -> torch.Tensor:
    """The probabilities that dropout keeps: with dropout the negative ones, still negative."""
    return signed.clamp_max(0) if p else signed


def _rows_at_a_time(query: torch.Tensor, key: torch.Tensor) -> int:
    """Rows whose scores fill about `BLOCK_BYTES`."""
    row_bytes = query.shape[1] * query.shape[2] * key.shape[2] * query.element_size()
    return max(1, BLOCK_BYTES // max(1, row_bytes))
