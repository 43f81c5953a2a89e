"""Padded tensors from mapped shards with numpy, a block of rows of one length at a time.

Shapes: B rows, W columns, N rows of a chunk of steps.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..common.arrays import Array
from ..format.labels import token_types
from ..format.tasks import IGNORED
from ..reading.gather import Located, check_once, distinct, locate, padded_rows
from ..reading.padding import row_mask
from ..reading.split_reader import SplitReader
from .batch import Batch
from .micro_batches import MicroBatches
from .options import PaddingOptions
from .transfer import to_device

MOST_BLOCKS = 6
"""A batch of more blocks than this, each of rows of one length, is gathered token by token."""


class _Blocks:
    """Blocks of neighboring rows of one length within micro-batches. On disk such rows form one rectangle, so a whole
    block is copied at once.

    Attributes:
        first: (M+1,) the first block of each micro-batch.
        starts: the first row of each block, then the number of rows.
        positions: (N,) each row's position in the rectangle of its block.
    """

    def __init__(self, split: SplitReader, chunk: MicroBatches, found: Located) -> None:
        rows = chunk.rows
        new = np.ones(len(rows), bool)
        new[1:] = (np.diff(chunk.lengths) != 0) | (np.diff(found.shards) != 0)
        new[chunk.offsets[:-1]] = True
        starts = np.flatnonzero(new)
        lasts = np.append(starts[1:], len(rows)) - 1
        self.first = np.searchsorted(starts, chunk.offsets)
        self.starts = [*starts.tolist(), len(rows)]
        self.positions = rows - np.repeat(rows[starts], lasts - starts + 1)
        self._shards_used = {shard: split.shard(shard) for shard in distinct(found.shards)}
        self._shards = found.shards[starts].tolist()
        self._lengths = chunk.lengths[starts].tolist()
        self._begins = found.begins[starts].tolist()
        self._ends = (found.begins[lasts] + chunk.lengths[lasts]).tolist()
        self._whole = (self.positions[lasts] == lasts - starts).tolist()

    def part(self, number: int, name: str) -> Array:
        """The rows of a block as stored, (rows, length): `input_ids`, or the `labels` of tokens."""
        tokens = self._shards_used[self._shards[number]][name][self._begins[number] : self._ends[number]]
        rectangle = tokens.reshape(-1, self._lengths[number])
        if not self._whole[number]:
            rectangle = rectangle.take(self.positions[self.starts[number] : self.starts[number + 1]], axis=0)
        return rectangle


class DirectFeed:
    """Pads with numpy, a block of rows of one length at a time."""

    def __init__(self, split: SplitReader, device: torch.device, padding: PaddingOptions) -> None:
        self.split, self.device = split, device
        self.one = torch.ones(1, 1, dtype=torch.int64)  # a mask that is all ones needs no memory
        self.fill = {"input_ids": split.tokenizer.pad_id, "labels": IGNORED}
        self.always_mask, self.left, _ = padding

    def __call__(self, chunks: Iterator[MicroBatches]) -> Iterator[Batch]:
        for chunk in chunks:
            found = locate(self.split, chunk.rows)
            check_once(self.split, found, chunk.lengths)
            yield from self._chunk(chunk, found, _Blocks(self.split, chunk, found))

    def _chunk(self, chunk: MicroBatches, found: Located, blocks: _Blocks) -> Iterator[Batch]:
        sent = self._on_device
        for facts, (first, stop), width, uniform, span in zip(
            chunk,
            pairwise(chunk.offsets.tolist()),
            chunk.widths.tolist(),
            chunk.uniform.tolist(),
            pairwise(blocks.first.tolist()),
            strict=True,
        ):
            rows, lengths = chunk.rows[first:stop], chunk.lengths[first:stop]
            ids, mask, types = self._padded("input_ids", blocks, span, rows, lengths, width), None, None
            if not uniform:
                mask = torch.from_numpy(row_mask(lengths, width, self.left).astype(np.int64))
            elif self.always_mask:
                mask = self.one.expand(len(rows), width)
            labels = None if found.labels is None else torch.from_numpy(found.labels[first:stop])
            if self.split.task.per_token:
                labels = self._padded("labels", blocks, span, rows, lengths, width)
            if found.first_lengths is not None:
                types = torch.from_numpy(token_types(found.first_lengths[first:stop], lengths, width, self.left))
            yield Batch(sent(ids), sent(mask), sent(labels), sent(types), *facts)

    def _on_device(self, tensor: Any) -> Any:
        return tensor if tensor is None or self.device.type == "cpu" else to_device(tensor, self.device)

    def _padded(
        self, name: str, blocks: _Blocks, span: tuple[int, int], rows: Array, lengths: Array, width: int
    ) -> torch.Tensor:
        """(B, W) `input_ids` or the `labels` of tokens: few blocks each at once, many token by token."""
        if span[1] - span[0] > MOST_BLOCKS:
            return torch.from_numpy(padded_rows(self.split, rows, lengths, width, self.left, name).astype(np.int64))
        parts = [blocks.part(number, name) for number in range(*span)]
        if parts[0].shape == (len(rows), width):
            return torch.from_numpy(parts[0].astype(np.int64))
        padded, top = np.empty((len(rows), width), np.int64), 0
        padded.fill(self.fill[name])  # np.full takes twice as long
        for part in parts:
            count, size = part.shape
            begin = width - size if self.left else 0
            padded[top : top + count, begin : begin + size] = part
            top += count
        return torch.from_numpy(padded)
