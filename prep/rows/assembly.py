"""From the encoded parts of a source to whole splits: their rows, labels and sorted runs."""

import shutil
import time
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cache.common.arrays import Array
from cache.console.progress import ConsoleProgress, Progress
from cache.console.text import sized
from cache.errors import InputError, StorageError
from cache.format.tasks import MLM, Task

from ..columns import Mask
from ..corpus.source import Source
from ..labels.class_labels import Coded
from ..labels.tags import Tags
from ..tokenization.encoder import Encoder
from ..tokenization.words import packed_type
from .encoding import RUNS_SHARE, EncodedPart, encode_part, id_type
from .executors import Executor, run_parts
from .external_sort import SortedRun
from .labelling import labels_task, tags_task
from .parts import Part, Shared, Survey, survey
from .selection import Selection, choose_rows

KEPT_BYTES = 256 << 20
"""Splits up to this size in all are kept in memory between choosing their rows and encoding them."""


@dataclass(frozen=True)
class EncodedSplit:
    """One split of the cache.

    Attributes:
        runs: ids as sorted runs, in source order; where tokens have labels, ids and marks.
        rows: (rows,) the row of the source split that each one comes from, ascending, those that were left out not
            counted; None where it has all of them, each once.
        lengths: (rows,) tokens of each.
        labels: (source rows,) or (source rows, classes); None where tokens have labels, or nothing has.
        first_lengths: (rows,) tokens of token type 0; None without pairs.
        numbers: (source rows,) their numbers with those that were left out; None where none can be.
    """

    runs: list[SortedRun]
    rows: Array | None
    lengths: Array
    labels: Array | None
    first_lengths: Array | None
    numbers: Array | None


@dataclass(frozen=True)
class Encoded:
    """All rows of a source, encoded.

    Attributes:
        task: what the labels mean.
        splits: name in the cache to the split.
        id_type: of what the sorted runs hold.
        marked: where tokens have labels, the label of each mark; else None.
        left_out: source split to how many of its rows were left out, of those of which some were.
        rows_checked: on how many rows a fast engine was checked.
    """

    task: Task
    splits: dict[str, EncodedSplit]
    id_type: type
    marked: Array | None
    left_out: dict[str, int]
    rows_checked: int


def stored_type(encoder: Encoder) -> type[Any]:
    """The type of what sorted runs hold."""
    return packed_type(encoder.vocab_size) if encoder.words else id_type(encoder.vocab_size)


@dataclass
class SourceSplit:
    """A split of the source: its parts, and what became of them."""

    parts: list[Part]
    encoded: list[EncodedPart] = field(default_factory=list)

    @property
    def coded(self) -> list[Coded]:
        """Its labels."""
        return list(chain.from_iterable(part.coded for part in self.encoded))

    @property
    def left_out(self) -> int:
        """How many rows were left out."""
        return sum(part.left_out for part in self.encoded)


def encode_source(
    source: Source,
    encoder: Encoder,
    selection: Selection,
    spill: Path,
    memory_bytes: int,
    executor: Executor,
    console: ConsoleProgress,
) -> Encoded:
    """Read a source from end to end, twice where rows are chosen and do not fit in memory, and encode it.

    Args:
        source: what to read.
        encoder: the tokenizer.
        selection: the task, and which rows to take.
        spill: folder for ids that do not fit in memory; the caller removes it.
        memory_bytes: about how much a task may take.
        executor: where the tasks run.
        console: for the progress bar.

    Raises:
        InputError: a text or label is missing or of a wrong kind, or there are no rows at all.
        ParityError: a fast engine failed, or gave other ids than `tokenizers`.
        StorageError: the disk has no room for the cache, estimated from what came first; or writing fails.
    """
    labelled = selection.task != MLM
    kept = KEPT_BYTES // len(source.splits) if executor.in_place and source.splits else 0
    tags, in_place = Tags(source.label_names), executor.in_place
    shared = Shared(encoder, labelled, tags, spill, memory_bytes, kept, in_place, selection.max_tokens)
    splits = {
        name: SourceSplit([Part(stream, name, masks={name: None}) for stream in executor.parts(stream)])
        for name, stream in source.splits.items()
    }
    _choose(splits, source, selection, shared, executor, console)
    with console.bar("tokenizing", source.size_bytes, "B") as bar:
        parts = [part for split in splits.values() for part in split.parts]
        report = _Reporting(bar, spill.parent, source.size_bytes, len(parts), shared)
        for part, found in zip(parts, run_parts(executor, encode_part, shared, parts, report), strict=True):
            splits[part.split].encoded.append(found)
    left_out = {name: split.left_out for name, split in splits.items() if split.left_out}
    if not any(rows.lengths for split in splits.values() for part in split.encoded for rows in part.splits.values()):
        raise InputError(f"{source.where} holds no rows{' with a text and a label' * bool(left_out)}")
    if encoder.words:
        task, marked = tags_task(selection.task, shared.tags, console)
        labels: dict[str, Array] = {}
    else:
        coded = {name: split.coded for name, split in splits.items()}
        marked, (task, labels) = None, labels_task(selection.task, coded, source, console)
    return Encoded(
        task,
        {
            name: _assembled(name, split, labels.get(origin))
            for origin, split in splits.items()
            for name in split.parts[0].masks
        },
        stored_type(encoder),
        marked,
        left_out,
        sum(part.rows_checked for split in splits.values() for part in split.encoded),
    )


