"""Rows of words and tags as a source has them: taken out of record batches, checked, tags numbered.

Until all of a source was read, nobody knows which tags there are. So tags are numbered as they come, and `Tags.table`
says at the end which class each number is.

Shapes: N rows, V words.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache.common.arrays import Array
from cache.console.text import counted
from cache.errors import InputError
from cache.format.tasks import IGNORED, MAX_TOKEN_LABELS

from ..columns import LABEL, TEXT, Mask, check_filled, first_null, is_list, is_text, list_counts
from ..tokenization.words import Words
from .class_labels import Coded, class_ids, classes_of, code_labels, number_classes, row_of

if TYPE_CHECKING:
    import pyarrow as pa

OUTSIDE = "O"
"""The tag of words that belong to no entity; where there is one it is class 0."""


class Tags:
    """The tags of a source, numbered from 1 as they come; 0 stands for none.

    Args:
        known: the class names where the source says them.
    """

    def __init__(self, known: tuple[str, ...] | None) -> None:
        self.known = known
        self.numbers: dict[int | str, int] = {}

    def number(self, tag: int | str) -> int:
        """The number of a tag, which is added where it is new."""
        return self.numbers.setdefault(tag, len(self.numbers) + 1)

    def marks(self, coded: Coded, split: str, first_row: int) -> Array:
        """(V,) the number of each tag in a piece of a label column.

        Raises:
            InputError: a tag is not a class, or there are too many.
        """
        (classes,) = classes_of(split, [coded], self.known, first_row)
        for tag in classes.values():
            self.number(tag)
        if len(self.numbers) > MAX_TOKEN_LABELS:
            raise InputError(
                f"the words have more than {MAX_TOKEN_LABELS:,} different tags; if that is not the column of tags, "
                "name it with --label"
            )
        return class_ids(coded, classes, self.numbers)

    def table(self) -> tuple[tuple[str, ...], Array]:
        """The class names, and for each number from 0 on the label to store."""
        names, ids = number_classes(set(self.numbers), self.known, OUTSIDE)
        return names, np.array([IGNORED, *(ids[value] for value in self.numbers)], np.int64)


@dataclass(frozen=True)
class TaggedWords:
    """Rows of a source split: its name, (N,) their numbers in it, their words marked by the number of their tag."""

    split: str
    rows: Array
    words: Words

    def kept(self, part: Mask) -> "TaggedWords":
        """Those for which `part` (N,) is true."""
        return TaggedWords(self.split, self.rows[part], self.words.kept(part))


def tagged_words(batch: "pa.RecordBatch", split: str, first_row: int, tags: Tags) -> TaggedWords:
    """The rows of a record batch, each checked to have a tag for each word.

    Raises:
        InputError: one has none, or a word or tag is missing or of a wrong kind; names split and row.
    """
    texts = batch.column(TEXT)
    check_filled(texts, split, first_row)
    kind = texts.type
    if not is_list(kind) or not (is_text(kind.value_type) or not len(texts.flatten())):
        raise InputError(
            f"the text column of split {split!r} holds {kind}, expected lists of words as text; see --text"
        )
    counts, flat = list_counts(texts), texts.flatten()
    if flat.null_count:
        row = first_row + row_of(counts, first_null(flat))
        raise InputError(f"row {row} of split {split!r} (counted from 0) has a word that is null; remove it")
    labels = batch.column(LABEL) if LABEL in batch.schema.names else None
    coded = None if labels is None else code_labels(labels, split, first_row)
    if labels is None or coded is None or coded.counts is None:
        raise InputError(
            f"the text column of split {split!r} holds lists of words, the label "
            f"{'is in several columns' if labels is None else f'column holds {labels.type}'}, expected one column of "
            "lists of tags, a tag per word; see --label"
        )
    differing = np.flatnonzero(counts != coded.counts)
    if len(differing):
        row = int(differing[0])
        raise InputError(
            f"row {first_row + row} of split {split!r} (counted from 0) has {counted(int(counts[row]), 'word')} and "
            f"{coded.counts[row]} tags, expected a tag for each word"
        )
    encoded = flat.dictionary_encode()
    numbers = encoded.indices.to_numpy().astype(np.int64)
    words = Words(encoded.dictionary.to_pylist(), numbers, counts, tags.marks(coded, split, first_row))
    return TaggedWords(split, np.arange(first_row, first_row + batch.num_rows), words)
