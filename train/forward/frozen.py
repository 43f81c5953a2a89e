"""What saves memory or time by training less: frozen lower layers, and activations that are computed twice."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cache.errors import InputError


def layers_of(model: PreTrainedModel) -> nn.ModuleList | None:
    """The layers of a model's encoder, lowest first; None where they are not found."""
    base: Any = model.base_model
    for holder in (getattr(base, "encoder", None), getattr(base, "transformer", None), base):
        for name in ("layer", "layers"):
            layers = getattr(holder, name, None)
            if isinstance(layers, nn.ModuleList) and len(layers):
                return layers
    return None


BESIDE_EMBEDDINGS = ("embeddings_project", "embedding_hidden_mapping_in", "rel_embeddings", "relative_attention_bias")
"""Names of modules that belong to a model's embeddings but lie elsewhere: those that make narrow ones wide in ELECTRA,
ConvBERT and RemBERT, and those of relative positions, which all layers share, in DeBERTa and MPNet."""


def freeze(model: PreTrainedModel, count: int) -> None:
    """Exclude the embeddings and the lowest `count` layers of a model's encoder from training, so that backward stops
    above them.

    Raises:
        InputError: it has fewer layers, or its structure is not known.
    """
    layers, embeddings = layers_of(model), getattr(model.base_model, "embeddings", None)
    if layers is None or not isinstance(embeddings, nn.Module):
        raise InputError(f"--freeze {count}: the layers of {type(model).__name__} are not found; leave it out")
    if count > len(layers):
        raise InputError(f"--freeze {count}: the model has {len(layers)} layers, expected at most as many")
    frozen = [embeddings, *layers[:count]]
    for name, module in model.base_model.named_modules():
        if name.rpartition(".")[2] in BESIDE_EMBEDDINGS:
            frozen.append(module)
        if hasattr(module, "rel_embeddings") and hasattr(module, "LayerNorm"):  # DeBERTa's, of these embeddings alone
            frozen.append(module.LayerNorm)
    for module in frozen:
        module.requires_grad_(False)


def use_gradient_checkpointing(model: PreTrainedModel, device: torch.device) -> None:
    """Keep only each layer's input for backward and compute the rest again (Chen et al. 2016).

    Raises:
        InputError: the model or the device does not support it.
    """
    if not model.supports_gradient_checkpointing:
        raise InputError(f"--gradient-checkpointing: {type(model).__name__} does not support it; leave it out")
    if not _repeats_dropout(device):
        raise InputError(
            f"--gradient-checkpointing: torch {torch.__version__} does not repeat dropout's random numbers on "
            f"{device}, so gradients would be wrong; leave it out"
        )
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False  # of decoders only; transformers warns about it
    # transformers 5.23 gave the method another name
    enable: Any = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _repeats_dropout(device: torch.device) -> bool:
    """Whether dropout drops the same values when it is computed again; not on MPS (pytorch/pytorch#127676)."""
    ones = torch.ones(128, device=device, requires_grad=True)
    kept: torch.Tensor = checkpoint(nn.functional.dropout, ones, use_reentrant=False)  # 2 where kept
    (gradient,) = torch.autograd.grad(kept.sum(), ones)  # the same
    return torch.equal(gradient, kept)
