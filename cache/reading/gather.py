"""Where rows lie in their shards, and their tokens end to end: for many rows at once, looping over shards only."""

from dataclasses import dataclass

import numpy as np

from ..common.arrays import Array
from ..format.labels import for_model
from ..format.tasks import IGNORED
from .padding import gather_rows
from .split_reader import SplitReader


@dataclass(frozen=True)
class Located:
    """Where N rows lie.

    Attributes:
        shards: (N,) the shard of each row.
        begins: (N,) int64, position of its first token in that shard.
        labels: (N,) or (N, C), as a loss takes it, see `for_model`; None where rows have no label of their own.
        first_lengths: (N,) its tokens of token type 0; None where the cache holds no pairs.
    """

    shards: Array
    begins: Array
    labels: Array | None
    first_lengths: Array | None


def distinct(numbers: Array) -> list[int]:
    """The distinct values of small numbers of 0 or more, ascending. `np.unique` would import numpy.ma: 7 ms."""
    return np.flatnonzero(np.bincount(numbers)).tolist()


def locate(split: SplitReader, rows: Array) -> Located:
    """Find rows by their numbers, (N,) int64 in any order."""
    task = split.task
    own = task.labelled and not task.per_token
    names = ("offsets", *(("labels",) if own else ()), *(("first_lengths",) if task.pair else ()))
    shards = split.shards_of(rows)
    first = split.shard(int(shards[0]))
    found = {name: np.empty((len(rows), *first[name].shape[1:]), first[name].dtype) for name in names}
    for shard in distinct(shards):
        chosen = shards == shard
        tensors, local = split.shard(shard), rows[chosen] - split.first_rows[shard]
        for name in names:
            found[name][chosen] = tensors[name][local]
    labels = for_model(found["labels"]) if own else None
    return Located(shards, found["offsets"], labels, found.get("first_lengths"))


def check_once(split: SplitReader, found: Located, lengths: Array) -> None:
    """Check the ids of rows, (N,) tokens long, each piece of a shard the first time a row of it is read.

    Raises:
        CorruptCacheError: an id is outside the vocabulary.
    """
    for shard in distinct(found.shards):
        chosen = found.shards == shard
        begins = found.begins[chosen]
        tokens = split.shard(shard)["input_ids"]
        checked = split.checked.setdefault(shard, np.zeros(-(-len(tokens) // _PIECE) + 1, bool))
        firsts, lasts = begins // _PIECE, (begins + np.maximum(lengths[chosen], 1) - 1) // _PIECE
        for piece in distinct(np.concatenate([firsts, lasts])):
            if not checked[piece]:
                split.check_ids(tokens[piece * _PIECE : (piece + 1) * _PIECE])
                checked[piece] = True


_PIECE = 1 << 20
"""Tokens checked at once: no row is longer (`MAX_LENGTH` of the manifest), so each lies in at most two pieces."""


def flat_tokens(split: SplitReader, found: Located, lengths: Array, name: str = "input_ids") -> Array:
    """The tokens of rows, (N,) tokens long, end to end, as stored: (T,) uint16 or uint32; with `name` "labels", which
    each token then has, int8 or int16.

    Raises:
        CorruptCacheError: an id is outside the vocabulary.
    """
    ends = np.cumsum(lengths)
    positions = np.arange(int(ends[-1])) + np.repeat(found.begins - (ends - lengths), lengths)
    used = distinct(found.shards)
    tokens = split.shard(used[0])[name]
    if len(used) == 1:
        flat: Array = tokens[positions]
    else:
        flat = np.empty(len(positions), tokens.dtype)
        owner = np.repeat(found.shards, lengths)
        for shard in used:
            mine = owner == shard
            flat[mine] = split.shard(shard)[name][positions[mine]]
    if name == "input_ids":
        split.check_ids(flat)
    return flat


def padded_rows(
    split: SplitReader, rows: Array, lengths: Array, width: int, left: bool = False, name: str = "input_ids"
) -> Array:
    """Rows padded to a rectangle; their ids are not checked, see `check_once`.

    Args:
        rows: (B,) row numbers, ascending.
        lengths: (B,) their lengths.
        width: W, at least the longest.
        name: "input_ids", or "labels" where each token has one.

    Returns:
        (B, W) ids as stored, padded with the tokenizer's pad id; or labels, padded with -100.
    """
    fill = split.tokenizer.pad_id if name == "input_ids" else IGNORED
    parts = []
    for index in distinct(split.shards_of(rows)):
        chosen = slice(*np.searchsorted(rows, split.first_rows[index : index + 2]))
        tensors, local = split.shard(index), rows[chosen] - split.first_rows[index]
        parts.append(gather_rows(tensors[name], tensors["offsets"][local], lengths[chosen], width, fill, left))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
