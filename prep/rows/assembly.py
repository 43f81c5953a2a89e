"""From the encoded parts of a source to whole splits: their rows, labels and sorted runs."""

import shutil
import time
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from cache.common.arrays import Array
from cache.console.progress import ConsoleProgress, Progress
from cache.console.text import sized
from cache.errors import InputError, StorageError
from cache.format.tasks import MLM, Task

from ..columns import Mask
from ..corpus.source import Source
from ..labels.tags import Tags
from ..tokenization.encoder import Encoder
from .encoding import RUNS_SHARE, EncodedPart, encode_part
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
        rows: (rows,) the row of the source split that each one comes from, ascending; None where it has all of them,
            each once.
        lengths: (rows,) tokens of each.
        labels: (rows,) or (rows, classes); None where tokens have labels, or nothing has.
        first_lengths: (rows,) tokens of token type 0; None without pairs.
    """

    runs: list[SortedRun]
    rows: Array | None
    lengths: Array
    labels: Array | None
    first_lengths: Array | None


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
        spill: folder for ids that do not fit in memory; the caller removes it.
        memory_bytes: about how much a task may take.

    Raises:
        InputError: a text or label is missing or of a wrong kind, or there are no rows at all.
        ParityError: a fast engine failed, or gave other ids than `tokenizers`.
        StorageError: the disk has no room for the cache, estimated from what came first; or writing fails.
    """
    keep_bytes = KEPT_BYTES // max(len(source.splits), 1)
    labelled = selection.task != MLM and not encoder.words
    tags, in_place = Tags(source.label_names), executor.in_place
    shared = Shared(encoder, labelled, tags, spill, memory_bytes, keep_bytes, in_place, selection.max_tokens)
    splits = {
        name: [Part(stream, name, {name: None}) for stream in executor.parts(whole)]
        for name, whole in source.splits.items()
    }
    _choose(splits, source, selection, shared, executor, console)
    with console.bar("tokenizing", source.size_bytes, "B") as bar:
        parts = list(chain.from_iterable(splits.values()))
        report = _Reporting(bar, spill.parent, source.size_bytes, len(parts), shared)
        found = run_parts(executor, encode_part, shared, parts, report)
        encoded = {name: list(islice(found, len(own))) for name, own in splits.items()}
    filled = {name: [part.filled for part in own if part.filled is not None] for name, own in encoded.items()}
    left_out = {name: rows for name, masks in filled.items() if (rows := sum(int((~mask).sum()) for mask in masks))}
    done = list(chain.from_iterable(encoded.values()))
    if not any(rows.lengths for part in done for rows in part.splits.values()):
        raise InputError(f"{source.where} holds no rows{' with a text and a label' * bool(left_out)}")
    labels: dict[str, Array] = {}
    marked = None
    if encoder.words:
        task, marked = tags_task(selection.task, tags, console)
    else:
        coded = {name: [piece for part in own for piece in part.coded] for name, own in encoded.items()}
        task, labels = labels_task(selection.task, coded, source, console)
    assembled = {
        name: _assembled(name, encoded[origin], labels.get(origin))
        for origin, own in splits.items()
        for name in own[0].masks
    }
    return Encoded(task, assembled, encoder.id_type, marked, left_out, sum(part.rows_checked for part in done))


def _choose(
    splits: dict[str, list[Part]],
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
    parts = [part for name in looked for part in splits[name]]
    with console.bar("reading", source.size_bytes, "B") as bar:
        found = list(run_parts(executor, survey, shared, parts, lambda size, _: bar.update(size)))
    for tag in chain.from_iterable(seen.tags for seen in found):
        shared.tags.number(tag)
    surveys = iter(found)
    for name in looked:
        splits[name] = _settled(splits[name], list(islice(surveys, len(splits[name]))), source, selection)


def _settled(parts: list[Part], surveys: list[Survey], source: Source, selection: Selection) -> list[Part]:
    """The parts of a source split with what their surveys say."""
    name = parts[0].split
    masks: dict[str, Mask | None] = {name: None}
    if not selection.takes_all(name):
        coded = list(chain.from_iterable(seen.coded for seen in surveys))
        masks = choose_rows(name, sum(seen.rows for seen in surveys), coded, source, selection)
    settled, first = [], 0
    for part, seen in zip(parts, surveys, strict=True):
        last = first + seen.rows
        own = {held: None if mask is None else mask[first:last] for held, mask in masks.items()}
        settled.append(replace(part, masks=own, batches=seen.batches))
        first = last
    return settled


def _assembled(name: str, parts: list[EncodedPart], labels: Array | None) -> EncodedSplit:
    """A split of the cache from its rows in each part of a split of the source, which has these `labels`."""
    held = [part.splits[name] for part in parts]
    first_rows = np.cumsum([0, *(part.rows for part in parts)]).tolist()
    pieces = [piece + first for own, first in zip(held, first_rows, strict=False) for piece in own.rows]
    rows = _joined(pieces)
    filled = _joined([part.filled for part in parts if part.filled is not None])
    numbers = None if filled is None else np.flatnonzero(filled)
    if rows is not None:
        labels = None if labels is None else labels[rows]
        rows = rows if numbers is None else numbers[rows]
    lengths = _joined([piece for own in held for piece in own.lengths])
    return EncodedSplit(
        runs=[run for own in held for run in own.store.sorted_runs],
        rows=numbers if rows is None else rows,
        lengths=np.zeros(0, np.uint8) if lengths is None else lengths,
        labels=labels,
        first_lengths=_joined([piece for own in held for piece in own.first_lengths]),
    )


def _joined(pieces: list[Array]) -> Array | None:
    return np.concatenate(pieces) if pieces else None


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
        width = np.dtype(encoder.id_type).itemsize
        cache = tokens * width * max(self.total, read) // max(read, 1)
        spilled = cache if cache > self.shared.memory_bytes // RUNS_SHARE or not self.shared.in_place else 0
        free = shutil.disk_usage(self.folder).free
        if cache + spilled > free:
            needed = f"about {sized(cache + spilled)} are needed{', half of it for a while' * bool(spilled)}"
            raise StorageError(
                f"{self.folder.parent}: {needed}, and {sized(free)} are free; make room, pass --out on another disk, "
                "or a smaller --max-length"
            )
