"""Parts of a source split, the tasks of a build, and a survey of what they hold before anything is encoded.

Each task reads its part and needs nothing of the others, so that an executor may run them anywhere
(`prep.rows.executors`). Rows have their numbers within the part; only in messages do they have those within the source
split, which `Part.first_row` gives.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..columns import Mask, Stream
from ..labels.class_labels import Coded, code_batch
from ..labels.tags import Tags, tagged_words
from ..tokenization.encoder import Encoder

if TYPE_CHECKING:
    import pyarrow as pa

Report = Callable[[int, int], object]
"""Called with bytes of text and tokens that are done."""


@dataclass(frozen=True)
class Shared:
    """What all tasks have in common.

    Attributes:
        encoder: the tokenizer.
        labelled: whether labels are wanted.
        tags: those of words as far as they are known; a task adds those that it meets first.
        spill: folder for ids that do not fit in memory.
        memory_bytes: about how much a task may take.
        keep_bytes: record batches of a source up to this size stay in memory from `survey` to `encode_part`.
        in_place: whether tasks run in the process that writes the shards, one after the other.
        max_tokens: see `Selection`.
    """

    encoder: Encoder
    labelled: bool
    tags: Tags
    spill: Path
    memory_bytes: int
    keep_bytes: int
    in_place: bool
    max_tokens: int | None


@dataclass(frozen=True)
class Part:
    """A part of a source split.

    Attributes:
        stream: reads it.
        split: the source split.
        first_row: number of its first row in there, as far as it is known: messages name rows by it.
        masks: for each split of the cache that takes rows of it, which they are: (rows,) or None for all.
        batches: its record batches, where they were kept.
    """

    stream: Stream
    split: str
    first_row: int = 0
    masks: dict[str, Mask | None] = field(default_factory=dict)
    batches: "list[pa.RecordBatch] | None" = None

    def chunks(self) -> "Iterator[Chunk]":
        """Its record batches in order."""
        first_row = self.first_row
        for batch in self.stream() if self.batches is None else self.batches:
            yield Chunk(batch, self.split, first_row)
            first_row += batch.num_rows


@dataclass(frozen=True)
class Chunk:
    """A record batch of the source split `split`; `first_row` is its first row's number in there."""

    batch: "pa.RecordBatch"
    split: str
    first_row: int

    def coded(self) -> Coded:
        """Its labels."""
        coded = code_batch(self.batch, self.split, self.first_row)
        return replace(coded, codes=coded.codes.astype(np.min_scalar_type(len(coded.values))))


@dataclass
class Survey:
    """What a part holds, without encoding it.

    Attributes:
        rows: how many.
        coded: their labels; none where they are not wanted, or are those of words.
        tags: the tags of words, in the order in which they come.
        batches: its record batches, where they are small.
    """

    rows: int = 0
    coded: list[Coded] = field(default_factory=list)
    tags: list[int | str] = field(default_factory=list)
    batches: "list[pa.RecordBatch] | None" = None


def survey(shared: Shared, part: Part, report: Report) -> Survey:
    """Look at the labels of a part, by which rows are chosen; of words, at their tags.

    Raises:
        InputError: the part cannot be read, or a label is missing or of a wrong kind.
    """
    found, size = Survey(batches=[] if shared.in_place else None), 0
    for chunk in part.chunks():
        found.rows += chunk.batch.num_rows
        size += chunk.batch.nbytes
        if shared.encoder.words and not shared.in_place:
            tagged_words(chunk.batch, chunk.split, chunk.first_row, shared.tags)
        elif shared.labelled and not shared.encoder.words:
            found.coded.append(chunk.coded())
        if found.batches is not None:
            found.batches.append(chunk.batch)
            found.batches = found.batches if size <= shared.keep_bytes else None
        report(chunk.batch.nbytes, 0)
    found.tags = list(shared.tags.numbers)
    return found
