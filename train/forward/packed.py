"""The padding-free forward: a batch of rows end to end, as one row, through a stock model of transformers.

An encoder computes token by token, but for attention, which goes through transformers' own interface to
`packed_attention`, and for the head of a sequence classifier, which reads one vector per row: the encoder's output is
replaced by those vectors. Weights and state dict stay as they are. Logits and gradients equal those of the padded
forward up to rounding; with dropout the random numbers differ, since fewer are drawn.

A model whose layers take another path would let the rows of a batch see each other, and nothing would tell. So the
model types are listed, and `check_packed` compares the first batch with the padded forward of its rows.

Shapes: B rows of T tokens in all, W columns, H width, N heads of D; Q queries, T or B.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from cache import Batch
from cache.errors import MismatchError

from ..kernels.cpu_attention import NAME as BLOCKED
from ..kernels.packed_attention import has_flash_attention, packed_attention
from ..runtime import device as devices
from .inputs import MODERNBERT, model_inputs
from .masked_lm import is_masked_model

NAME = "lengthwise_packed"
"""How the names begin under which transformers finds this attention."""

SUPPORTED = frozenset({"bert", "camembert", "distilbert", "electra", MODERNBERT, "roberta", "xlm-roberta"})
"""Model types whose attention all goes through transformers' interface, `cu_seq_lens_q` and positions included."""

TOLERANCES = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}
"""Precision to the difference in logits that is rounding, as a fraction of the largest logit or of 1."""


def use_packed(model: PreTrainedModel, device: torch.device, precision: str) -> str | None:
    """Make a model, on its device, take packed batches; padded ones are computed as before. Returns None, or the reason
    why it cannot."""
    kind, padded = model.config.model_type, model.config._attn_implementation
    if kind not in SUPPORTED or getattr(model.config, "is_decoder", False):
        return f"models of type {kind} are not supported"
    if padded not in ("sdpa", BLOCKED):
        return f"its attention is {padded}, not sdpa"
    if device.type not in ("cpu", "cuda"):
        return f"there is no attention for it on {device.type}"
    if device.type == "cuda" and kind == MODERNBERT and (precision == "fp32" or not has_flash_attention(device)):
        return "its sliding window needs bf16 or fp16 on CUDA, of compute capability 8.0 or newer"
    if device.type == "cuda" and precision == "bf16" and not has_flash_attention(device):
        return "its attention in bf16 needs CUDA of compute capability 8.0 or newer"
    name = f"{NAME}_{padded}"
    ALL_ATTENTION_FUNCTIONS.register(name, partial(attention, padded=ALL_ATTENTION_FUNCTIONS[padded]))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[padded])
    model.set_attn_implementation(name)
    base: Any = model.base_model
    if kind == MODERNBERT:
        base.register_forward_pre_hook(_without_masks, with_kwargs=True)
    if type(model).__name__.endswith("ForSequenceClassification"):
        encoder = getattr(base, "encoder", None) or getattr(base, "transformer", None) or base
        mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
        encoder.register_forward_hook(partial(_pool_rows, mean), with_kwargs=True)
    return None


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    padded: Callable[..., Any],
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int = 0,
    max_length_k: int = 0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention as transformers' interface asks for it: (1, N, Q, D) and twice (1, N, T, D) in, (1, Q, N, D) out.

    Without `cu_seq_lens_q` the batch is padded, and `padded` computes it.
    """
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        given = {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window, **options}
        found: tuple[torch.Tensor, torch.Tensor | None] = padded(module, query, key, value, attention_mask, **given)
        return found
    out = packed_attention(
        query,
        key,
        value,
        dropout,
        scaling,
        (cu_seq_lens_q, cu_seq_lens_k),
        (max_length_q, max_length_k),
        None if sliding_window is None else sliding_window - 1,  # ModernBERT adds one for flash attention's sake
    )
    return out, None


def _pool_rows(mean: bool, module: torch.nn.Module, args: object, given: dict[str, Any], output: Any) -> Any:
    """Hook: of a packed batch the encoder gives (B, 1, H), of which every head reads the first column."""
    cu_seq_lens = given.get("cu_seq_lens_q")
    if cu_seq_lens is not None:
        rows = output.last_hidden_state[0]  # (T, H), or (B, H) where the last layer gave the pooled tokens alone
        if mean:
            rows = torch.segment_reduce(rows, "mean", offsets=cu_seq_lens.long(), axis=0)
        elif len(rows) >= len(cu_seq_lens):
            rows = rows[cu_seq_lens[:-1]]
        output.last_hidden_state = rows[:, None]
    return output


def _without_masks(module: torch.nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Hook: for a packed batch ModernBERT would make a (1, 1, T, T) mask of its sliding window."""
    if given.get("cu_seq_lens_q") is None:
        return None
    return args, {**given, "attention_mask": {"full_attention": None, "sliding_attention": None}}


def check_packed(model: PreTrainedModel, packed: Batch, padded: Batch, precision: str) -> None:
    """Compare what a model makes of a packed batch with what it makes of its first and last row padded, dropout off, in
    `precision` and, where the model can, in fp32.

    Raises:
        MismatchError: logits, or the hidden states of a masked language model, differ by more than rounding.
    """
    assert packed.cu_seq_lens is not None
    rows = [0, len(padded.input_ids) - 1]
    parts = {name: getattr(padded, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
    taken: dict[str, Any] = {name: part[rows] for name, part in parts.items() if part is not None}
    few = replace(padded, **taken)
    spans = [packed.cu_seq_lens[row : row + 2].tolist() for row in rows]
    device, training = packed.input_ids.device, model.training
    model.eval()
    windowed = model.config.model_type == MODERNBERT and device.type == "cuda"  # unknown there in fp32
    for used in dict.fromkeys((precision,) if windowed else ("fp32", precision)):
        with torch.no_grad(), devices.without_tf32(), devices.autocast(device, used):
            found, expected = (_output(model, replace(batch, labels=None)) for batch in (packed, few))
        if len(found) == 1:  # a vector per token: (1, T, …) and (2, W, …)
            found = torch.cat([found[0, begin:end] for begin, end in spans])
            expected = torch.cat([expected[n, : end - begin] for n, (begin, end) in enumerate(spans)])
        else:
            found = found[rows]
        limit = TOLERANCES[used] * max(1.0, float(expected.abs().max()))
        difference = float((found - expected).abs().max())
        if not difference <= limit:
            raise MismatchError(
                f"--padding-free: {type(model).__name__} computes packed rows otherwise than padded ones "
                f"({difference:.2g} apart in {used}, expected at most {limit:.2g}); train with --padded, and please "
                "report it"
            )
    model.train(training)


def _output(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """(B, C) or (B, W, C) logits, or (B, W, H) hidden states of a masked language model, whose logits are large."""
    inputs = model_inputs(batch, model.config)
    output = model.base_model(**inputs)[0] if is_masked_model(model) else model(**inputs).logits
    return output.float()  # type: ignore[no-any-return]
