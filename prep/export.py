"""Export of a split as a `datasets.Dataset`, whose ids are mapped from the cache, not copied."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cache import Split
from cache.errors import InputError
from cache.reading.split_reader import expect_split

if TYPE_CHECKING:
    import datasets


def to_dataset(split: Split) -> "datasets.Dataset":
    """The rows of a split, in ascending length, as transformers' Trainer and collators take them.

    Args:
        split: of an open cache.

    Returns:
        A dataset with the columns `input_ids` (lists of uint16 or uint32, read from the cache's files as they are
        used), in a cache of pairs `token_type_ids`, `labels` (classes with their names; float32; for several labels
        a row float32 0 or 1 for each class; or for tokens a list of int64 classes, -100 for none), and `source_row`,
        the row's index in the source split. There is no mask: collators make it as they pad.

    Raises:
        InputError: `split` is not a split, or the package `datasets` is not installed.
        CorruptCacheError: the split holds an id that its vocabulary lacks, or other wrong content.

    Example:
        train = to_dataset(open_cache("cache/imdb")["train"])
    """
    expect_split(split)
    try:
        import datasets
    except ImportError:
        raise InputError(
            "to_dataset needs the package datasets, which is not installed; run: pip install datasets"
        ) from None
    features = _features(split)
    schema = features.arrow_schema
    tables = [pa.Table.from_arrays(columns, schema=schema) for columns in _shards(split)]
    identity = f"{split.fingerprint} {split.name} to_dataset"
    return datasets.Dataset(
        pa.concat_tables(tables) if tables else schema.empty_table(),
        info=datasets.DatasetInfo(features=features),
        split=datasets.NamedSplit(split.name),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],  # else it would pickle all rows to hash them
    )


def _features(split: Split) -> "datasets.Features":
    from datasets import ClassLabel, Features, List, Value

    task = split.task
    ids = "uint16" if split.tokenizer.vocab_size <= 1 << 16 else "uint32"
    labels = {
        "classification": lambda: ClassLabel(names=list(task.label_names)),
        "regression": lambda: Value("float32"),
        "multi-label": lambda: List(Value("float32"), length=len(task.label_names)),
        "token-classification": lambda: List(Value("int64")),
    }
    own = {"labels": labels[task.kind]()} if task.labelled else {}
    types = {"token_type_ids": List(Value("int8"))} if task.pair else {}
    return Features({"input_ids": List(Value(ids)), **types, **own, "source_row": Value("int64")})


def _shards(split: Split) -> Iterator[list[pa.Array]]:
    """The columns of each shard; what has the type of a column is not copied."""
    for tensors in split.shards():
        split.check_ids(tensors["input_ids"])
        offsets = tensors["offsets"]
        ends = pa.array(offsets.astype(np.int32))  # a shard is far below 2^31 tokens
        columns = [pa.ListArray.from_arrays(ends, pa.array(tensors["input_ids"]))]
        if split.task.pair:
            firsts = tensors["first_lengths"]
            counts = np.stack([firsts, np.diff(offsets) - firsts], axis=1)  # tokens of type 0 and of type 1
            types = np.repeat(np.tile(np.array([0, 1], np.int8), len(firsts)), counts.ravel())
            columns.append(pa.ListArray.from_arrays(ends, pa.array(types)))
        if split.task.labelled:
            labels = tensors["labels"]
            if split.task.per_token:
                columns.append(pa.ListArray.from_arrays(ends, pa.array(labels.astype(np.int64))))
            elif labels.ndim == 2:
                flat = pa.array(labels.astype(np.float32).ravel())
                columns.append(pa.FixedSizeListArray.from_arrays(flat, labels.shape[1]))
            else:
                columns.append(pa.array(labels))
        yield [*columns, pa.array(tensors["source_rows"])]
