"""Attention on the CPU, with dropout, a block of rows at a time: rows of any length that lie end to end.

While training with dropout, torch's attention on the CPU takes a path of one full-size pass after the other in fp32,
most of it drawing random numbers: more than half of a small encoder's step. Here the scores of some neighboring rows of
one length at a time, as many as fit into the processor's cache, go through product, softmax, dropout and product. The
sign of a stored probability says whether dropout keeps it, so that backward needs no separate mask.

Scores are held in the precision of the queries, as in transformers' eager attention; in fp32 everything equals torch's
own attention up to rounding.

Shapes: N heads of D; Q queries and K keys of all rows.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from .cpu_dropout import INTEGERS, random_source, sign_bits

BLOCK_BYTES = 1 << 20
"""Size of the scores computed at a time: what a core's second-level cache holds."""


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


Bias = Callable[[Group], torch.Tensor | None]
"""From a group to what is added to its scores, of a shape that broadcasts to (N, rows, queries, keys)."""


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


class BlockAttention(torch.autograd.Function):
    """softmax(query keyᵀ scale + bias) within each row, dropped out, times value: (N, Q, D) and twice (N, K, D) in,
    (Q, N, D) out."""

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
        bias: Bias,
    ) -> torch.Tensor:
        heads = len(query)
        groups = list(groups_of(cu_queries, cu_keys, heads * query.element_size()))
        needed = any(ctx.needs_input_grad[:3])
        sizes = [heads * group.rows * group.queries * group.keys for group in groups]
        weights = query.new_empty(sum(sizes) if needed else max(sizes, default=0))
        blocks = weights.split(sizes) if needed else [weights[:size] for size in sizes]
        out = query.new_empty(query.shape[1], heads, value.shape[2])
        source = random_source() if p else None
        query = query * scale
        for group, block in zip(groups, blocks, strict=True):
            q, k, v = _rows(query, group.asked, group), _rows(key, group.held, group), _rows(value, group.held, group)
            scores = block.view(len(q), group.queries, group.keys)  # (N·rows, queries, keys)
            torch.bmm(q, k.mT, out=scores)
            added = bias(group)
            if added is not None:
                scores.view(heads, group.rows, group.queries, group.keys).add_(added)
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
            q, g = (_rows(part, group.asked, group) for part in (query, grad))
            k, v = (_rows(part, group.held, group) for part in (key, value))
            signed = block.view(len(q), group.queries, group.keys)
            scores = weigh_backward(torch.bmm(g, v.mT), signed, p)
            grads[0][group.asked] = _back(torch.bmm(scores, k), heads)
            grads[1][group.held] = _back(torch.bmm(scores.mT, q), heads)
            grads[2][group.held] = _back(torch.bmm(kept(signed, p).mT, g), heads)
        if p:
            grads[2].neg_()
        grads[0].mul_(ctx.scale)
        return (*(part.transpose(0, 1) for part in grads), None, None, None, None, None)


def _rows(part: torch.Tensor, tokens: slice, group: Group) -> torch.Tensor:
    """A group's queries, or its keys: (N, Q or K, D) to (N·rows, queries or keys, D)."""
    return part[:, tokens].reshape(len(part) * group.rows, -1, part.shape[-1])


def _back(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """(N·rows, tokens, D) to (rows·tokens, N, D)."""
    return rows.view(heads, -1, rows.shape[-1]).transpose(0, 1)


def weigh(scores: torch.Tensor, p: float, source: np.random.SFC64 | None) -> None:
    """Turn scores (…, queries, keys) into probabilities, in place; with dropout p > 0 those that it keeps become
    negative."""
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
