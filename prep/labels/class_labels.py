"""Label values, whatever their type, to class ids; what the labels mean; numbers and sets of classes.

Labels pass by in pieces, one per record batch, and only their distinct values are looked at one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cache.common.arrays import Array
from cache.errors import InputError
from cache.format.tasks import MAX_MULTI_LABELS

from ..columns import (
    LABEL,
    LABELS,
    LEAVE_OUT,
    BadDataError,
    Mask,
    distinct,
    first_null,
    flat_lists,
    in_split,
    is_list,
    row_of,
)
from .values import class_of, number_of

Found = TypeVar("Found")


@dataclass(frozen=True)
class Coded:
    """A piece of a label column: `values[codes[i]]` is the label of row i.

    Attributes:
        values: the distinct labels, as Python values.
        codes: (rows,) of integers; where rows have any number of labels, all of them end to end.
        counts: (rows,) int64, labels of each row; None where each has one.
    """

    values: list[Any]
    codes: npt.NDArray[Any]
    counts: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """How many rows the piece has."""
        return len(self.codes if self.counts is None else self.counts)

    def row_of(self, code: int) -> int:
        """The first row that has a label."""
        position = int(np.argmax(self.codes == code))
        return position if self.counts is None else row_of(self.counts, position)


def code_batch(batch: pa.RecordBatch) -> Coded:
    """The labels of a batch, from one column or from one for each class; raises what `code_labels` does."""
    names = batch.schema.names
    coded = code_columns(batch.column(LABELS)) if LABELS in names else code_labels(batch.column(LABEL))
    return replace(coded, codes=coded.codes.astype(np.min_scalar_type(len(coded.values))))


def code_labels(labels: pa.Array, what: str = "label") -> Coded:
    """Take a piece of a label column, of plain values or lists of them, apart into distinct values and codes.

    `what` is one of them, for errors.

    Raises:
        BadDataError: a label is missing, or the column holds no single values.
    """
    if labels.null_count:
        raise BadDataError(f"has no {what}; give it one or remove the row, {LEAVE_OUT}", first_null(labels))
    if is_list(labels.type):
        counts, flat = flat_lists(labels, what)
        coded = code_labels(flat)
        if coded.counts is not None:
            raise BadDataError(f"the label column holds {labels.type}, expected lists of classes")
        return replace(coded, counts=counts)
    try:
        return Coded(*distinct(labels))
    except TypeError:
        raise BadDataError(
            f"a {what} is {labels.type}, expected one class per row, or a list of them; see --label"
        ) from None


YES_NO = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
"""What the column of a class may say of a row."""


def code_columns(labels: pa.Array) -> Coded:
    """The same for structs with a field for each class, which holds 0 or 1."""
    names = [field.name for field in labels.type]
    held = np.zeros((len(labels), len(names)), bool)  # (N, C)
    expected = "expected 0 or 1: with several --label each column says whether a row is of that class"
    for number, name in enumerate(names):
        coded = code_labels(labels.field(number), f"label in column {name!r}")
        if coded.counts is not None:
            raise BadDataError(f"column {name!r} holds lists, {expected}")
        said = [YES_NO.get(str(value).lower()) for value in coded.values]
        if None in said:
            wrong = said.index(None)
            raise BadDataError(f"has {coded.values[wrong]!r} in column {name!r}, {expected}", coded.row_of(wrong))
        held[:, number] = np.array(said, bool)[coded.codes]
    return _of_marks(names, held)


def _of_marks(names: Sequence[str], held: Mask) -> Coded:
    """The labels of rows, from what they have of each class: (rows, classes)."""
    return Coded(list(names), np.nonzero(held)[1], held.sum(axis=1))


def find_task(asked: str, pieces: dict[str, list[Coded]], known: tuple[str, ...] | None) -> str:
    """What the labels mean, where that is plain from them: lists are multi-label, fractions are numbers.

    `asked` is one of `prep.choices.TASKS`; `known` are the class names where the source says them.

    Raises:
        InputError: the labels do not fit what was asked for.
    """
    listed = _are_lists(pieces)
    if asked == "auto":
        if listed:
            return "multi-label"
        return "regression" if known is None and _holds_fractions(pieces) else "classification"
    if asked == "token-classification":
        raise InputError(
            "--task token-classification takes a column of lists of words and one of lists of tags; here the text is "
            "no list; see --text and --label"
        )
    if listed and asked != "multi-label":
        raise InputError(
            f"--task {asked} takes one label per row, but here rows have lists of them; see --label and --task"
        )
    if not listed and asked == "multi-label":
        raise InputError(
            "--task multi-label takes a column of lists, or several columns of 0 and 1, each named with --label; "
            "here a row has one label"
        )
    return asked


def _holds_fractions(pieces: dict[str, list[Coded]]) -> bool:
    """Whether all labels are numbers, and not all of them whole."""
    fraction = False
    for value in chain.from_iterable(piece.values for piece in chain.from_iterable(pieces.values())):
        number = number_of(value)
        if number is None:
            return False
        fraction = fraction or not number.is_integer()
    return fraction


def _are_lists(pieces: dict[str, list[Coded]]) -> bool:
    """Whether rows have any number of labels."""
    return any(piece.counts is not None for piece in chain.from_iterable(pieces.values()))


def _converted(pieces: dict[str, list[Coded]], convert: Callable[[Coded], Found]) -> dict[str, list[Found]]:
    """What a function gives for each piece of each split; the row that it refuses is named by its number there."""
    found: dict[str, list[Found]] = {split: [] for split in pieces}
    for split, coded in pieces.items():
        first_row = 0
        for piece in coded:
            with in_split(split, first_row):
                found[split].append(convert(piece))
            first_row += piece.rows
    return found


def resolve_numbers(pieces: dict[str, list[Coded]]) -> dict[str, npt.NDArray[np.float32]]:
    """Labels as numbers: for each split (rows,).

    Raises:
        BadDataError: a label is not a finite number of 32 bits; names split, row and value.
    """
    found = _converted(pieces, _numbers)
    return {split: np.concatenate([np.zeros(0, np.float32), *parts]) for split, parts in found.items()}


def _numbers(piece: Coded) -> npt.NDArray[np.float32]:
    numbers = [number_of(value) for value in piece.values]
    if None in numbers:
        code = numbers.index(None)
        raise BadDataError(
            f"has the label {piece.values[code]!r}, which is not a finite number; correct it or remove the row, or "
            f"pass --task classification, {LEAVE_OUT}",
            piece.row_of(code),
        )
    labels: npt.NDArray[np.float32] = np.array(numbers, np.float32)[piece.codes]
    return labels


def resolve_classes(
    pieces: dict[str, list[Coded]], known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, npt.NDArray[Any]]]:
    """Give every label its class id.

    Whole numbers, also as text, are classes sorted as numbers; other text alphabetically. A number with a fraction is
    no class. Where the class names are `known`, class 0 first, a label is a name or a class id. Lists of 0 and 1 that
    all are equally long hold a mark for each class: as numbers of classes, they would all be the same.

    Returns:
        The class names, and for each split (rows,) class ids; where rows have any number of labels, (rows, classes)
        uint8, 1 at those a row has.

    Raises:
        BadDataError: a label is not a class; names split, row and value.
        InputError: there are too many classes.
    """
    if known is None and (marks := _marks(pieces)):
        names = known = tuple(map(str, range(marks)))
        pieces = {split: [_unmarked(piece, names) for piece in coded] for split, coded in pieces.items()}
    found = _converted(pieces, lambda piece: classes_of(piece, known))
    names, ids = number_classes({value for parts in found.values() for part in parts for value in part}, known)
    listed = _are_lists(pieces)
    if listed:
        _check_count(names)

    def labels(piece: Coded, classes: list[int | str]) -> Array:
        own = class_ids(piece, classes, ids)
        return _sets(piece, own, len(names)) if listed else own

    none = np.zeros((0, len(names)), np.uint8) if listed else np.zeros(0, np.int64)
    return names, {split: np.concatenate([none, *map(labels, pieces[split], parts)]) for split, parts in found.items()}


def _marks(pieces: dict[str, list[Coded]]) -> int:
    """How many marks the list of every row has, each of them 0 or 1; 0 where lists hold something else."""
    counts: set[int] = set()
    for piece in chain.from_iterable(pieces.values()):
        counts |= {1} if piece.counts is None else set(piece.counts.tolist())
    values = chain.from_iterable(piece.values for piece in chain.from_iterable(pieces.values()))
    marked = len(counts) == 1 and all(not isinstance(value, str) and value in (0, 1) for value in values)
    return max(counts) if marked and max(counts) > 1 else 0


def _unmarked(piece: Coded, names: Sequence[str]) -> Coded:
    """Lists of marks, one for each class, as lists of the names of those that are marked."""
    marked = np.array([value == 1 for value in piece.values], bool)
    return _of_marks(names, marked[piece.codes].reshape(-1, len(names)))


def number_classes(
    found: set[int | str], known: tuple[str, ...] | None, first: str | None = None
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The names of all classes and the id of each, from what `classes_of` found; `first` is class 0 if it is there."""
    if known is not None:
        return known, {number: number for number in range(len(known))}
    whole = all(isinstance(value, int) for value in found)
    ordered = sorted(found) if whole else sorted(found, key=lambda value: (value != first, str(value)))
    return tuple(map(str, ordered)), {value: number for number, value in enumerate(ordered)}


