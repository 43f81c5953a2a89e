"""The last layer, computed for the pooled token alone.

A sequence classifier of the BERT family reads only the first token of its encoder's output. The last layer's
keys and values are needed for every token; its queries, output projection and feed-forward network for that one only.
Of L layers this saves about 5/6 of one.

The layer's own modules and transformers' own attention compute it; weights and state dict stay as they are. Logits and
gradients equal the stock model's up to rounding. With dropout the random numbers differ, since fewer are drawn.

Shapes: B rows, W columns, T tokens of a packed batch, H width, N heads of D.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..kernels.cpu_attention import NAME as BLOCKED
from .frozen import layers_of

ATTENTIONS = ("sdpa", "eager", BLOCKED)
"""Attention implementations that take one query and many keys under a (B, 1, W, W) mask."""


def use_pooled_only(model: PreTrainedModel) -> str | None:
    """Make a classifier compute its last layer for the pooled token alone; returns None, or the reason why it stays as
    it is."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return f"{type(model).__name__} reads more than one token of its encoder's output"
    if model.config._attn_implementation not in ATTENTIONS:
        return f"its attention is {model.config._attn_implementation}, not {' or '.join(ATTENTIONS)}"
    layers = layers_of(model)
    layer: Any = layers[-1] if layers is not None else None
    forward = FORWARDS.get(f"{type(layer).__module__}.{type(layer).__name__}")
    if forward is None or getattr(layer, "is_decoder", False):
        return f"layers of {type(model).__name__} are not supported"
    layer.forward = partial(forward, layer)
    return None


def bert_layer(
    layer: Any, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **options: Any
) -> torch.Tensor:
    """BERT's layer for the first token: (B, W, H) in, (B, 1, H) out; of packed rows (1, T, H) in, (1, B, H) out."""
    for unused in ("encoder_attention_mask", "past_key_values"):
        options.pop(unused, None)
    part, first = layer.attention.self, _first(hidden, options)
    projections = (part.query, part.key, part.value)
    context = _attend(part, projections, part.attention_head_size, first, hidden, attention_mask, options)
    attended = layer.attention.output(context, first)
    output: torch.Tensor = layer.feed_forward_chunk(attended)
    return output


def distilbert_layer(
    layer: Any, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """DistilBERT's layer for the first token: shapes as those of `bert_layer`."""
    part, first = layer.attention, _first(hidden, options)
    projections = (part.q_lin, part.k_lin, part.v_lin)
    context = _attend(part, projections, part.attention_head_size, first, hidden, attention_mask, options)
    attended = layer.sa_layer_norm(part.out_lin(context) + first)
    output: torch.Tensor = layer.output_layer_norm(layer.ffn.ff_chunk(attended) + attended)
    return output


def _first(hidden: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """The first token of each row: (B, 1, H), or (1, B, H) of a packed batch, whose `options` then tell of one query
    for each row."""
    cu_seq_lens = options.get("cu_seq_lens_q")
    if cu_seq_lens is None:
        return hidden[:, :1]
    options["cu_seq_lens_q"] = torch.arange(len(cu_seq_lens), dtype=torch.int32, device=hidden.device)
    options["max_length_q"] = 1
    return hidden[:, cu_seq_lens[:-1]]


def _attend(
    part: Any,
    projections: tuple[nn.Module, nn.Module, nn.Module],
    head_size: int,
    first: torch.Tensor,
    hidden: torch.Tensor,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """Attention of the first tokens to all of their rows, by the attention implementation of the model: as `first`."""

    def heads(states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:-1], -1, head_size).transpose(1, 2)  # (B, N, tokens, D)

    query, key, value = projections
    eager = sys.modules[type(part).__module__].eager_attention_forward  # the model's own
    attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(part.config._attn_implementation, eager)
    context, _ = attend(
        part,
        heads(query(first)),
        heads(key(hidden)),
        heads(value(hidden)),
        None if mask is None else mask[:, :, :1],  # (B, 1, 1, W)
        dropout=part.dropout.p if part.training else 0.0,
        scaling=part.scaling,
        **options,
    )
    return context.reshape(*first.shape[:2], -1)  # type: ignore[no-any-return]


FORWARDS: dict[str, Callable[..., torch.Tensor]] = {
    f"transformers.models.{model}.modeling_{model}.{layer}": forward
    for model, layer, forward in (
        ("bert", "BertLayer", bert_layer),
        ("roberta", "RobertaLayer", bert_layer),
        ("xlm_roberta", "XLMRobertaLayer", bert_layer),
        ("camembert", "CamembertLayer", bert_layer),
        ("electra", "ElectraLayer", bert_layer),
        ("distilbert", "TransformerBlock", distilbert_layer),
    )
}
"""Class of a layer to the function that computes it for the pooled token; those of BERT's structure share one."""
