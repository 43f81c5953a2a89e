"""Weights of linear layers in half precision, cast once for a forward and a backward pass.

Under autocast each linear layer casts its weight and its bias in forward, and their gradients in backward, by an
operation for each: a quarter of all that a step of BERT starts, and with small batches a GPU has finished an operation
before the next one is started. Here some layers' weights are cast together, and their gradients back together. The
numbers are the same to the bit.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..runtime.device import AUTOCAST

TOGETHER = 24
"""Weights that are cast together, those of two layers of BERT: gradients in half precision are kept until all of their
group are there."""


class HalfWeights:
    """The weights and biases of a model's linear layers, which compute with copies of them while `in_use`; none in
    fp32.

    Those that another module has too, such as a decoder's that are the embeddings, are left to autocast.
    """

    def __init__(self, model: nn.Module, precision: str) -> None:
        self.dtype = AUTOCAST.get(precision)
        owners = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
        self.places: list[tuple[dict[str, Any], str]] = [  # a layer's parameters by name, and a name
            (layer._parameters, name)
            for layer in model.modules()
            if type(layer) is nn.Linear and self.dtype is not None
            for name, weight in layer._parameters.items()
            if weight is not None and owners[id(weight)] == 1
        ]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Lets the layers compute with copies in a forward pass; gradients arrive at the weights themselves."""
        weights = self.use()
        try:
            yield
        finally:
            self._put(weights)

    def use(self) -> list[torch.Tensor]:
        """Lets the layers compute with copies from now on; returns the weights."""
        weights = [parameters[name] for parameters, name in self.places]
        copies: list[torch.Tensor] = []
        for begin in range(0, len(weights), TOGETHER):
            copies += _Cast.apply(self.dtype, *weights[begin : begin + TOGETHER])  # type: ignore[no-untyped-call]
        self._put(copies)
        return weights

    def _put(self, weights: Sequence[torch.Tensor]) -> None:
        for (parameters, name), weight in zip(self.places, weights, strict=True):
            parameters[name] = weight


class _Cast(torch.autograd.Function):
    """Copies of tensors in another precision, whose gradients are cast back."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        ctx.set_materialize_grads(False)  # of what was not used there is no gradient, rather than one of zeros
        copies = _cast(tensors, dtype)
        trained = ctx.needs_input_grad[1:]
        ctx.mark_non_differentiable(*(copy for copy, needed in zip(copies, trained, strict=True) if not needed))
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        cast = iter(_cast([gradient for gradient in gradients if gradient is not None], ctx.dtype))
        return None, *(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return copies
