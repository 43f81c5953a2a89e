"""Labels and token types as they are stored: what is sound, and what a model gets.

Shapes: N rows, T tokens, C classes.
"""

from collections.abc import Mapping

import numpy as np

from ..common.arrays import Array
from .tasks import IGNORED, Task


def fault(task: Task, tensors: Mapping[str, Array], lengths: Array) -> str:
    """What is wrong with the labels and token types of a shard of rows of these lengths (N,); empty if nothing."""
    if task.pair:
        first = tensors["first_lengths"]
        if np.any(first < 0) or np.any(first > lengths):
            return "holds a first text longer than its row"
    return _fault(task, tensors["labels"]) if task.labelled else ""


def _fault(task: Task, labels: Array) -> str:
    if not labels.size:
        return ""
    if task.kind == "regression":
        return "" if np.isfinite(labels).all() else "holds a label that is not a finite number"
    if task.kind == "multi-label":
        return "" if int(labels.max()) <= 1 else "holds a label that is neither 0 nor 1"
    classes = len(task.label_names)
    if task.per_token:
        sound = int(labels.max()) < classes and not np.any((labels < 0) & (labels != IGNORED))
        return "" if sound else f"holds a token's label that is neither {IGNORED} nor in 0..{classes - 1}"
    sound = 0 <= int(labels.min()) <= int(labels.max()) < classes
    return "" if sound else f"holds a label outside 0..{classes - 1}"


def labelled(labels: Array, offsets: Array) -> Array:
    """(N,) int64, how many tokens of each row have a label; row i is labels[offsets[i]:offsets[i+1]]."""
    return np.diff(np.append(0, np.cumsum(labels != IGNORED))[offsets])


def for_model(labels: Array) -> Array:
    """Labels of rows as stored to labels as a loss takes them: (N,) int64, (N,) float32, or (N, C) float32."""
    return labels.astype(np.float32) if labels.dtype == np.uint8 else labels


def token_types(first_lengths: Array, lengths: Array, width: int, left: bool) -> Array:
    """(N, width) int64, 1 at tokens behind the first `first_lengths` of their row; 0 elsewhere, in padding too."""
    columns = np.arange(width)
    shift = width - lengths if left else np.zeros_like(lengths)
    begins, ends = (shift + first_lengths)[:, None], (shift + lengths)[:, None]
    return ((columns >= begins) & (columns < ends)).astype(np.int64)
