"""Label values, whatever their type, to class ids; what the labels mean; numbers and sets of classes.

Labels pass by in pieces, one per record batch, and only their distinct values are looked at one by one.
"""

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cache.errors import InputError
from cache.format.tasks import MAX_MULTI_LABELS

from ..columns import LABEL, LABELS, LEAVE_OUT, distinct, first_null, is_list, list_counts
from .values import class_of, number_of

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Coded:
    """A piece of a label column: `values[codes[i]]` is the label of row i.

    Attributes:
        values: the distinct labels, as Python values.
        codes: (rows,) int64; where rows have any number of labels, all of them end to end.
        counts: (rows,) int64, labels of each row; None where each has one.
    """

    values: list[Any]
    codes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """How many rows the piece has."""
        return len(self.codes if self.counts is None else self.counts)

    def row_of(self, position: int) -> int:
        """The row whose label stands at a position of `codes`."""
        if self.counts is None:
            return position
        return row_of(self.counts, position)


def row_of(counts: npt.NDArray[np.int64], position: int) -> int:
    """The row that a value belongs to, where rows of so many values (rows,) lie end to end."""
    return int(np.searchsorted(np.cumsum(counts), position, side="right"))


def code_batch(batch: "pa.RecordBatch", split: str, first_row: int) -> Coded:
    """The labels of a batch, from one column or from one for each class."""
    if LABELS in batch.schema.names:
        return code_columns(batch.column(LABELS), split, first_row)
    return code_labels(batch.column(LABEL), split, first_row)


def code_labels(labels: "pa.Array", split: str, first_row: int) -> Coded:
    """Take a piece of a label column apart into distinct values and codes.

    Args:
        labels: Arrow array of any plain type, or of lists of one.
        split: named in errors.
        first_row: number of its first row in the split, for errors.

    Raises:
        InputError: a label is missing, or the column holds no single values.
    """
    if labels.null_count:
        raise InputError(
            f"row {first_row + first_null(labels)} of split {split!r} (counted from 0) has no label; give it one or "
            f"remove the row, {LEAVE_OUT}"
        )
    if is_list(labels.type):
        return _code_lists(labels, split, first_row)
    try:
        return Coded(*distinct(labels))
    except TypeError:
        raise InputError(
            f"the label column of split {split!r} holds {labels.type}, expected one class per row, or a list of them; "
            "see --label"
        ) from None


def _code_lists(labels: "pa.Array", split: str, first_row: int) -> Coded:
    """Lists of classes, a list per row."""
    counts = list_counts(labels)
    flat = labels.flatten()
    if flat.null_count:
        row = first_row + row_of(counts, first_null(flat))
        raise InputError(f"row {row} of split {split!r} (counted from 0) has a label that is null; remove it")
    coded = code_labels(flat, split, first_row)
    if coded.counts is not None:
        raise InputError(f"the label column of split {split!r} holds {labels.type}, expected lists of classes")
    return Coded(coded.values, coded.codes, counts)


YES_NO = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}
"""What the column of a class may say of a row."""


def code_columns(labels: "pa.Array", split: str, first_row: int) -> Coded:
    """The same for structs with a field for each class, which holds 0 or 1."""
    names = [field.name for field in labels.type]
    held = np.zeros((len(labels), len(names)), bool)  # (N, C)
    for number, name in enumerate(names):
        try:
            coded = code_labels(labels.field(number), split, first_row)
        except InputError as error:
            raise InputError(f"column {name!r}: {error}") from None
        said = [YES_NO.get(str(value).lower()) for value in coded.values]
        wrong = [code for code in np.unique(coded.codes).tolist() if coded.counts is not None or said[code] is None]
        if wrong:
            row = first_row + int(np.argmax(coded.codes == wrong[0]))
            raise InputError(
                f"row {row} of split {split!r} (counted from 0) has {coded.values[wrong[0]]!r} in column {name!r}, "
                "expected 0 or 1: with several --label each column says whether a row is of that class"
            )
        held[:, number] = np.array([bool(value) for value in said] or [False])[coded.codes]
    return Coded(list(names), np.nonzero(held)[1].astype(np.int64), held.sum(axis=1))


def find_task(asked: str, pieces: dict[str, list[Coded]], known: tuple[str, ...] | None) -> str:
    """What the labels mean, where that is plain from them: lists are multi-label, fractions are numbers.

    Args:
        asked: one of `prep.choices.TASKS`.
        pieces: split name to the pieces of its label column.
        known: the class names where the source says them.

    Raises:
        InputError: the labels do not fit what was asked for.
    """
    listed = any(piece.counts is not None for coded in pieces.values() for piece in coded)
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
    for piece in (piece for coded in pieces.values() for piece in coded):
        for code in np.unique(piece.codes).tolist():
            number = number_of(piece.values[code])
            if number is None:
                return False
            fraction = fraction or not number.is_integer()
    return fraction


