"""Small caches, written row by row through the writer alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import Cache, PlanSpec, open_cache
from cache.common.arrays import Array
from cache.common.folder import Folder
from cache.format import files as listed
from cache.format.manifest import Manifest, ShardInfo, SplitInfo, TokenizerInfo, fingerprint_of
from cache.format.tasks import Task
from cache.writing.publishing import publish, staging
from cache.writing.writer import ShardColumns, write_manifest, write_shard

from .corpora import WORDS
from .tokenizers import SPECIALS, write_tokenizer


def file_info(path: Path) -> listed.FileInfo:
    """Name, size and checksum of a file."""
    with Folder.open(path.parent) as folder:
        return listed.file_info(folder, path.name)


def write_cache(
    place: Path,
    splits: dict[str, int],
    *,
    seed: int = 0,
    classes: tuple[str, ...] = ("neg", "pos"),
    max_length: int = 48,
    shards: int = 1,
    lengths: Array | None = None,
    padding_side: str = "right",
    vocab_size: int = len(SPECIALS) + len(WORDS),
) -> Cache:
    """Write a cache of random rows with a real tokenizer, through the writer alone.

    Labels can be learned: a row of class c holds mostly words number c, c + classes, c + 2 classes, …
    A larger vocabulary spreads the words' ids over all of it.
    """
    random = np.random.default_rng(seed)
    infos = {}
    with staging(place) as folder:
        for name, rows in splits.items():
            sizes = np.sort(random.integers(3, max_length + 1, rows)) if lengths is None else lengths
            labels = random.integers(0, len(classes), rows)
            ids = [_row(random, int(size), int(label), len(classes)) for size, label in zip(sizes, labels, strict=True)]
            ids = [_spread(row, vocab_size) for row in ids]
            source_rows = random.permutation(rows)
            parts = []
            for index, part in enumerate(np.array_split(np.arange(rows), shards)):
                flat = np.concatenate([_spread(np.zeros(0), vocab_size), *(ids[row] for row in part)])
                columns = ShardColumns(flat, sizes[part], source_rows[part], labels[part])
                parts.append(write_shard(folder, name, index, columns))
            infos[name] = split_info(sizes, parts)
        facts = {"fingerprint": fingerprint_of({"seed": seed, "splits": splits}), "max_length": max_length}
        publish_toy(folder, place, infos, Task("classification", classes), padding_side, vocab_size, **facts)
    return open_cache(place)


def split_info(lengths: Array, shards: Sequence[ShardInfo]) -> SplitInfo:
    """What a manifest says of a split with rows of these ascending lengths."""
    shortest, longest = (int(lengths[0]), int(lengths[-1])) if len(lengths) else (0, 0)
    histogram = tuple(np.bincount(lengths).tolist())
    return SplitInfo(len(lengths), int(lengths.sum()), shortest, longest, histogram, tuple(shards))


def publish_toy(
    folder: Folder,
    place: Path,
    splits: dict[str, SplitInfo],
    task: Task,
    padding_side: str = "right",
    vocab_size: int = len(SPECIALS) + len(WORDS),
    **facts: Any,
) -> None:
    """Write tokenizer and manifest beside the shards in `folder`, and publish all as the cache at `place`."""
    write_tokenizer(folder.path / "tokenizer")
    files = tuple(file_info(path) for path in sorted((folder.path / "tokenizer").iterdir()))
    manifest = Manifest(
        name=place.name,
        source={"kind": "toy", "argument": "toy.csv"},
        tokenizer=TokenizerInfo("toy", None, files[0].sha256, vocab_size, 0, padding_side, files),
        task=task,
        plan=PlanSpec("smart", 8),
        splits=splits,
        created="2026-01-01T00:00:00Z",
        **facts,
    )
    write_manifest(folder, manifest)
    publish(folder, place)


def _row(random: np.random.Generator, size: int, label: int, classes: int) -> Array:
    words = random.integers(0, len(WORDS) // classes, size - 2) * classes + label
    noise = random.integers(0, len(WORDS), size - 2)
    chosen = np.where(random.random(size - 2) < 0.8, words, noise) + len(SPECIALS)
    return np.concatenate([[2], chosen, [3]])


def _spread(ids: Array, vocab_size: int) -> Array:
    """Ids of the small vocabulary spread over one of `vocab_size`, in the type it is stored in."""
    stored = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    return (ids * (vocab_size // (len(SPECIALS) + len(WORDS)))).astype(stored)
