"""What `prep info --model` says: the memory that fine-tuning a model on a cache will take, and what fits a GPU."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cache import Cache, Split
from cache.errors import InputError
from cache.plans.spec import PlanSpec

from .memory import FP32, Setting, fixed_bytes, most_rows, most_tokens, peak_bytes
from .model_size import ModelSize, read_size
from .summary import align

GIB = 1 << 30
GPUS = (8, 16, 24, 40, 80)
"""Memory of the GPUs that are shown where the user names none, GiB."""
SPARE = 0.1
"""Share of a GPU's memory left to its context, the workspaces of libraries and fragmentation."""
ROW_KINDS = ("classification", "regression", "multi-label")
"""Tasks whose head reads one token of a row."""
BATCH_SIZES = (16, 32, 64, 128)
GPU_MULTIPLE = 8
"""`train run` rounds widths up to a multiple of this on CUDA."""


@dataclass(frozen=True)
class Shape:
    """A batch and the peaks of a step on it, bytes."""

    name: str
    rows: int
    width: int
    cpu_bytes: int
    gpu_bytes: int


@dataclass(frozen=True)
class Fit:
    """What fits a GPU: rows of the widest width, and padded tokens of a batch of any width; 0 where nothing does."""

    memory_bytes: int
    rows: int
    max_tokens: int


@dataclass(frozen=True)
class Forecast:
    """The whole prediction.

    Attributes:
        model: its name.
        size: what is known of it.
        precision: fp32 or bf16.
        width: the widest batch, tokens.
        shapes: some batches.
        fits: some GPUs.
    """

    model: str
    size: ModelSize
    precision: str
    width: int
    shapes: list[Shape]
    fits: list[Fit]


def forecast(cache: Cache, model: str, precision: str = "bf16", memories: tuple[int, ...] = ()) -> Forecast:
    """Predict.

    Args:
        cache: what is trained on.
        model: folder, Hub id, or `minilm`; only its config.json is read.
        precision: fp32, or bf16 by autocast.
        memories: of GPUs, bytes; none = those of `GPUS`.

    Raises:
        InputError: the model cannot be had, or it or the task is of a kind whose memory is not predicted.
    """
    task, limit = cache.manifest.task, cache.manifest.max_length
    if task.kind not in ROW_KINDS:
        raise InputError(f"memory is predicted for {', '.join(ROW_KINDS)}, and {cache.folder} is for {task.kind}")
    size = read_size(model, len(task.label_names) or 1)
    split = cache["train" if "train" in cache else next(iter(cache))]
    longest, shortest = split.info.longest or limit, split.info.shortest or limit
    on_gpu, on_cpu = Setting(precision, gpu=True), Setting(precision, gpu=False)

    def shape(name: str, rows: int, width: int) -> Shape:
        wide = _gpu_width(width, limit)
        return Shape(name, rows, width, peak_bytes(size, rows, width, on_cpu), peak_bytes(size, rows, wide, on_gpu))

    spec = split.default_spec()
    shapes = [shape(f"largest of {spec.id}", *_largest_batch(split, spec))] if len(split) else []
    shapes += [shape(f"{rows} of the widest", rows, longest) for rows in BATCH_SIZES]
    widths = _gpu_width(shortest, limit), _gpu_width(longest, limit)
    fits = []
    for memory in memories or tuple(count * GIB for count in GPUS):
        usable = int(memory * (1 - SPARE))
        fits.append(Fit(memory, most_rows(size, widths[1], on_gpu, usable), most_tokens(size, widths, on_gpu, usable)))
    return Forecast(model, size, precision, longest, shapes, fits)


def _gpu_width(width: int, limit: int) -> int:
    return max(width, min(-(-width // GPU_MULTIPLE) * GPU_MULTIPLE, limit))


def _largest_batch(split: Split, spec: PlanSpec) -> tuple[int, int]:
    """Rows and width of the batch with the most padded tokens in the first epoch."""
    plan = split.plan(spec, 0)
    step = int(np.argmax(plan.sizes * plan.widths.astype(np.int64)))
    return int(plan.sizes[step]), int(plan.widths[step])


def format_forecast(found: Forecast) -> str:
    """The prediction as text."""
    size = found.size
    lines = [["batch", "rows", "width", "peak on a CPU", "peak on a GPU"]]
    for shape in found.shapes:
        sizes = [f"{count / GIB:.2f} GiB" for count in (shape.cpu_bytes, shape.gpu_bytes)]
        lines.append([shape.name, f"{shape.rows:,}", f"{shape.width:,}", *sizes])
    fits = [["a GPU of", f"rows of {found.width:,} tokens at most", "--max-tokens at most"]]
    for fit in found.fits:
        most = [f"{count:,}" if count else "none" for count in (fit.rows, fit.max_tokens)]
        fits.append([f"{fit.memory_bytes / GIB:g} GiB", *most])
    gradients = FP32 * size.parameters
    return "\n".join(
        (
            f"Memory of training {found.model} in {found.precision}, PREDICTED from its configuration, not measured",
            f"{size.kind}, {size.parameters / 1e6:,.1f} M parameters; tensors alone",
            f"weights and AdamW's moments {fixed_bytes(size) / GIB:.2f} GiB, gradients {gradients / GIB:.2f} GiB",
            f"\n{align(lines)}\n\n{align(fits)}\n",
            f"Of a GPU {SPARE:.0%} is left to its context, libraries and fragmentation.",
            "On a CPU, Python and torch take about half a GiB beside.",
        )
    )


def forecast_facts(found: Forecast) -> dict[str, Any]:
    """The prediction for machines."""
    return {
        "predicted": True,
        "model": found.model,
        "parameters": found.size.parameters,
        "precision": found.precision,
        "shapes": [vars(shape) for shape in found.shapes],
        "spare_share": SPARE,
        "gpus": [vars(fit) for fit in found.fits],
    }
