"""Attention over rows that lie end to end, without padding and without a mask: each row attends to itself alone.

On the CPU `block_attention` computes it. On CUDA torch's own kernels for rows of any length compute it.

Shapes: B rows of T tokens in all, N heads of D; Q queries, T or B, if only the first token of each row asks.
"""

from functools import partial

import torch
from torch.nn.functional import pad

from .block_attention import BlockAttention, Group


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout: float,
    scale: float,
    cu_seq_lens: tuple[torch.Tensor, torch.Tensor],
    longest: tuple[int, int],
    window: int | None = None,
) -> torch.Tensor:
    """Attention within each row.

    Args:
        query: (1, N, Q, D).
        key, value: (1, N, T, D).
        dropout: probability with which a weight is dropped.
        scale: of the scores.
        cu_seq_lens: (B+1,) int32 twice: the queries of row i are numbers cu[i] to cu[i+1], and so its keys.
        longest: most queries and most keys of a row.
        window: a token sees tokens up to so many positions away; None: all of its row.

    Returns:
        (1, Q, N, D)
    """
    if dropout == 1:
        return query.transpose(1, 2) * 0
    if query.device.type == "cpu":
        ends, bias = (cu.tolist() for cu in cu_seq_lens), partial(_band, window, query.dtype)
        packed: torch.Tensor = BlockAttention.apply(  # type: ignore[no-untyped-call]
            query[0], key[0], value[0], dropout, scale, *ends, bias
        )
        return packed[None]
    width = query.shape[-1]
    if width % 8:  # which the kernels do not take; zeros at the end of each head change nothing
        query, key, value = (pad(part, (0, -width % 8)) for part in (query, key, value))
    if query.dtype in (torch.float16, torch.bfloat16) and has_flash_attention(query.device):
        flat = (part[0].transpose(0, 1) for part in (query, key, value))  # (Q or T, N, D)
        side = -1 if window is None else window
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            *flat,
            *cu_seq_lens,
            *longest,
            dropout,
            False,
            False,
            scale=scale,
            window_size_left=side,
            window_size_right=side,
        )[0]
        return out[None, :, :, :width]
    if window is not None and window < longest[1] - 1:
        raise NotImplementedError("attention in a sliding window, other than in half precision on CUDA 8.0 or newer")
    rows = (part.transpose(1, 2) for part in (query, key, value))  # (1, Q or T, N, D)
    grad = any(part.requires_grad for part in (query, key, value))
    found: torch.Tensor = torch.ops.aten._efficient_attention_forward(
        *rows, None, *cu_seq_lens, *longest, dropout, 0, grad, scale=scale
    )[0]
    return found[..., :width]


def has_flash_attention(device: torch.device) -> bool:
    """Whether torch's flash attention, which takes half precision alone, runs on a CUDA device."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _band(window: int | None, dtype: torch.dtype, group: Group) -> torch.Tensor | None:
    """(queries, keys) to add to scores, so that a token sees those up to `window` positions away."""
    if window is None or window >= group.keys - 1:
        return None
    queries, keys = torch.arange(group.queries)[:, None], torch.arange(group.keys)
    far = (queries - keys).abs() > window
    return torch.zeros(far.shape, dtype=dtype).masked_fill_(far, torch.finfo(dtype).min / 2)
