"""Rows of words and tags as a source has them: taken out of record batches, checked, tags numbered.

Until all of a source was read, nobody knows which tags there are. So tags are numbered as they come, and `Tags.table`
says at the end which class each number is.
"""

import numpy as np
import pyarrow as pa

from cache.common.arrays import Array
from cache.console.text import counted
from cache.errors import InputError
from cache.format.tasks import IGNORED, MAX_TOKEN_LABELS

from ..columns import LABEL, TEXT, BadDataError, check_filled, flat_lists, is_list, is_text
from ..tokenization.words import Words
from .class_labels import Coded, class_ids, classes_of, code_labels, number_classes

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

    def marks(self, coded: Coded) -> Array:
        """(words,) the number of each tag in a piece of a label column; 0 for the tag -100, as which torch and datasets
        mark what has none.

        Raises:
            InputError: a tag is not a class, or there are too many.
        """
        classes = classes_of(coded, self.known)
        for tag in classes:
            if tag != IGNORED:
                self.number(tag)
        if len(self.numbers) > MAX_TOKEN_LABELS:
            raise InputError(
                f"the words have more than {MAX_TOKEN_LABELS:,} different tags; if that is not the column of tags, "
                "name it with --label"
            )
        return class_ids(coded, classes, {IGNORED: 0, **self.numbers})

    def table(self) -> tuple[tuple[str, ...], Array]:
        """The class names, and for each number from 0 on the label to store."""
        names, ids = number_classes(set(self.numbers), self.known, OUTSIDE)
        return names, np.array([IGNORED, *(ids[value] for value in self.numbers)], np.int64)


def tagged_words(batch: pa.RecordBatch, tags: Tags) -> Words:
    """The rows of a record batch, each checked to have a tag for each word, marked by the numbers of their tags.

    Raises:
        BadDataError: one has none, or a word or tag is missing or of a wrong kind.
    """
    texts = batch.column(TEXT)
    check_filled(texts)
    kind = texts.type
    if not is_list(kind) or (len(texts.flatten()) and not is_text(kind.value_type)):
        raise BadDataError(f"the text column holds {kind}, expected lists of words as text; see --text")
    counts, flat = flat_lists(texts, "word")
    labels = batch.column(LABEL) if LABEL in batch.schema.names else None
    coded = None if labels is None else code_labels(labels)
    if labels is None or coded is None or coded.counts is None:
        raise BadDataError(
            "the text column holds lists of words, the label "
            f"{'is in several columns' if labels is None else f'column holds {labels.type}'}, expected one column of "
            "lists of tags, a tag per word; see --label"
        )
    differing = np.flatnonzero(counts != coded.counts)
    if len(differing):
        row = int(differing[0])
        tagged = f"{counted(int(counts[row]), 'word')} and {coded.counts[row]} tags"
        raise BadDataError(f"has {tagged}, expected a tag for each word", row)
    encoded = flat.dictionary_encode()
    numbers = encoded.indices.to_numpy().astype(np.int64)
    return Words(encoded.dictionary.to_pylist(), numbers, counts, tags.marks(coded))