def _choose(
    splits: dict[str, SourceSplit],
    source: Source,
    selection: Selection,
    shared: Shared,
    executor: Executor,
    console: ConsoleProgress,
) -> None:
    """Settle which rows of each part go to which split, and how the tags of words are numbered.

    Choosing rows needs their labels first, so the text is then read twice, or kept in memory where it is little. Tasks
    that run apart must know all tags before one of them numbers its own.
    """
    numbering = bool(shared.encoder.words) and not executor.in_place
    looked = [name for name in splits if numbering or not selection.takes_all(name)]
    if not looked:
        return
    parts = [part for name in looked for part in splits[name].parts]
    with console.bar("reading", source.size_bytes, "B") as bar:
        found = run_parts(executor, survey, shared, parts, lambda size, _: bar.update(size))
        surveys = dict(zip(map(id, parts), found, strict=True))
    for name in looked:
        _settle(splits[name], [surveys[id(part)] for part in splits[name].parts], source, selection, shared)


def _settle(split: SourceSplit, surveys: list[Survey], source: Source, selection: Selection, shared: Shared) -> None:
    """Give the parts of a source split what their surveys say."""
    name = split.parts[0].split
    masks: dict[str, Mask | None] = {name: None}
    if not selection.takes_all(name):
        coded = list(chain.from_iterable(found.coded for found in surveys))
        masks = choose_rows(name, sum(found.rows for found in surveys), coded, source, selection)
    first = 0
    for number, found in enumerate(surveys):
        last = first + found.rows
        own = {held: None if mask is None else mask[first:last] for held, mask in masks.items()}
        part = replace(split.parts[number], first_row=first, masks=own, batches=found.batches)
        split.parts[number], first = part, last
        for tag in found.tags:
            shared.tags.number(tag)


def _assembled(name: str, split: SourceSplit, labels: Array | None) -> EncodedSplit:
    """A split of the cache from its rows in each part of a split of the source."""
    held = [part.splits[name] for part in split.encoded]
    first_rows = np.cumsum([0, *(part.rows for part in split.encoded)]).tolist()
    all_rows = np.cumsum([0, *(part.rows + part.left_out for part in split.encoded)]).tolist()
    numbers = [
        part.numbers + first for part, first in zip(split.encoded, all_rows, strict=False) if part.numbers is not None
    ]
    rows = [piece + first for own, first in zip(held, first_rows, strict=False) for piece in own.rows]
    firsts = [piece for own in held for piece in own.first_lengths]
    lengths = [piece for own in held for piece in own.lengths]
    return EncodedSplit(
        runs=[run for own in held for run in own.store.sorted_runs],
        rows=np.concatenate(rows) if rows else None,
        lengths=np.concatenate(lengths or [np.zeros(0, np.uint8)]),
        labels=labels,
        first_lengths=np.concatenate(firsts) if firsts else None,
        numbers=np.concatenate(numbers) if numbers else None,
    )


class _Reporting:
    """Draws a bar of text that is encoded; once the first of it is, looks whether the disk has room for all.

    Args:
        bar: to draw.
        folder: where the cache will be.
        total: bytes of text; 0 where that is not known.
        parts: how many tasks there are.
        shared: their settings.
    """

    def __init__(self, bar: Progress, folder: Path, total: int, parts: int, shared: Shared) -> None:
        self.bar, self.folder, self.total, self.parts, self.shared = bar, folder, total, parts, shared
        self.read = self.tokens = self.done = 0

    def __call__(self, read: int, tokens: int) -> None:
        if tokens and not self.tokens:
            self._check_room(self.read + read, tokens)
        self.read, self.tokens = self.read + read, self.tokens + tokens
        seconds = max(time.monotonic() - self.bar.began, 1e-9)
        self.done += 1
        parts = "" if self.shared.in_place else f", {self.done:,} of {self.parts:,} parts"
        self.bar.update(read, f"{self.tokens / seconds:,.0f} tokens/s{parts}")

    def _check_room(self, read: int, tokens: int) -> None:
        """
        Raises:
            StorageError: there is less than the whole source will take, by what was read.
        """
        encoder = self.shared.encoder
        width = np.dtype(stored_type(encoder)).itemsize
        cache = tokens * width * max(self.total, read) // max(read, 1)
        spilled = cache if cache > self.shared.memory_bytes // RUNS_SHARE or not self.shared.in_place else 0
        free = shutil.disk_usage(self.folder).free
        if cache + spilled > free:
            needed = f"about {sized(cache + spilled)} are needed{', half of it for a while' * bool(spilled)}"
            raise StorageError(
                f"{self.folder.parent}: {needed}, and {sized(free)} are free; make room, pass --out on another disk, "
                "or a smaller --max-length"
            )
