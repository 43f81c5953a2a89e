"""A source's rows: which split each goes to, their ids sorted into runs, their classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from cache.plans import Ints

from .files import LABEL, TEXT, Stream
from .labels import Coded, code_labels, resolve_classes
from .progress import Reporter
from .runs import RunStore, sort_run
from .select import Mask, held_out, limit_rows
from .sources import Source
from .tokenize import Encoder

if TYPE_CHECKING:
    import pyarrow as pa

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
    """
    runs: dict[str, RunStore] = {}
    pieces: dict[str, list[Coded]] = {}
    origin: dict[str, str] = {}
    with reporter.bar("tokenizing", source.size_bytes, "B") as bar:
        for split, stream in source.splits.items():
            batches, routes = _routes(split, stream, source, holdout, limit)
            for name in routes:
                runs[name] = RunStore(spill / name, memory_bytes // 4)
                origin[name] = split
            pieces[split], first_row = [], 0
            for batch in batches:
                pieces[split].append(code_labels(batch.column(LABEL), split, first_row))
                for name, mask in routes.items():
                    _encode(batch, split, first_row, mask, encoder, runs[name])
                first_row += batch.num_rows
                bar.update(batch.nbytes)
    if not any(store.runs for store in runs.values()):
        raise InputError(f"{source.argument} holds no rows")
    names, classes = resolve_classes(pieces, source.label_names)
    return Encoded(names, runs, {name: classes[split] for name, split in origin.items()})


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
    return batches, {split: chosen & ~test, "test": test}


def _encode(
    batch: "pa.RecordBatch", split: str, first_row: int, mask: Mask | None, encoder: Encoder, store: RunStore
) -> None:
    """Encode the rows of a batch that belong to a split, as one run."""
    import pyarrow as pa

    texts = batch.column(TEXT)
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if texts.null_count:
        row = first_row + texts.is_null().to_numpy(zero_copy_only=False).argmax()
        raise InputError(f"row {row} of split {split!r} (counted from 0) has no text")
    if len(texts) and not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise InputError(f"the text column of split {split!r} holds {texts.type}, expected text; see --text")
    rows = np.arange(first_row, first_row + batch.num_rows)
    if mask is not None:
        part = mask[first_row : first_row + batch.num_rows]
        texts, rows = texts.filter(pa.array(part)), rows[part]
    if not len(rows):
        return
    ids, lengths = encoder.encode(texts.to_pylist())
    store.add(sort_run(ids.astype(id_type(encoder.vocab_size)), lengths, rows))


def id_type(vocab_size: int) -> type[Any]:
    """The type that ids below `vocab_size` are stored in."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32
