"""Padded tensors from mapped shards with numpy, a block of rows of one length at a time.

Shapes: B rows, W columns, N rows of a chunk of steps.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from ..common.arrays import Array
from ..format.labels import token_types
from ..format.tasks import IGNORED
from ..reading.gather import Located, check_once, distinct, locate, padded_rows
from ..reading.padding import row_mask
from ..reading.split_reader import SplitReader
from .micro_batches import MicroBatches
from .padded import PaddedTensors, PaddingOptions
from .transfer import to_device

Given = TypeVar("Given", torch.Tensor, torch.Tensor | None)

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

    def part(self, number: int, name: str = "input_ids") -> Array:
        """The rows of a block as stored, (rows, length): ids, or the labels of tokens."""
        tokens = self._shards_used[self._shards[number]][name][self._begins[number] : self._ends[number]]
        rectangle: Array = tokens.reshape(-1, self._lengths[number])
        if not self._whole[number]:
            rectangle = rectangle.take(self.positions[self.starts[number] : self.starts[number + 1]], axis=0)
        return rectangle


class DirectFeed:
    """Pads with numpy, a block of rows of one length at a time."""

    def __init__(self, split: SplitReader, device: torch.device, padding: PaddingOptions) -> None:
        self.split, self.device = split, device
        self.on_cpu = device.type == "cpu"
        self.one = torch.ones(1, 1, dtype=torch.int64)  # a mask that is all ones needs no memory
        self.pad_id, (self.always_mask, self.left, _) = split.tokenizer.pad_id, padding

    def __call__(self, chunks: Iterator[MicroBatches]) -> Iterator[tuple[MicroBatches, Iterator[PaddedTensors]]]:
        for chunk in chunks:
            yield chunk, self._chunk(chunk)

    def _chunk(self, chunk: MicroBatches) -> Iterator[PaddedTensors]:
        found = locate(self.split, chunk.rows)
        check_once(self.split, found, chunk.lengths)
        blocks = _Blocks(self.split, chunk, found)
        labels: Sequence[torch.Tensor | None] = [None] * len(chunk)
        if found.labels is not None:
            labels = torch.from_numpy(found.labels).split(np.diff(chunk.offsets).tolist())
        plain = zip(
            pairwise(chunk.offsets.tolist()),
            chunk.widths.tolist(),
            chunk.uniform.tolist(),
            pairwise(blocks.first.tolist()),
            labels,
            strict=True,
        )
        for (first, stop), width, uniform, (block, end), label in plain:
            shape, lengths, mask = (stop - first, width), chunk.lengths[first:stop], None
            if uniform and end - block == 1:
                ids = torch.from_numpy(blocks.part(block).astype(np.int64))
            elif end - block <= MOST_BLOCKS:
                ids, mask = self._block_by_block(blocks, block, end, shape)
            else:
                ids, mask = self._gathered(chunk.rows[first:stop], lengths, width)
            if label is None and self.split.task.per_token:
                label = self._token_labels(blocks, (block, end), chunk.rows[first:stop], lengths, width)
            if uniform:
                mask = self.one.expand(shape) if self.always_mask else None
            types = None
            if found.first_lengths is not None:
                types = torch.from_numpy(token_types(found.first_lengths[first:stop], lengths, width, self.left))
            yield PaddedTensors(
                self._on_device(ids), self._on_device(mask), self._on_device(label), self._on_device(types)
            )

    def _on_device(self, tensor: Given) -> Given:
        return tensor if self.on_cpu or tensor is None else to_device(tensor, self.device)

    def _gathered(self, rows: Array, lengths: Array, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of many lengths, token by token: ids and mask (B, W)."""
        ids = padded_rows(self.split, rows, lengths, width, self.left).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(row_mask(lengths, width, self.left).astype(np.int64))

    def _block_by_block(
        self, blocks: _Blocks, block: int, end: int, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Few blocks, each copied at once: ids and mask (B, W)."""
        ids, mask = np.empty(shape, np.int64), np.empty(shape, np.int64)
        ids.fill(self.pad_id)
        mask.fill(0)
        for part, area in self._parts(blocks, block, end, shape[1]):
            ids[area] = part
            mask[area] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _token_labels(
        self, blocks: _Blocks, span: tuple[int, int], rows: Array, lengths: Array, width: int
    ) -> torch.Tensor:
        """The labels of a micro-batch's tokens, (B, W); as ids, few blocks each at once, many token by token."""
        if span[1] - span[0] > MOST_BLOCKS:
            return torch.from_numpy(padded_rows(self.split, rows, lengths, width, self.left, "labels").astype(np.int64))
        labels = np.full((len(rows), width), IGNORED, np.int64)
        for part, area in self._parts(blocks, *span, width, "labels"):
            labels[area] = part
        return torch.from_numpy(labels)

    def _parts(
        self, blocks: _Blocks, block: int, end: int, width: int, name: str = "input_ids"
    ) -> Iterator[tuple[Array, tuple[slice, slice]]]:
        """The content of each block, and its area in a batch of some width."""
        top = 0
        for number in range(block, end):
            part = blocks.part(number, name)
            bottom, size = top + len(part), part.shape[1]
            yield part, (slice(top, bottom), slice(width - size, width) if self.left else slice(size))
            top = bottom
