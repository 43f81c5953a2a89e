"""How much memory fine-tuning will take, predicted from a model's configuration: nothing is loaded, nothing run.

The count is that of Korthikanti et al. 2022, *Reducing Activation Recomputation in Large Transformer Models*, section
4.1: per layer and token 34 H bytes in 16 bits and 5 N W for attention kept as a matrix. It differs where `train run`
does: residuals and norms in fp32 under autocast, an input cast three times for query, key and value, attention that
keeps no matrix on a GPU and one on a CPU, and a last layer for the pooled token alone. A test compares the count with
what torch keeps.

Letters: H hidden width, I intermediate width, N heads, B rows, W columns of a batch; B W tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .model_size import ModelSize

FP32, BF16 = 4, 2
ELEMENT_BYTES = {"fp32": FP32, "bf16": BF16}


@dataclass(frozen=True)
class Setting:
    """How a model is trained, as far as memory goes.

    Attributes:
        precision: fp32, or bf16 by autocast.
        gpu: on a GPU; else on a CPU, with the kernels `train run` has for it.
        masked: whether the batch has padding, and so a mask.
        pooled_only: whether the last layer is computed for the pooled token alone, as `train run` does.
    """

    precision: str = "bf16"
    gpu: bool = True
    masked: bool = True
    pooled_only: bool = True


def fixed_bytes(model: ModelSize) -> int:
    """Weights and AdamW's two moments, in fp32; gradients come beside."""
    return 3 * FP32 * model.parameters


def kept_bytes(model: ModelSize, rows: int, width: int, setting: Setting) -> int:
    """What the forward pass keeps for the backward pass, weights aside: activations, dropout masks, bf16 weights."""
    size = ELEMENT_BYTES[setting.precision]
    tokens, full = rows * width, model.layers - setting.pooled_only
    kept = tokens * (_embedding_token(model, setting) + full * _layer_token(model, width, setting))
    if setting.pooled_only:
        kept += tokens * _last_layer_token(model, setting) + rows * _layer_token(model, width, setting)
    elif size == FP32:
        kept += tokens * FP32 * model.hidden  # the head reads one token, as a view of all
    head = rows * FP32 * 4 * model.hidden
    return kept + head + (BF16 * model.linear_weights if size == BF16 else 0)


def _layer_token(model: ModelSize, width: int, setting: Setting) -> int:
    """Bytes a layer keeps for each token."""
    size = ELEMENT_BYTES[setting.precision]
    stream = _stream_bytes(model, setting)
    inputs = 1 if stream == size else 3  # cast anew for query, key and value
    linear = size * ((inputs + 2) * model.hidden + 2 * model.intermediate)  # inputs of six products, of gelu
    norms = 2 * (stream * model.hidden + 2 * FP32)  # inputs, mean, deviation
    dropouts = (1 if model.kind == "distilbert" else 2) * _dropout_bytes(model, size, setting) * model.hidden
    attention = 3 * size * model.hidden  # queries, keys, values
    if not setting.gpu and (model.attention_dropout or size == BF16):  # by blocks: probabilities, dropout in their sign
        attention += size * model.heads * width
    else:  # torch's: a sum for each row of scores, and the mask as numbers to add
        attention += FP32 * model.heads + (size * width if setting.masked else 0)
    return linear + norms + dropouts + attention


def _stream_bytes(model: ModelSize, setting: Setting) -> int:
    """Bytes of an element between layers: norms give fp32 under autocast, but on a CPU what they are given, which is
    bf16 where the embeddings are projected."""
    if setting.gpu or model.embedding == model.hidden:
        return FP32
    return ELEMENT_BYTES[setting.precision]


def _last_layer_token(model: ModelSize, setting: Setting) -> int:
    """The same of a last layer that is computed for one token of a row: its input, keys and values."""
    size = ELEMENT_BYTES[setting.precision]
    casts = 1 if _stream_bytes(model, setting) == size else 2
    return size * (casts + 2) * model.hidden


def _embedding_token(model: ModelSize, setting: Setting) -> int:
    """The same of the embeddings, which are fp32: their norm, its dropout, ids; in ELECTRA what is projected."""
    size = ELEMENT_BYTES[setting.precision]
    projected = size * model.embedding if model.embedding != model.hidden else 0
    return (FP32 + _dropout_bytes(model, FP32, setting)) * model.embedding + 2 * FP32 + 8 + projected


def _dropout_bytes(model: ModelSize, size: int, setting: Setting) -> int:
    """Bytes that say of an element whether it was dropped; on a CPU as many as the element has."""
    if not model.hidden_dropout:
        return 0
    return 1 if setting.gpu else size


def peak_bytes(model: ModelSize, rows: int, width: int, setting: Setting) -> int:
    """Most bytes that tensors take in a training step.

    It is reached as the backward pass begins, with everything kept and the gradients of a feed-forward layer under
    way, or at its end, with all gradients. In between, kept tensors go as gradients come.
    """
    size = ELEMENT_BYTES[setting.precision]
    under_way = rows * width * (size * model.intermediate + 2 * FP32 * model.hidden)
    begin = kept_bytes(model, rows, width, setting) + under_way
    return fixed_bytes(model) + max(begin, FP32 * model.parameters)


def most_rows(model: ModelSize, width: int, setting: Setting, memory_bytes: int) -> int:
    """Rows of a width that fit; 0 where not one does."""
    return _largest(lambda rows: peak_bytes(model, rows, width, setting) <= memory_bytes)


def most_tokens(model: ModelSize, widths: tuple[int, int], setting: Setting, memory_bytes: int) -> int:
    """Padded tokens of a batch that fit whatever its width, from the narrowest to the widest: a --max-tokens."""

    def fits(tokens: int) -> bool:
        # Between two widths the bytes of so many tokens are a convex function of the width.
        return all(peak_bytes(model, -(-tokens // width), width, setting) <= memory_bytes for width in widths)

    found = _largest(fits)
    return found if found >= widths[1] else 0


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, where all smaller ones do; 0 where none does."""
    high = 1
    while fits(high) and high < 1 << 40:
        high *= 2
    low = high // 2 if high > 1 else 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
