"""A source's rows: which split each goes to, their ids sorted into runs, their classes."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError, StorageError
from cache.plans import Ints

from .arrow import kept
from .corpus import Source
from .files import LABEL, TEXT, Stream
from .labels import Coded, code_labels, resolve_classes
from .progress import Reporter
from .runs import RunStore, sort_run
from .select import Mask, held_out, limit_rows
from .tokenize import Encoder

if TYPE_CHECKING:
    import pyarrow as pa

RUNS_SHARE = 16
"""Ids of a split may take 1/16 of a build's memory; the engine's caches, a shard and the text under way take more."""

KEPT_BYTES = 256 * 1024 * 1024
"""A split up to this size is kept in memory between choosing its rows and encoding them."""


@dataclass(frozen=True)
class Encoded:
    """All rows of a source, encoded.

    Attributes:
        label_names: the classes, class 0 first.
        runs: split of the cache to its runs.
        classes: split of the cache to (source rows,) the class of each row of the source split it comes from.
    """

    label_names: tuple[str, ...]
    runs: dict[str, RunStore]
    classes: dict[str, Ints]


def encode_source(
    source: Source,
    encoder: Encoder,
    holdout: float,
    limit: int | None,
    spill: Path,
    memory_bytes: int,
    reporter: Reporter,
) -> Encoded:
    """Read a source from end to end, once where no rows are chosen, and encode it.

    Args:
        source: what to read.
        encoder: the tokenizer.
        holdout: fraction of split `train` that becomes `test`.
        limit: most rows of each source split.
        spill: folder for ids that do not fit in memory; the caller removes it.
        memory_bytes: about how much the build may take.
        reporter: for the progress bar.

    Raises:
        InputError: a text or label is missing or of a wrong kind, or there are no rows at all.
        StorageError: the disk has no room for the cache, by what its first piece takes; or it refuses.
    """
    runs: dict[str, RunStore] = {}
    pieces: dict[str, list[Coded]] = {}
    origin: dict[str, str] = {}
    read_bytes = 0
    with reporter.bar("tokenizing", source.size_bytes, "B") as bar:
        for split, stream in source.splits.items():
            batches, routes = _routes(split, stream, source, holdout, limit)
            for name in routes:
                runs[name] = RunStore(spill / name, memory_bytes // RUNS_SHARE)
                origin[name] = split
            pieces[split], first_row = [], 0
            for batch in batches:
                pieces[split].append(code_labels(batch.column(LABEL), split, first_row))
                for name, mask in routes.items():
                    _encode(batch, split, first_row, mask, encoder, runs[name])
                first_row += batch.num_rows
                read_bytes += batch.nbytes
                if read_bytes == batch.nbytes:
                    _check_room(spill.parent, runs, read_bytes, source.size_bytes, memory_bytes)
                bar.update(batch.nbytes)
    encoder.settle()
    if not any(store.runs for store in runs.values()):
        raise InputError(f"{source.argument} holds no rows")
    names, classes = resolve_classes(pieces, source.label_names)
    for line in _oddities(names, classes):
        reporter.say(f"warning: {line}")
    return Encoded(names, runs, {name: classes[split] for name, split in origin.items()})


def _check_room(folder: Path, runs: dict[str, RunStore], read: int, total: int, memory_bytes: int) -> None:
    """Compare the free disk with what the whole source will take, going by its first piece."""
    made = sum(store.held_bytes + (store.file.size if store.file else 0) for store in runs.values())
    cache = made * max(total, read) / max(read, 1)
    spilled = cache if cache > memory_bytes // RUNS_SHARE else 0
    free = shutil.disk_usage(folder).free
    if cache + spilled > free:
        raise StorageError(
            f"{folder.parent}: about {(cache + spilled) / 1e6:,.0f} MB are needed, half of it for a while, and "
            f"{free / 1e6:,.0f} MB are free; make room, pass --out on another disk, or a smaller --max-length"
        )


def _routes(
    split: str, stream: Stream, source: Source, holdout: float, limit: int | None
) -> tuple[Iterator["pa.RecordBatch"], dict[str, Mask | None]]:
    """The batches of a source split, and for each split of the cache that comes from it the rows it takes.

    Choosing rows takes their labels beforehand, so the split is then read twice, or kept where it is small.
    """
    if not holdout and limit is None:
        return stream(), {split: None}
    kept: list[pa.RecordBatch] | None = []
    coded, rows, size = [], 0, 0
    for batch in stream():
        coded.append(code_labels(batch.column(LABEL), split, rows))
        rows += batch.num_rows
        size += batch.nbytes
        if kept is not None:
            kept.append(batch)
            kept = kept if size <= KEPT_BYTES else None
    chosen = limit_rows(rows, limit)
    batches = iter(kept) if kept is not None else stream()
    if not holdout:
        return batches, {split: chosen}
    _, classes = resolve_classes({split: coded}, source.label_names)
    test = held_out(classes[split], chosen, holdout)
    train = chosen & ~test
    if rows and not (test.any() and train.any()):
        raise InputError(
            f"a holdout of {holdout} of {int(chosen.sum()):,} rows, taken from each class, leaves no row to "
            f"{'train' if test.any() else 'test'}; pass --holdout 0 or another fraction"
        )
    return batches, {split: train, "test": test}


def _encode(
    batch: "pa.RecordBatch", split: str, first_row: int, mask: Mask | None, encoder: Encoder, store: RunStore
) -> None:
    """Encode the rows of a batch that belong to a split, as one run."""

    texts, rows = _texts(batch.column(TEXT), split, first_row), np.arange(first_row, first_row + batch.num_rows)
    if mask is not None:
        part = mask[first_row : first_row + batch.num_rows]
        texts, rows = kept(texts, part), rows[part]
    if not len(rows):
        return
    ids, lengths = encoder.encode(texts.to_pylist())
    if not lengths.all():
        raise InputError(
            f"row {rows[np.argmin(lengths)]} of split {split!r} (counted from 0) has no tokens: its text is empty, and "
            "the tokenizer adds no special tokens; remove the row"
        )
    store.add(sort_run(ids.astype(id_type(encoder.vocab_size)), lengths, rows))


def _texts(texts: "pa.Array", split: str, first_row: int) -> "pa.Array":
    import pyarrow as pa

    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if texts.null_count:
        row = first_row + texts.is_null().to_numpy(zero_copy_only=False).argmax()
        raise InputError(f"row {row} of split {split!r} (counted from 0) has no text; fill it in or remove the row")
    kind = texts.type
    if len(texts) and not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"the text column of split {split!r} holds {kind}, expected text; see --text")
    return texts


def _oddities(names: tuple[str, ...], classes: dict[str, Ints]) -> Iterator[str]:
    """What is allowed, but rarely meant."""
    rows = sum(map(len, classes.values()))
    if len(names) == 1:
        yield f"all rows have the label {names[0]!r}: there is nothing to learn"
    elif len(names) > max(100, rows // 2):
        yield f"{len(names):,} classes in {rows:,} rows; if that is not the label column, name it with --label"
    if len(classes.get("train", ())):
        absent = np.flatnonzero(np.bincount(classes["train"], minlength=len(names)) == 0).tolist()
        if absent:
            more = f" and {len(absent) - 5:,} more" if len(absent) > 5 else ""
            yield f"no row of 'train' has the label {', '.join(repr(names[number]) for number in absent[:5])}{more}"


def id_type(vocab_size: int) -> type[Any]:
    """The type that ids below `vocab_size` are stored in."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32
