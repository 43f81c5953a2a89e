"""Splits that are tables already: data frames, Arrow tables, datasets in memory, on the Hub or saved to a folder.

All of them pass as record batches. What they are, for the fingerprint, is a hash of their texts and labels, the same
whichever library holds them and wherever their chunks end.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from cache.common.forked import BATCH_ROWS
from cache.errors import InputError
from cache.format.checksummed_json import Json

from ..columns import (
    LABEL,
    LABELS,
    PAIR,
    TEXT,
    Columns,
    PartedStream,
    Stream,
    check_filled,
    checked_texts,
    flat_lists,
    in_split,
    is_list,
    plain,
)
from ..corpus.missing import FilledRows, noting_left_out
from ..corpus.source import Source, cache_name
from ..corpus.usual_columns import settle_columns
from ..labels.class_labels import Coded, code_batch
from ..parsing.readers import named

Classes = tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """One split.

    Attributes:
        names: its columns.
        select: some columns to a stream of the batches that hold just them.
        classes: column of labels to the names of its classes, class 0 first, where the data says them.
        parts: it in parts, in order, where it is in several files.
    """

    names: list[str]
    select: Callable[[list[str]], Stream]
    classes: Mapping[str, Classes] = field(default_factory=dict)
    parts: "tuple[Frame, ...]" = ()


def class_names(features: Mapping[str, Any]) -> dict[str, Classes]:
    """The columns that hold classes, or lists of them, and the classes' names.

    Args:
        features: of a dataset, as `datasets` describes them in JSON.
    """
    found = {}
    for column, feature in features.items():
        inner = feature[0] if isinstance(feature, list) and len(feature) == 1 else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else {}
        names = inner.get("names") if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" else None
        if names:
            found[column] = tuple(map(str, names))
    return found


def dataset_frame(rows: Any) -> Frame:
    """A `datasets.Dataset`, its order and selection of rows kept."""

    def batches(names: list[str]) -> Iterator[pa.RecordBatch]:
        for table in rows.select_columns(names).with_format("arrow").iter(BATCH_ROWS):
            yield from table.to_batches()

    return Frame(list(rows.column_names), lambda names: partial(batches, names), class_names(rows.features.to_dict()))


def split_hidden(frames: Mapping[str, Frame], columns: Columns) -> tuple[dict[str, Frame], str]:
    """Leave out the splits whose labels are all -1, the Hub's way of keeping the answers of a test split to itself.

    Returns:
        The other splits, and a line for the user, which is empty where none is left out.

    Raises:
        InputError: there is no other.
    """
    if not columns.labelled:
        return dict(frames), ""
    hidden = [split for split, frame in frames.items() if _all_hidden(frame, columns.labels[0])]
    if len(hidden) == len(frames):
        label = columns.labels[0]
        raise InputError(f"no row of {', '.join(hidden)} has a label: column {label!r} is -1 everywhere; see --label")
    note = f"left out, for its labels are not public: {', '.join(hidden)}" if hidden else ""
    return {split: frame for split, frame in frames.items() if split not in hidden}, note


def _all_hidden(frame: Frame, label: str) -> bool:
    rows = 0
    for batch in frame.select([label])() if label in frame.classes else ():
        if any(value != -1 for value in batch.column(0).to_pylist()):
            return False
        rows += batch.num_rows
    return rows > 0


def known_classes(frames: Mapping[str, Frame], columns: Columns) -> Classes | None:
    """The classes of the label, where the data says them or each has a column.

    Raises:
        InputError: the splits have different ones.
    """
    if columns.classes or not columns.labelled:
        return columns.classes
    label = columns.labels[0]
    found = {split: frame.classes.get(label) for split, frame in frames.items()}
    if len(set(found.values())) > 1:
        listed = "; ".join(f"{split}: {', '.join(names or ('none',))}" for split, names in found.items())
        raise InputError(f"the splits name the classes of column {label!r} differently ({listed}); make them the same")
    return next(iter(found.values()))


def holds_words(frames: Mapping[str, Frame], columns: Columns) -> bool:
    """Whether the texts are lists of words, by the first rows of each split."""
    first = [next(iter(frame.select([str(columns.text)])()), None) for frame in frames.values()]
    kinds = [batch.schema.types[0] for batch in first if batch is not None]
    return bool(kinds) and all(map(is_list, kinds))


def frame_stream(frame: Frame, columns: Columns, where: str) -> Stream:
    """The texts and labels of a split.

    Raises:
        InputError: the columns cannot be made into Arrow's; while reading: text is not valid UTF-8.
    """
    selected = frame.select(list(dict.fromkeys(columns.names)))

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in selected():
            batch = named(plain(batch), columns)
            try:
                batch.validate(full=True)
            except pa.ArrowInvalid as error:
                raise InputError(f"{where}: {error}") from error
            yield batch

    def cut(_: int) -> list[Stream]:
        return [frame_stream(part, columns, where) for part in frame.parts] or [batches]

    return PartedStream(batches, cut)


def frames_source(
    argument: str, name: str, frames: Mapping[str, Frame], asked: Columns, identity: Json | None = None
) -> Source:
    """A corpus of tables.

    `identity` tells them from others, such as a revision; None: a hash of their texts and labels does.

    Raises:
        InputError: a column is missing, a text or label is missing or of a wrong kind.
    """
    where = {split: f"{argument or 'the data given'}, split {split!r}" for split in frames}
    asked, note, unread = settle_columns(((frame.names, where[split]) for split, frame in frames.items()), asked)
    labelled, hidden = split_hidden(frames, asked)
    classes = known_classes(labelled, asked)
    streams = {split: frame_stream(frame, asked, where[split]) for split, frame in labelled.items()}
    digests = {}
    for split, stream in streams.items() if identity is None else ():
        read = FilledRows(stream) if asked.drop_missing else stream
        with noting_left_out(asked.drop_missing):
            digests[split] = digest(split, read)
    tables = [{"split": split, "rows": found.rows, "sha256": found.sha256} for split, found in digests.items()]
    own = {"kind": "tables", "tables": tables} if identity is None else {**identity, "splits": list(labelled)}
    return Source(
        argument=argument,
        name=cache_name(name),
        identity={**own, **asked.identity},
        splits=streams,
        label_names=classes,
        pair=asked.pair is not None,
        words=holds_words(labelled, asked),
        size_bytes=sum(found.bytes for found in digests.values()),
        note="; ".join(filter(None, (hidden, note))),
        unread=unread,
    )


@dataclass(frozen=True)
class Digest:
    """What a stream holds: its rows, their bytes in memory, and a sha256 over texts and labels."""

    rows: int
    bytes: int
    sha256: str


def digest(split: str, stream: Stream) -> Digest:
    """Read a stream to its end.

    Raises:
        BadDataError: a text or label is missing or of a wrong kind.
    """
    parts = {name: hashlib.sha256() for name in (TEXT, f"{TEXT} bytes", PAIR, f"{PAIR} bytes", "labels", "counts")}
    rows = size = 0
    for batch in stream():
        with in_split(split, rows):
            _add_batch(parts, batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if isinstance(stream, FilledRows):
        parts["numbers"] = hashlib.sha256(np.flatnonzero(stream.filled).astype("<i8").tobytes())
    listed = json.dumps({name: part.hexdigest() for name, part in parts.items()})
    return Digest(rows, size, hashlib.sha256(listed.encode()).hexdigest())


def _add_batch(parts: dict[str, Any], batch: pa.RecordBatch) -> None:
    """Add the texts and labels of a batch to the hashes of each."""
    for name in (TEXT, PAIR):
        if name not in batch.schema.names:
            continue
        texts = batch.column(name)
        if is_list(texts.type):
            check_filled(texts)
            counts, texts = flat_lists(texts, "word")
            parts[name].update(counts.astype("<i8").tobytes())
        lengths, data = _text_bytes(checked_texts(texts))
        parts[name].update(lengths)
        parts[f"{name} bytes"].update(data)
    if {LABEL, LABELS} & {*batch.schema.names}:
        coded = code_batch(batch)
        parts["labels"].update(_label_bytes(coded))
        if coded.counts is not None:
            parts["counts"].update(coded.counts.astype("<i8").tobytes())


def _text_bytes(texts: pa.Array) -> tuple[bytes, memoryview]:
    """Bytes of each text, as 64-bit numbers, and the texts end to end."""
    if not len(texts):
        return b"", memoryview(b"")
    _, offsets, data = texts.buffers()
    kind = np.dtype("<i8" if pa.types.is_large_string(texts.type) else "<i4")
    ends = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1].astype("<i8")
    held = memoryview(data if data is not None else b"")[int(ends[0]) : int(ends[-1])]
    return np.diff(ends).tobytes(), held


def _label_bytes(coded: Coded) -> bytes:
    """A line a label."""
    lines = [json.dumps(value, default=repr).encode() + b"\n" for value in coded.values]
    return b"".join([lines[code] for code in coded.codes.tolist()])
