"""Label values, whatever their type, to class ids.

Labels pass by in pieces, one a record batch, and only their distinct values are looked at one by one.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.errors import InputError

from .arrow import distinct

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Coded:
    """A piece of a label column: `values[codes[i]]` is the label of row i.

    Attributes:
        values: the distinct labels, as Python values.
        codes: (rows,) int64.
    """

    values: list[Any]
    codes: npt.NDArray[np.int64]


def code_labels(labels: "pa.Array", split: str, first_row: int) -> Coded:
    """Take a piece of a label column apart into distinct values and codes.

    Args:
        labels: Arrow array of any plain type.
        split: named in errors.
        first_row: number of its first row in the split, for errors.

    Raises:
        InputError: a label is missing, or the column holds no single values.
    """
    if labels.null_count:
        row = first_row + labels.is_null().to_numpy(zero_copy_only=False).argmax()
        raise InputError(f"row {row} of split {split!r} (counted from 0) has no label; give it one or remove the row")
    try:
        return Coded(*distinct(labels))
    except TypeError:
        raise InputError(
            f"the label column of split {split!r} holds {labels.type}, expected one class a row; see --label"
        ) from None


def resolve_classes(
    pieces: dict[str, list[Coded]], known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, npt.NDArray[np.int64]]]:
    """Give every label its class id.

    Whole numbers, also as text, are classes sorted as numbers; other text alphabetically. A number with a fraction is
    no class. Where the class names are known, a label is a name or a class id.

    Args:
        pieces: split name to the pieces of its label column, in order.
        known: the class names where the source says them, class 0 first.

    Returns:
        The class names, and for each split (rows,) class ids.

    Raises:
        InputError: a label is no class; names split, row and value.
    """
    classes = {split: _classes(split, coded, known) for split, coded in pieces.items()}
    distinct = {value for parts in classes.values() for part in parts for value in part.values()}
    if known is not None:
        names, ids = known, dict[Any, int](zip(range(len(known)), range(len(known)), strict=True))
    else:
        ordered = sorted(distinct) if all(isinstance(value, int) for value in distinct) else sorted(distinct, key=str)
        names, ids = tuple(map(str, ordered)), {value: number for number, value in enumerate(ordered)}
    columns = {}
    for split, coded in pieces.items():
        parts = [_column(piece, part, ids) for piece, part in zip(coded, classes[split], strict=True)]
        columns[split] = np.concatenate([np.zeros(0, np.int64), *parts])
    return names, columns


def _classes(split: str, coded: list[Coded], known: tuple[str, ...] | None) -> list[dict[int, int | str]]:
    """For each piece of a split: code to class, of the codes that occur."""
    result, first_row = [], 0
    for piece in coded:
        classes = {}
        for code in np.flatnonzero(np.bincount(piece.codes)).tolist():
            value = piece.values[code]
            try:
                classes[code] = _class_of(value, known)
            except ValueError as error:
                row = first_row + int(np.argmax(piece.codes == code))
                where = f"row {row} of split {split!r} (counted from 0)"
                raise InputError(f"{where} has the label {value!r}, {error}") from None
        result.append(classes)
        first_row += len(piece.codes)
    return result


def _column(piece: Coded, classes: dict[int, int | str], ids: dict[Any, int]) -> npt.NDArray[np.int64]:
    table = np.zeros(max(len(piece.values), 1), np.int64)
    for code, value in classes.items():
        table[code] = ids[value]
    return table[piece.codes]


def _class_of(value: Any, known: tuple[str, ...] | None) -> int | str:
    """The label as a whole number where it is one, else as text; with known classes, its id."""
    if isinstance(value, bool):
        label: int | str = str(value).lower() if known is None else int(value)
    elif isinstance(value, str):
        label = value if known and value in known else _number(value)
    elif isinstance(value, float | int):
        label = _whole(value)
    else:
        raise ValueError(f"which is no class but a {type(value).__name__}")
    if label == "":
        raise ValueError("which names no class; give the row a label or remove it")
    if known is None:
        return label
    if isinstance(label, str) and label in known:
        return known.index(label)
    if isinstance(label, int) and 0 <= label < len(known):
        return label
    raise ValueError(f"which is none of the classes {', '.join(known)} (0 to {len(known) - 1})")


def _number(text: str) -> int | str:
    """Text that spells a number as a computer would is that number, for csv files know no types."""
    if len(text) < 19 and text != "-0" and re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text):
        return _whole(float(text)) if "." in text else int(text)
    return text


def _whole(value: float) -> int:
    if not float(value).is_integer():
        raise ValueError("which is no class: classes are whole numbers or names")
    return int(value)
