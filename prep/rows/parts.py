"""Parts of a source split, the tasks of a build, and a survey of what they hold before anything is encoded.

Each task reads its part and needs nothing of the others, so that an executor may run them anywhere
(`prep.rows.executors`). Rows have their numbers within the part; only messages name them by those within the source
split (`prep.rows.executors.run_parts`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ..columns import Mask, Stream, in_split
from ..labels.class_labels import Coded, code_batch
from ..labels.tags import Tags, tagged_words
from ..tokenization.encoder import Encoder

Report = Callable[[int, int], object]
"""Called with bytes of text and tokens that are done."""


@dataclass(frozen=True)
class Shared:
    """What all tasks have in common.

    Attributes:
        encoder: the tokenizer.
        labelled: whether rows have labels of their own, which are wanted.
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
        masks: for each split of the cache that takes rows of it, which they are: (rows,) or None for all.
        batches: its record batches, where they were kept.
    """

    stream: Stream
    split: str
    masks: dict[str, Mask | None]
    batches: list[pa.RecordBatch] | None = None

    def read(self) -> Iterator[pa.RecordBatch]:
        """Its record batches in order."""
        return self.stream() if self.batches is None else iter(self.batches)


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
    batches: list[pa.RecordBatch] | None = None


def survey(shared: Shared, part: Part, report: Report) -> Survey:
    """Look at the labels of a part, by which rows are chosen; of words, at their tags.

    Raises:
        InputError: the part cannot be read, or a label is missing or of a wrong kind.
    """
    found, size = Survey(batches=[] if shared.in_place else None), 0
    for batch in part.read():
        with in_split(part.split, found.rows):
            if shared.encoder.words and not shared.in_place:
                tagged_words(batch, shared.tags)
            elif shared.labelled:
                found.coded.append(code_batch(batch))
        found.rows += batch.num_rows
        size += batch.nbytes
        if found.batches is not None:
            found.batches.append(batch)
            found.batches = found.batches if size <= shared.keep_bytes else None
        report(batch.nbytes, 0)
    found.tags = list(shared.tags.numbers)
    return found