def resolve_numbers(pieces: dict[str, list[Coded]]) -> dict[str, npt.NDArray[np.float32]]:
    """Labels as numbers: for each split (rows,).

    Raises:
        InputError: a label is not a finite number of 32 bits; names split, row and value.
    """
    columns = {}
    for split, coded in pieces.items():
        parts, first_row = [np.zeros(0, np.float32)], 0
        for piece in coded:
            table = np.zeros(max(len(piece.values), 1), np.float32)
            for code in np.unique(piece.codes).tolist():
                number = number_of(piece.values[code])
                if number is None:
                    row = first_row + int(np.argmax(piece.codes == code))
                    raise InputError(
                        f"row {row} of split {split!r} (counted from 0) has the label {piece.values[code]!r}, which is "
                        f"not a finite number; correct it or remove the row, or pass --task classification, {LEAVE_OUT}"
                    )
                table[code] = number
            parts.append(table[piece.codes])
            first_row += piece.rows
        columns[split] = np.concatenate(parts)
    return columns


def resolve_classes(
    pieces: dict[str, list[Coded]], known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, npt.NDArray[Any]]]:
    """Give every label its class id.

    Whole numbers, also as text, are classes sorted as numbers; other text alphabetically. A number with a fraction is
    no class. Where the class names are known, a label is a name or a class id. Lists of 0 and 1 that all are equally
    long hold a mark for each class: as numbers of classes, they would all be the same.

    Args:
        pieces: split name to the pieces of its label column, in order.
        known: the class names where the source says them, class 0 first.

    Returns:
        The class names, and for each split (rows,) class ids; where rows have any number of labels, (rows, classes)
        uint8, 1 at those a row has.

    Raises:
        InputError: a label is not a class; names split, row and value. Or there are too many classes.
    """
    if known is None and (marks := _marks(pieces)):
        return _marked(pieces, marks)
    classes = {split: classes_of(split, coded, known) for split, coded in pieces.items()}
    found = {value for parts in classes.values() for part in parts for value in part.values()}
    names, ids = number_classes(found, known)
    listed = any(piece.counts is not None for coded in pieces.values() for piece in coded)
    if listed:
        _check_count(names)
    columns: dict[str, npt.NDArray[Any]] = {}
    for split, coded in pieces.items():
        parts = [class_ids(piece, part, ids) for piece, part in zip(coded, classes[split], strict=True)]
        if listed:
            sets = [_sets(piece, part, len(names)) for piece, part in zip(coded, parts, strict=True)]
            columns[split] = np.concatenate([np.zeros((0, len(names)), np.uint8), *sets])
        else:
            columns[split] = np.concatenate([np.zeros(0, np.int64), *parts])
    return names, columns


def _marks(pieces: dict[str, list[Coded]]) -> int:
    """How many marks the list of every row has, each of them 0 or 1; 0 where lists hold something else."""
    coded = list(chain.from_iterable(pieces.values()))
    counts = {count for piece in coded for count in ({1} if piece.counts is None else set(piece.counts.tolist()))}
    values = [value for piece in coded for value in piece.values]
    marked = len(counts) == 1 and all(not isinstance(value, str) and value in (0, 1) for value in values)
    return max(counts) if marked and max(counts) > 1 else 0


def _marked(pieces: dict[str, list[Coded]], classes: int) -> tuple[tuple[str, ...], dict[str, npt.NDArray[Any]]]:
    """What `resolve_classes` gives for lists of so many marks."""
    names = tuple(map(str, range(classes)))
    _check_count(names)
    columns = {}
    for split, coded in pieces.items():
        flat = [np.array([value == 1 for value in piece.values], np.uint8)[piece.codes] for piece in coded]
        columns[split] = np.concatenate([np.zeros(0, np.uint8), *flat]).reshape(-1, classes)
    return names, columns


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


def classes_of(
    split: str, coded: list[Coded], known: tuple[str, ...] | None, first_row: int = 0
) -> list[dict[int, int | str]]:
    """For each piece of a split, from `first_row` on: code to class, of the codes that occur. A class is an id where
    the names are `known`, else a whole number or text.

    Raises:
        InputError: a label is not a class; names split, row and value.
    """
    result = []
    for piece in coded:
        classes = {}
        for code in np.flatnonzero(np.bincount(piece.codes)).tolist():
            value = piece.values[code]
            try:
                classes[code] = class_of(value, known)
            except ValueError as error:
                row = first_row + piece.row_of(int(np.argmax(piece.codes == code)))
                where = f"row {row} of split {split!r} (counted from 0)"
                raise InputError(f"{where} has the label {value!r}, {error}") from None
        result.append(classes)
        first_row += piece.rows
    return result


def class_ids(piece: Coded, classes: dict[int, int | str], ids: dict[Any, int]) -> npt.NDArray[np.int64]:
    """(labels,) the id of each label of a piece, whose `classes` are what `classes_of` found."""
    table = np.zeros(max(len(piece.values), 1), np.int64)
    for code, value in classes.items():
        table[code] = ids[value]
    return table[piece.codes]
