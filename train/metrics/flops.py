"""Model FLOPs: the operations that forward and backward of a row need (Chowdhery et al. 2022, *PaLM*, appendix B).

What one more row costs is counted, not derived: a forward pass of a few tiny rows shows every matrix product, whatever
the model's structure, and which operands need a gradient, each of which is one more product of that size in backward.
Attention is transformers' eager one meanwhile, whose products are the same on every device. Rows of three lengths give
the cost of a row, of a token and of a pair of tokens. A product of (m, k) by (k, n) counts 2 m k n.

Counted is what the run's model needs for its real tokens: frozen layers have less backward; a last layer for the
pooled token alone, or the head of a masked language model for masked tokens alone, counts as such; ModernBERT's pairs
outside a sliding window count nothing, though padded attention computes them. Padding, what gradient checkpointing or
flash attention computes again, elementwise operations and the optimizer are not counted, nor products that a batch
needs only once (DeBERTa's projections of relative positions). So padding lowers the model FLOPs of a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from cache.common.arrays import Array

from ..forward.frozen import layers_of
from ..forward.masked_lm import is_masked_model, masked_forward
from ..models.heads import quiet_transformers

EAGER = "eager"
SLIDING = "sliding_attention"
"""What transformers calls a layer whose tokens see only those near them."""

aten = torch.ops.aten
FIRST_OPERAND = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.baddbmm: 1, aten.convolution: 0}
"""Matrix products to the position of the first of their two operands."""


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of forward and backward.

    Attributes:
        row: of each row, such as a classifier's head.
        token: of each token.
        pair: of each pair of tokens of a row, in layers that attend to the whole row.
        near_pair: of each pair at most `window` positions apart, in the other layers.
        window: how far a token sees there.
        masked_token: of each masked token, in masked language modelling.
    """

    row: float
    token: float
    pair: float
    near_pair: float = 0.0
    window: int = 0
    masked_token: float = 0.0

    def of_rows(self, lengths: Array, masked_tokens: float = 0.0) -> float:
        """FLOPs of rows of `lengths` (N,) tokens, of which so many in all are masked."""
        length = lengths.astype(np.float64)
        reach = np.minimum(length - 1, self.window)
        near = length * (2 * reach + 1) - reach * (reach + 1)  # pairs (i, j) with |i - j| <= window
        rows = self.row + self.token * length + self.pair * length**2 + self.near_pair * near
        return float(rows.sum()) + self.masked_token * masked_tokens


def count_flops(model: PreTrainedModel) -> ModelFlops | None:
    """The FLOPs of a model as it is trained, its frozen parameters marked; None where they cannot be counted.

    The model computes a few rows of 2 to 4 tokens, without dropout, and is left as it was.
    """
    training = model.training
    model.eval()
    try:
        with quiet_transformers(), torch.enable_grad(), _eager(model):
            short, middle, long = (_products(model, 2, length) - _products(model, 1, length) for length in (2, 3, 4))
            masked = _products(model, 1, 2, 2) - _products(model, 1, 2) if is_masked_model(model) else 0
    except Exception:  # noqa: BLE001  # a model that computes no such rows is trained without the figure
        return None
    finally:
        model.train(training)
    pair = (long - 2 * middle + short) / 2
    token = middle - short - 5 * pair
    row = short - 2 * token - 4 * pair
    if token <= 0:
        return None  # its rows are padded to a length of its own, as Longformer's are
    near = _near_share(model) * pair
    window = int(model.config.sliding_window) if near else 0
    return ModelFlops(row, token, pair - near, near, window, masked)


class _ProductCounter(TorchDispatchMode):
    """Adds up the FLOPs of matrix products, in forward and of what backward will need."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        first = FIRST_OPERAND.get(func.overloadpacket)
        if first is not None:
            one, other = args[first : first + 2]
            inner = other[0].numel() if func.overloadpacket is aten.convolution else one.shape[-1]
            self.flops += 2 * out.numel() * inner * (1 + one.requires_grad + other.requires_grad)
        return out


def _products(model: PreTrainedModel, rows: int, tokens: int, masked_tokens: int = 1) -> int:
    """FLOPs of a batch of rows without padding."""
    ids = torch.full((rows, tokens), int(model.config.pad_token_id == 0), device=model.device)
    counter = _ProductCounter()
    with counter:
        if is_masked_model(model):
            forward, _ = masked_forward(model)
            forward(input_ids=ids, positions=torch.arange(masked_tokens, device=model.device))
        else:
            model(input_ids=ids)
    return counter.flops


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model attends by plain matrix products."""
    used = model.config._attn_implementation
    model.set_attn_implementation(EAGER)
    try:
        yield
    finally:
        model.set_attn_implementation(used)


def _near_share(model: PreTrainedModel) -> float:
    """The share of attention's FLOPs in layers with a sliding window; a frozen layer has a third of a trained one's."""
    kinds, layers = getattr(model.config, "layer_types", None) or [], layers_of(model)
    if SLIDING not in kinds or layers is None:
        return 0.0
    weights = [3 if any(p.requires_grad for p in layer.parameters()) else 1 for layer in layers]
    near = sum(weight for weight, kind in zip(weights, kinds, strict=True) if kind == SLIDING)
    return near / sum(weights)
