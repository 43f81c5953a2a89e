"""What the value of a label means, whatever its type: a class, or a number."""

import math
import re
from typing import Any

import numpy as np

from ..columns import LEAVE_OUT


def class_of(value: Any, known: tuple[str, ...] | None) -> int | str:
    """The label as a whole number where it is one, else as text; with known classes, its id.

    Raises:
        ValueError: it is not a class; the message goes on from "the label is …, ".
    """
    if isinstance(value, bool):
        label: int | str = str(value).lower() if known is None else int(value)
    elif isinstance(value, str):
        label = value if known and value in known else _spelled(value)
    elif isinstance(value, float) and math.isnan(value):
        raise ValueError(f"which is a missing value; give the row a label or remove it, {LEAVE_OUT}")
    elif isinstance(value, float | int):
        label = _whole(value)
    else:
        raise ValueError(f"which is not a class but a {type(value).__name__}; make it text or a number")
    if label == "":
        raise ValueError(f"which names no class; give the row a label or remove it, {LEAVE_OUT}")
    if known is None:
        return label
    if isinstance(label, str) and label in known:
        return known.index(label)
    if isinstance(label, int) and 0 <= label < len(known):
        return label
    raise ValueError(f"which is not one of the classes {', '.join(known)} (0 to {len(known) - 1})")


def _spelled(text: str) -> int | str:
    """Text that spells a number as a computer would is that number, for csv files know no types."""
    if len(text) < 19 and text != "-0" and re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text):
        return _whole(float(text)) if "." in text else int(text)
    return text


def _whole(value: float) -> int:
    if not float(value).is_integer():
        raise ValueError("which is not a class: classes are whole numbers or names; numbers are for --task regression")
    return int(value)


def number_of(value: Any) -> float | None:
    """A finite number as such or as text; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        with np.errstate(over="ignore"):
            number = float(np.float32(value))
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and "_" not in str(value) else None
