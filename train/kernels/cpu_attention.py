"""Attention of padded batches on the CPU, in blocks, for transformers' models.

Shapes: B rows, N heads of D, Q queries and K keys of a row.
"""

from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .block_attention import BlockAttention, Group
from .cpu_dropout import INTEGERS, use_raw_bits

NAME = "lengthwise_cpu"
"""The name under which transformers finds this attention."""


def use_cpu_kernels(model: PreTrainedModel, device: torch.device) -> str | None:
    """Make a model attend by blocks and draw its dropout from raw bits, where it computes on a CPU; returns None, or
    the reason why its attention stays as it is."""
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
    rows, _, queries, width = query.shape
    ends = [list(range(0, rows * each + 1, each)) for each in (queries, key.shape[2])]
    bias = partial(_bias_of_group, _as_bias(attention_mask, rows, query.dtype))
    out: torch.Tensor = BlockAttention.apply(  # type: ignore[no-untyped-call]
        *(part.transpose(0, 1).flatten(1, 2) for part in (query, key, value)),  # (N, B·Q or B·K, D)
        dropout,
        width**-0.5 if scaling is None else scaling,
        *ends,
        bias,
    )
    return out.unflatten(0, (rows, queries)), None


def _as_bias(mask: torch.Tensor | None, rows: int, dtype: torch.dtype) -> torch.Tensor | None:
    """A mask (B or 1, 1 or N, Q or 1, K), boolean or to be added, as what to add to the scores of B rows."""
    if mask is None:
        return None
    masked = torch.finfo(dtype).min / 2  # finite even with a score added, so a fully masked row is not nan
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, masked)
    return mask.to(dtype).clamp_min(masked).expand(rows, -1, -1, -1)


def _bias_of_group(bias: torch.Tensor | None, group: Group) -> torch.Tensor | None:
    """(1 or N, rows, Q or 1, K) what to add to the scores of a group's rows."""
    first = group.q // group.queries
    return None if bias is None else bias[first : first + group.rows].transpose(0, 1)