def _check_count(names: tuple[str, ...]) -> None:
    if not 0 < len(names) <= MAX_MULTI_LABELS:
        raise InputError(
            f"the rows have {len(names):,} different labels in their lists, expected 1 to {MAX_MULTI_LABELS:,}; "
            "if that is not the label column, name it with --label"
        )


def _sets(piece: Coded, ids: npt.NDArray[Any], classes: int) -> npt.NDArray[np.uint8]:
    """(rows, classes), 1 at the classes `ids` (labels,) that each row of a piece has."""
    counts = piece.counts if piece.counts is not None else np.ones(len(ids), np.int64)
    held = np.zeros((len(counts), classes), np.uint8)
    held[np.repeat(np.arange(len(counts)), counts), ids] = 1
    return held


def classes_of(piece: Coded, known: tuple[str, ...] | None) -> list[int | str]:
    """The class of each value of a piece: an id where the names are `known`, else a whole number or text.

    Raises:
        BadDataError: a label is not a class; names row and value.
    """
    classes = []
    for code, value in enumerate(piece.values):
        try:
            classes.append(class_of(value, known))
        except ValueError as error:
            raise BadDataError(f"has the label {value!r}, {error}", piece.row_of(code)) from None
    return classes


def class_ids(piece: Coded, classes: list[int | str], ids: dict[Any, int]) -> Array:
    """(labels,) the id of each label of a piece, whose `classes` are what `classes_of` found."""
    found: Array = np.array([ids[value] for value in classes], np.int64)[piece.codes]
    return found
