"""Truncation of two texts in one row, by the rule of `tokenizers`: the longer text gives way first.

`tokenizers` itself keeps what it cuts off, and of two texts every combination of the pieces: half a gigabyte for two
texts of 5,000 tokens in a row of 128. So pairs are encoded whole, and truncated here.
"""

from typing import Any

import numpy as np

from .arrays import Array


def longest_first(firsts: Array, seconds: Array, most: int) -> tuple[Array, Array]:
    """What is kept of two texts of `firsts` and `seconds` tokens (N,), so that together they have at most `most`.

    The rule of `tokenizers`: the longer one gives way until both are equal, then both; an odd token is the longer's.
    """
    short, long = np.minimum(firsts, seconds), np.maximum(firsts, seconds)
    long = np.minimum(long, np.maximum(short, most - short))
    halved = short + long > most
    short, long = np.where(halved, most // 2, short), np.where(halved, most - most // 2, long)
    swapped = firsts > seconds
    fits = firsts + seconds <= most
    kept = np.where(swapped, long, short), np.where(swapped, short, long)
    return np.where(fits, firsts, kept[0]), np.where(fits, seconds, kept[1])


def truncated_pair(encoding: Any, max_length: int, left: bool) -> tuple[Array, Array]:
    """(tokens,) uint32 ids and (tokens,) token types of a pair.

    Args:
        encoding: of `tokenizers`, without truncation.
        max_length: tokens to keep at most, special tokens included.
        left: whether truncation drops tokens on the left of each text.
    """
    ids, types = np.array(encoding.ids, np.uint32), np.array(encoding.type_ids)
    if len(ids) <= max_length:
        return ids, types
    texts = np.array([-1 if text is None else text for text in encoding.sequence_ids])  # -1 at special tokens
    kept = texts < 0
    places = [np.flatnonzero(texts == text) for text in (0, 1)]
    counts = longest_first(np.array(len(places[0])), np.array(len(places[1])), max_length - int(kept.sum()))
    for place, count in zip(places, map(int, counts), strict=True):
        kept[place[len(place) - count :] if left else place[:count]] = True
    return ids[kept], types[kept]
