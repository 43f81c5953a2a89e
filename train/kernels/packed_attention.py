"""Attention over rows that lie end to end, without padding and without a mask: each row attends to itself alone.

On the CPU the rows of one length that are neighbors are computed together, a block of scores at a time as in
`cpu_attention`. On CUDA torch's own kernels for rows of any length compute it.

Shapes: B rows of T tokens in all, N heads of D; Q queries, T or B, if only the first token of each row asks.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from .cpu_attention import BLOCK_BYTES, kept, weigh, weigh_backward
from .cpu_dropout import random_source


class Group(NamedTuple):
    """Neighboring rows of one length: so many `rows`, their queries from number `q` on, `queries` each, and their keys
    from number `k` on, `keys` each."""

    rows: int
    q: int
    queries: int
    k: int
    keys: int

    @property
    def asked(self) -> slice:
        """Its queries."""
        return slice(self.q, self.q + self.rows * self.queries)

    @property
    def held(self) -> slice:
        """Its keys."""
        return slice(self.k, self.k + self.rows * self.keys)

    @property
    def scores(self) -> int:
        """Scores of one head."""
        return self.rows * self.queries * self.keys


def groups_of(cu_queries: list[int], cu_keys: list[int], score_bytes: int) -> Iterator[Group]:
    """Cut rows into groups whose scores fill about `BLOCK_BYTES`.

    Args:
        cu_queries, cu_keys: (B+1) row i's are numbers cu[i] to cu[i+1].
        score_bytes: of one score in every head.
    """
    group: Group | None = None
    for (q, q_end), (k, k_end) in zip(pairwise(cu_queries), pairwise(cu_keys), strict=True):
        queries, keys = q_end - q, k_end - k
        same = group is not None and (group.queries, group.keys) == (queries, keys)
        if group and same and (group.rows + 1) * queries * keys * score_bytes <= BLOCK_BYTES:
            group = group._replace(rows=group.rows + 1)
            continue
        if group:
            yield group
        group = Group(1, q, queries, k, keys)
    if group:
        yield group


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
        packed: torch.Tensor = _Packed.apply(  # type: ignore[no-untyped-call]
            query[0], key[0], value[0], dropout, scale, *(cu.tolist() for cu in cu_seq_lens), window
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


class _Packed(torch.autograd.Function):
    """softmax(query keyᵀ scale + bias) within each row, dropped out, times value: (N, Q, D) in, (Q, N, D) out."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        p: float,
        scale: float,
        cu_queries: list[int],
        cu_keys: list[int],
        window: int | None,
    ) -> torch.Tensor:
        heads = len(query)
        groups = list(groups_of(cu_queries, cu_keys, heads * query.element_size()))
        needed = any(ctx.needs_input_grad[:3])
        sizes = [group.scores * heads for group in groups]
        weights = query.new_empty(sum(sizes) if needed else max(sizes))
        blocks = weights.split(sizes) if needed else [weights[:size] for size in sizes]
        out = query.new_empty(query.shape[1], heads, value.shape[2])
        source = random_source() if p else None
        query = query * scale
        for group, block in zip(groups, blocks, strict=True):
            q, k, v = _rows(query, group, True), _rows(key, group), _rows(value, group)
            scores = block.view(len(q), group.queries, group.keys)  # (N·rows, queries, keys)
            torch.bmm(q, k.mT, out=scores)
            if window is not None and window < group.keys - 1:
                scores.add_(_band(group, window, scores.dtype))
            weigh(scores, p, source)
            out[group.asked] = _back(torch.bmm(kept(scores, p), v), heads)
        ctx.save_for_backward(query, key, value, weights)
        ctx.p, ctx.scale, ctx.groups, ctx.sizes = p, scale, groups, sizes
        return out.mul_(-1 / (1 - p)) if p else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights = ctx.saved_tensors
        heads, p = len(query), ctx.p
        grad = (grad / (1 - p) if p else grad).transpose(0, 1)  # (N, Q, D)
        grads = [part.new_empty(part.shape[1], heads, part.shape[2]) for part in (query, key, value)]
        for group, block in zip(ctx.groups, weights.split(ctx.sizes), strict=True):
            q, k, v, g = _rows(query, group, True), _rows(key, group), _rows(value, group), _rows(grad, group, True)
            signed = block.view(len(q), group.queries, group.keys)
            scores = weigh_backward(torch.bmm(g, v.mT), signed, p)
            grads[0][group.asked] = _back(torch.bmm(scores, k), heads)
            grads[1][group.held] = _back(torch.bmm(scores.mT, q), heads)
            grads[2][group.held] = _back(torch.bmm(kept(signed, p).mT, g), heads)
        if p:
            grads[2].neg_()
        grads[0].mul_(ctx.scale)
        return (*(part.transpose(0, 1) for part in grads), None, None, None, None, None)


def _rows(part: torch.Tensor, group: Group, asked: bool = False) -> torch.Tensor:
    """A group's queries, or its keys: (N, Q or T, D) to (N·rows, queries or keys, D)."""
    where = group.asked if asked else group.held
    return part[:, where].reshape(len(part) * group.rows, -1, part.shape[-1])


def _back(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """(N·rows, tokens, D) to (rows·tokens, N, D)."""
    return rows.view(heads, -1, rows.shape[-1]).transpose(0, 1)


def _band(group: Group, window: int, dtype: torch.dtype) -> torch.Tensor:
    """(queries, keys) to add to scores, so that a token sees those up to `window` positions away."""
    queries, keys = torch.arange(group.queries)[:, None], torch.arange(group.keys)
    far = (queries - keys).abs() > window
    return torch.zeros(far.shape, dtype=dtype).masked_fill_(far, torch.finfo(dtype).min / 2)
