"""Contiguous slices out of a list that shrinks, in n log n: the heart of the plans called `smart`."""

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt


def slice_batches(rows: int, batch_size: int, starts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cut 0..rows-1 into batches, each a contiguous slice of what remains of the list (Benesty 2020; McCormick 2020).

    The naive way deletes each slice from one list, which costs N per batch. Here the list lies in leaves of a few
    thousand rows under a Fenwick tree of their sizes: finding a position costs log N, deleting moves one leaf.

    Args:
        rows: N.
        batch_size: rows of a batch; the last one takes what is left.
        starts: (M,) for each batch the first position of its slice in what remains, in place.

    Returns:
        (N,) the batches' rows end to end.
    """
    code = "I" if rows <= 1 << 32 else "q"
    every = np.arange(rows, dtype=np.uint32 if code == "I" else np.int64)
    leaves = [array(code, every[i : i + _LEAF].tobytes()) for i in range(0, rows, _LEAF)]
    tree = _Sizes([len(leaf) for leaf in leaves])
    taken = array(code)
    for start in starts.tolist():
        missing = min(batch_size, rows - len(taken))
        while missing:
            index, position = tree.find(start)
            part = leaves[index][position : position + missing]
            taken.extend(part)
            del leaves[index][position : position + missing]
            tree.subtract(index, len(part))
            missing -= len(part)
    return np.frombuffer(taken, dtype=every.dtype)


_LEAF = 4096
"""Rows of a leaf: a deletion moves half of one, some 8 kB."""


class _Sizes:
    """A Fenwick tree (Fenwick 1994) over the sizes of the leaves."""

    def __init__(self, sizes: list[int]) -> None:
        self.count = len(sizes)
        self.top = 1 << (self.count.bit_length() - 1)
        self.sums = [0, *sizes]
        for node in range(1, self.count + 1):
            parent = node + (node & -node)
            if parent <= self.count:
                self.sums[parent] += self.sums[node]

    def find(self, position: int) -> tuple[int, int]:
        """The leaf that holds the element at `position` of the whole, and its position in that leaf."""
        node, step, sums = 0, self.top, self.sums
        while step:
            child = node + step
            if child <= self.count and sums[child] <= position:
                node = child
                position -= sums[child]
            step >>= 1
        return node, position

    def subtract(self, leaf: int, amount: int) -> None:
        node, sums = leaf + 1, self.sums
        while node <= self.count:
            sums[node] -= amount
            node += node & -node
