"""Prediction of the memory that fine-tuning takes on a CPU, from a model's configuration; nothing is loaded or run.

The count is that of Korthikanti et al. 2022, *Reducing Activation Recomputation in Large Transformer Models*, section
4.1, with 34 H bytes per layer and token in 16 bits and 5 N W for attention. It differs where `train run` does:
residuals and norms in fp32 under autocast, an input cast three times for query, key and value, one matrix of attention,
and a last layer for the pooled token alone. A test compares it with what torch keeps and allocates.

Letters: H hidden width, I intermediate width, N heads, B rows, W columns of a batch; B W tokens.
"""

from typing import Any

from cache import Cache
from cache.errors import InputError
from cache.plans.costs import heaviest_step

from .model_size import ModelSize, read_size
from .summary import align, first_split

FP32, BF16 = 4, 2
ELEMENT_BYTES = {"fp32": FP32, "bf16": BF16}
ROW_KINDS = ("classification", "regression", "multi-label")
"""Tasks whose head reads one token of a row."""
BATCH_SIZES = (16, 32, 64, 128)


def memory_facts(cache: Cache, model: str) -> dict[str, Any]:
    """The predicted peak of training steps on the largest batch of the cache's plan and on batches of its widest rows.

    Of `model`, a folder, Hub id, or `minilm`, only config.json is read.

    Raises:
        InputError: the model cannot be read, or memory is not predicted for models of its type or for the task.
    """
    task = cache.manifest.task
    if task.kind not in ROW_KINDS:
        raise InputError(f"memory is predicted for {', '.join(ROW_KINDS)}, and {cache.folder} is for {task.kind}")
    size = read_size(model, len(task.label_names) or 1)
    split = first_split(cache)
    widest = split.info.longest or cache.manifest.max_length
    shapes = [(f"{rows} of the widest", rows, widest) for rows in BATCH_SIZES]
    if len(split):
        spec = split.default_spec()
        plan = split.plan(spec, 0)
        step = heaviest_step(plan)
        shapes.insert(0, (f"largest of {spec.id}", int(plan.sizes[step]), int(plan.widths[step])))
    batches = []
    for name, rows, width in shapes:
        peaks = {f"{precision}_bytes": peak_bytes(size, rows, width, precision) for precision in ELEMENT_BYTES}
        batches.append({"name": name, "rows": rows, "width": width, **peaks})
    facts = {"predicted": True, "model": model, "type": size.kind, "parameters": size.parameters}
    limits = {"longest_row": size.positions, "widest": widest}
    return {**facts, "weights_bytes": fixed_bytes(size), **limits, "batches": batches}


def format_memory(facts: dict[str, Any]) -> str:
    """`memory_facts` as text."""
    lines = [["batch", "rows", "width", *(f"peak in {precision}" for precision in ELEMENT_BYTES)]]
    for batch in facts["batches"]:
        peaks = [_gib(batch[f"{precision}_bytes"]) for precision in ELEMENT_BYTES]
        lines.append([batch["name"], f"{batch['rows']:,}", f"{batch['width']:,}", *peaks])
    longest, widest = facts["longest_row"], facts["widest"]
    warning = (
        f"\n\nwarning: this model takes rows of at most {longest:,} tokens, the longest here has {widest:,}, so train "
        f"run refuses it; build the cache with --max-length {longest}"
    )
    return (
        f"Memory of training {facts['model']} on a CPU, PREDICTED from its configuration, not measured\n"
        f"{facts['type']}, {facts['parameters'] / 1e6:,.1f} M parameters; weights and AdamW's moments "
        f"{_gib(facts['weights_bytes'])}\n\n{align(lines)}\n\nPython and torch need about half a GiB more."
        f"{warning * (widest > longest)}"
    )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.2f} GiB"


def peak_bytes(model: ModelSize, rows: int, width: int, precision: str) -> int:
    """Most bytes that tensors take in a training step.

    It is reached as the backward pass begins, with everything kept and the gradients of a feed-forward layer under
    way, or at its end, with all gradients. In between, kept tensors go as gradients come.
    """
    under_way = rows * width * (ELEMENT_BYTES[precision] * model.intermediate + 2 * FP32 * model.hidden)
    begin = kept_bytes(model, rows, width, precision) + under_way
    return fixed_bytes(model) + max(begin, FP32 * model.parameters)


def fixed_bytes(model: ModelSize) -> int:
    """Weights and AdamW's two moments, in fp32, without gradients."""
    return 3 * FP32 * model.parameters


def kept_bytes(model: ModelSize, rows: int, width: int, precision: str) -> int:
    """What the forward pass of a batch with padding keeps for the backward pass, weights aside: activations, dropout
    masks, bf16 weights."""
    size, tokens, projected = ELEMENT_BYTES[precision], rows * width, model.embedding != model.hidden
    stream = size if projected else FP32  # of an element between layers: norms give what the embeddings give them
    layer = _layer_token(model, width, size, stream)
    last = size * ((1 if stream == size else 2) + 2) * model.hidden  # for one token of a row: its input, keys, values
    # The embeddings, in fp32: their norm, its dropout, ids; in ELECTRA what is projected.
    embedding = FP32 * (1 + model.hidden_dropout) * model.embedding + 2 * FP32 + 8 + projected * size * model.embedding
    head = FP32 * 4 * model.hidden
    weights = BF16 * model.linear_weights if size == BF16 else 0
    return tokens * (embedding + (model.layers - 1) * layer + last) + rows * (layer + head) + weights


def _layer_token(model: ModelSize, width: int, size: int, stream: int) -> int:
    """Bytes that a layer keeps for each token, in elements of `size` bytes, between layers of `stream`."""
    inputs = 1 if stream == size else 3  # cast anew for query, key and value
    linear = size * ((inputs + 2) * model.hidden + 2 * model.intermediate)  # inputs of six products, of gelu
    norms = 2 * (stream * model.hidden + 2 * FP32)  # inputs, mean, deviation
    dropouts = (1 if model.kind == "distilbert" else 2) * model.hidden_dropout * size * model.hidden
    attention = 3 * size * model.hidden  # queries, keys, values
    if model.attention_dropout or size == BF16:  # by blocks: probabilities, dropout in their sign
        attention += size * model.heads * width
    else:  # torch's: a sum for each row of scores, and the mask as numbers to add
        attention += FP32 * model.heads + size * width
    return linear + norms + dropouts + attention
