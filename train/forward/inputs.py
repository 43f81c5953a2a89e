"""A batch as a model's keyword arguments, without making the host wait for the device.

Given the usual mask (B, W), transformers checks on the host whether it is all ones, which on an accelerator waits for
everything queued before. A mask with four axes is used as it is.

Shapes: B rows, W columns.
"""

from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from cache import Batch
from cache.plans import shares

READY_MASKS = frozenset({"albert", "bert", "camembert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta"})
"""Model types that accept a (B, 1, W, W) mask and number positions without it; a test compares each."""

PADDING_SIDE = "right"
"""The side used whatever the tokenizer's config says: classifiers read a row's first token, or its last real one, and
position embeddings begin at the first column."""


COUNT_FROM_PADDING = frozenset({"camembert", "roberta", "xlm-roberta"})
"""Model types that number positions from their pad id + 1."""


def takes_token_types(config: PretrainedConfig) -> bool:
    """Whether a model tells two texts apart by token types."""
    return bool(getattr(config, "type_vocab_size", 0) >= 2)


def model_inputs(batch: Batch, config: PretrainedConfig) -> dict[str, Any]:
    """Keyword arguments for the model of this configuration: input_ids, labels, a mask where one is needed, token types
    where the cache has them and the model has at least two; of a packed batch positions and where its rows begin."""
    inputs = batch.model_inputs()
    if not takes_token_types(config):
        inputs.pop("token_type_ids", None)
    if batch.position_ids is not None and config.model_type in COUNT_FROM_PADDING:
        inputs["position_ids"] = batch.position_ids + config.pad_token_id + 1
    mask = batch.attention_mask
    if mask is not None and config.model_type in READY_MASKS and config._attn_implementation.endswith("sdpa"):
        inputs["attention_mask"] = mask.bool()[:, None, None, :].expand(-1, 1, mask.shape[1], -1)  # (B, 1, W, W)
    return inputs


MODERNBERT = "modernbert"


def use_ready_masks(model: PreTrainedModel) -> None:
    """Give a ModernBERT its two masks ready: its encoder takes them by kind of layer, its head reads the usual mask."""
    if model.config.model_type == MODERNBERT:
        model.base_model.register_forward_pre_hook(_ready_masks, with_kwargs=True)


def _ready_masks(module: torch.nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Hook: replaces a mask (B, W) by one of whole rows and one of a window on each side, (B, 1, W, W)."""
    mask: Any = given.get("attention_mask")
    config: Any = module.config
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or not config._attn_implementation.endswith("sdpa"):
        return None
    columns = torch.arange(mask.shape[1], device=mask.device)
    near = (columns[:, None] - columns).abs() <= config.sliding_window  # (W, W)
    full = mask.bool()[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
    return args, {**given, "attention_mask": {"full_attention": full, "sliding_attention": full & near}}


def attention_length(config: PretrainedConfig) -> int:
    """`cache.plans.shares.attention_length` of a model."""
    hidden = int(getattr(config, "hidden_size", 768))
    intermediate = getattr(config, "intermediate_size", getattr(config, "hidden_dim", 4 * hidden))  # DistilBERT's name
    return shares.attention_length(hidden, int(intermediate))
