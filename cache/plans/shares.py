"""How a batch is shared out among ranks and accumulation steps, so that ranks hardly wait and little is padded.

With R ranks and A accumulation steps, the rows of a batch go into R x A parts; rank r computes part a*R + r at
micro-step a. Parts are numbered by cost, the costliest first, so that those of one micro-step cost about the same.

Shapes: N rows of M batches, end to end, ascending in length within a batch; P parts.
"""

from collections.abc import Callable

import numpy as np

from ..common.arrays import Array


def attention_length(hidden: int, intermediate: int) -> int:
    """Length of a row, tokens, at which attention takes as many operations as the linear layers of a model of these
    widths do."""
    return 2 * hidden + intermediate


ATTENTION_LENGTH = attention_length(768, 3072)
"""That of BERT-base."""

Divide = Callable[[Array, Array, int], Array]
"""Takes the cost of each row (N,), ascending within a batch, the rows of each batch (M,) and P; gives the part of each
row (N,). No part is empty while another has two rows, and the empty ones are the last."""


def row_costs(widths: Array, length: int = ATTENTION_LENGTH) -> Array:
    """(N,) int64, 1 or more: operations of linear layers and attention for a row of so many columns, in units of their
    own; in integers, so that all machines share alike. `length` is the model's `attention_length`."""
    columns = np.maximum(widths.astype(np.int64), 1)
    costs: Array = columns * (length + columns)
    return costs


def divide_by(packed: bool, equal_rows: bool = False) -> Divide:
    """How batches are divided: padded or packed, or whatever they are into equally many rows."""
    return equal_parts if equal_rows else packed_parts if packed else padded_parts


def padded_parts(costs: Array, sizes: Array, parts: int) -> Array:
    """Contiguous slices of each batch, cut so that the costliest is as cheap as can be. A slice costs its rows x the
    cost of its longest; no other partition, contiguous or not, has a cheaper costliest part."""
    ends = np.cumsum(sizes)
    longest, total = costs[ends - 1], np.add.reduceat(costs, ends - sizes)
    low = np.maximum(longest, -(-total // parts))
    high = -(-sizes // parts) * longest  # parts of equally many rows cost no more
    unsure = np.flatnonzero(low < high)
    while len(unsure):
        middle = (low[unsure] + high[unsure]) // 2
        fits = _slices(costs, ends[unsure], sizes[unsure], parts, middle).sum(axis=1) == sizes[unsure]
        high[unsure[fits]], low[unsure[~fits]] = middle[fits], middle[~fits] + 1
        unsure = unsure[low[unsure] < high[unsure]]
    counts = _slices(costs, ends, sizes, parts, high)
    tops = ends[:, None] - 1 - np.cumsum(counts, axis=1) + counts  # of an empty slice some other row, which counts 0
    numbers = _numbered(counts * costs[tops])
    upward = slice(None, None, -1)  # from the shortest rows up, as rows lie
    return np.repeat(numbers[:, upward].ravel(), counts[:, upward].ravel())


def _slices(costs: Array, ends: Array, sizes: Array, parts: int, limits: Array) -> Array:
    """(M, P) rows of each slice, from a batch's longest row down, as many as cost no more than a limit; but each later
    slice is left a row where there are enough. Rows that fit into no slice are left out."""
    counts = np.empty((len(ends), parts), np.int64)
    left = sizes.copy()
    for part in range(parts):
        longest = costs[ends - 1 - (sizes - left) * (left > 0)]
        fitting = np.minimum(limits // longest, left - (parts - 1 - part))
        counts[:, part] = np.maximum(fitting, left > 0)
        left -= counts[:, part]
    return counts


def packed_parts(costs: Array, sizes: Array, parts: int) -> Array:
    """Each row, the costliest first, goes where least has gone so far (Graham 1969, longest processing time first);
    then the costliest and the cheapest part exchange rows as long as it helps. A part costs the sum of its rows."""
    ends, loads = np.cumsum(sizes), np.zeros((len(sizes), parts), np.int64)
    found = np.empty(len(costs), np.int64)
    largest_first = np.argsort(-sizes, kind="stable")
    batches_with = len(sizes) - np.cumsum(np.bincount(sizes))  # more than so many rows
    for place, count in enumerate(batches_with[:-1].tolist()):
        batches = largest_first[:count]
        rows = ends[batches] - 1 - place
        lightest = loads[batches].argmin(axis=1)
        loads[batches, lightest] += costs[rows]
        found[rows] = lightest
    batch = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(MOST_EXCHANGES):
        if not _exchange(costs, batch, found, loads):
            break
    return _numbered(loads)[batch, found]


MOST_EXCHANGES = 32
"""Most exchanges in a batch: all that help among 8 ranks, and most of the gain among 64."""


def _exchange(costs: Array, batch: Array, found: Array, loads: Array) -> bool:
    """In each batch, give a row of the costliest part to the cheapest, for one of its rows or for none, so that their
    costs come as near to each other as one such exchange can bring them; whether there was one anywhere.

    Args:
        costs, batch: (N,) of each row.
        found: (N,) the part of each row; changed in place.
        loads: (M, P) cost of each part; changed in place.
    """
    heavy, light = loads.argmax(axis=1), loads.argmin(axis=1)  # (M,)
    gaps = loads.max(axis=1) - loads.min(axis=1)
    given = np.flatnonzero((found == heavy[batch]) & (gaps[batch] > 1))
    taken = np.flatnonzero(found == light[batch])  # rows of a batch lie end to end, by cost
    of, cost, gap = batch[given], costs[given], gaps[batch[given]]
    span = int(costs.max()) + 1
    wanted = of * span + np.maximum(cost - gap // 2, 0)
    after = np.searchsorted(batch[taken] * span + costs[taken], wanted)
    best, partner = gap.copy(), np.full(len(given), -1)
    for place in (after - 1, after):  # of the cheapest part the rows around the cost wanted; before its first, no row
        row = taken.take(place, mode="clip") if len(taken) else place
        exists = (place >= 0) & (place < len(taken))
        exists &= batch.take(row, mode="clip") == of
        moved = cost - np.where(exists, costs.take(row, mode="clip"), 0)
        better = (moved > 0) & (np.abs(2 * moved - gap) < best)
        best = np.where(better, np.abs(2 * moved - gap), best)
        partner = np.where(better, np.where(exists, row, -1), partner)
    helps = np.flatnonzero(best < gap)
    helps = helps[np.lexsort((best[helps], of[helps]))]
    chosen = helps[np.diff(of[helps], prepend=-1) > 0]  # in each batch the best
    there, back, of = given[chosen], partner[chosen], of[chosen]
    moved = cost[chosen] - np.where(back < 0, 0, costs[back])
    found[there] = light[of]
    found[back[back >= 0]] = heavy[of[back >= 0]]
    loads[of, heavy[of]] -= moved
    loads[of, light[of]] += moved
    return len(chosen) > 0


def _numbered(costs: Array) -> Array:
    """(M, P) the number of each part: its place among the parts of its batch, the costliest first."""
    return np.argsort(np.argsort(-costs, axis=1, kind="stable"), axis=1)


def equal_parts(costs: Array, sizes: Array, parts: int) -> Array:
    """Every P-th row from the longest down: as many rows in one part as in another, give or take one."""
    places = np.repeat(np.cumsum(sizes), sizes) - 1 - np.arange(len(costs))
    return places % parts
