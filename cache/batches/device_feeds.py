"""Padded tensors on an accelerator from mapped shards: ids are copied as stored, two bytes per token, then padded and
masked on the device.

Shapes: B rows, W columns, N rows and T tokens of a chunk of steps.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..common.arrays import Array
from ..format.labels import for_model
from ..format.tasks import IGNORED
from ..reading.gather import flat_tokens, locate
from ..reading.split_reader import SplitReader
from .batch import Batch
from .micro_batches import MicroBatches
from .options import PaddingOptions
from .transfer import pinned, to_device


@dataclass(frozen=True)
class DeviceRows:
    """Rows on a device, unpadded.

    Attributes:
        tokens: (T,) int16 or int32, the bits of the stored ids, rows end to end.
        begins: (N,) int64, position of each row's first token.
        lengths: (N,) int64.
        labels: (N,) int64 or float32, or (N, C) float32; None where tokens have labels or nothing has.
        first_lengths: (N,) int32, tokens of token type 0; None where there are no pairs.
        token_labels: (T,) int8 or int16, the label of each token; None where tokens have none.
    """

    tokens: torch.Tensor
    begins: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor | None
    first_lengths: torch.Tensor | None
    token_labels: torch.Tensor | None

    @classmethod
    def end_to_end(cls, tokens: torch.Tensor, lengths: Array, *others: Array | None) -> "DeviceRows":
        """Rows of these `lengths` (N,) one after the other; `others` are `labels`, `first_lengths`, `token_labels`."""
        lengths = lengths.astype(np.int64)
        arrays = (np.cumsum(lengths) - lengths, lengths, *others)
        tensors: list[Any] = [None if array is None else _tensor(array) for array in arrays]
        return cls(tokens, *tensors)

    def take(self, rows: torch.Tensor) -> "DeviceRows":
        """Some of the rows; the tokens stay where they are."""
        return self.each(lambda part: part[rows], unchanged=("tokens", "token_labels"))

    def each(self, change: Callable[[torch.Tensor], torch.Tensor], unchanged: Sequence[str] = ()) -> "DeviceRows":
        """The rows with every tensor changed by a function, except those named as unchanged."""
        parts = vars(self).items()
        return DeviceRows(**{name: part if part is None or name in unchanged else change(part) for name, part in parts})

    def ids(self, positions: torch.Tensor) -> torch.Tensor:
        """int64, the ids of the tokens at some positions."""
        ids = self.tokens[positions].long()
        if self.tokens.dtype == torch.int16:
            ids &= 0xFFFF
        return ids


class DevicePadder:
    """Gathers, pads and masks, or packs, on the device, without synchronizing with the host."""

    def __init__(self, split: SplitReader, device: torch.device, padding: PaddingOptions) -> None:
        self.pad_id, (self.always_mask, self.left, self.packed) = split.tokenizer.pad_id, padding
        self.device = device
        self.columns = torch.arange(split.max_length, device=device)

    def batches(self, chunk: MicroBatches, rows: DeviceRows) -> Iterator[Batch]:
        """The micro-batches of a chunk, of which `rows` are the rows, in its order."""
        return self.pack(chunk, rows) if self.packed else self.pad(chunk, rows)

    def pack(self, chunk: MicroBatches, rows: DeviceRows) -> Iterator[Batch]:
        """Packed batches: the chunk's tokens are gathered at once, and each micro-batch is a slice of them."""
        ends = np.append(0, np.cumsum(chunk.lengths, dtype=np.int64))
        total = int(ends[-1])
        starts = torch.zeros(len(rows.lengths) + 1, dtype=torch.int64, device=self.device)
        torch.cumsum(rows.lengths, 0, out=starts[1:])
        owner = torch.repeat_interleave(
            torch.arange(len(rows.lengths), device=self.device), rows.lengths, output_size=total
        )  # (T,) the row of each token
        within = torch.arange(total, device=self.device) - starts[owner]
        positions = rows.begins[owner] + within
        ids = rows.ids(positions)
        token_labels = None if rows.token_labels is None else rows.token_labels[positions].long()
        types = None if rows.first_lengths is None else (within >= rows.first_lengths[owner]).long()
        for facts, (first, stop), (begin, end), longest in zip(
            chunk,
            pairwise(chunk.offsets.tolist()),
            pairwise(ends[chunk.offsets].tolist()),
            chunk.lengths[chunk.offsets[1:] - 1].tolist(),
            strict=True,
        ):
            labels = None if rows.labels is None else rows.labels[first:stop]
            if token_labels is not None:
                labels = token_labels[None, begin:end]
            yield Batch(
                ids[None, begin:end],
                None,
                labels,
                None if types is None else types[None, begin:end],
                *facts,
                within[None, begin:end],
                (starts[first : stop + 1] - begin).int(),
                longest,
            )

    def pad(self, chunk: MicroBatches, rows: DeviceRows) -> Iterator[Batch]:
        """Padded batches."""
        for facts, (first, stop), width, uniform in zip(
            chunk, pairwise(chunk.offsets.tolist()), chunk.widths.tolist(), chunk.uniform.tolist(), strict=True
        ):
            columns = self.columns[:width]
            lengths = rows.lengths[first:stop, None]  # (B, 1)
            shift = width - lengths if self.left else 0
            positions = rows.begins[first:stop, None] - shift + columns  # (B, W)
            positions.clamp_(0, len(rows.tokens) - 1)
            ids, mask, types = rows.ids(positions), None, None
            labels: Any = None if rows.labels is None else rows.labels[first:stop]
            if rows.token_labels is not None:
                labels = rows.token_labels[positions].long()
            if self.always_mask or not uniform:
                mask = columns >= shift if self.left else columns < lengths
                ids = torch.where(mask, ids, self.pad_id)
                if rows.token_labels is not None:
                    labels = torch.where(mask, labels, IGNORED)
                mask = mask.long()
            if rows.first_lengths is not None:
                begins = rows.first_lengths[first:stop, None] + shift
                types = ((columns >= begins) & (columns < shift + lengths)).long()
            yield Batch(ids, mask, labels, types, *facts)


_RESIDENT: WeakKeyDictionary[SplitReader, dict[torch.device, DeviceRows]] = WeakKeyDictionary()
"""Rows kept on devices for later epochs, as long as the split is open."""


class ResidentFeed:
    """The whole split on the device; a chunk costs the copy of its row numbers."""

    def __init__(self, split: SplitReader, device: torch.device, padding: PaddingOptions) -> None:
        self.padder, self.device = DevicePadder(split, device, padding), device
        kept = _RESIDENT.setdefault(split, {})
        if device not in kept:
            kept[device] = self._load(split, device)
        self.store = kept[device]

    @staticmethod
    def _load(split: SplitReader, device: torch.device) -> DeviceRows:
        shards = [tensors["input_ids"] for tensors in split.shards()]
        for tokens in shards:
            split.check_ids(tokens)
        task, parts = split.task, [_bits(tokens).to(device) for tokens in shards]
        return DeviceRows.end_to_end(
            torch.cat(parts) if len(parts) != 1 else parts[0],
            split.lengths,
            for_model(split.labels) if task.labelled and not task.per_token else None,
            split.first_lengths if task.pair else None,
            split.labels if task.per_token else None,
        ).each(lambda part: part.to(device))

    def __call__(self, chunks: Iterator[MicroBatches]) -> Iterator[Batch]:
        for chunk in chunks:
            rows = to_device(torch.from_numpy(chunk.rows), self.device)
            yield from self.padder.batches(chunk, self.store.take(rows))


class StreamedFeed:
    """The tokens of the next chunks, gathered by a background thread while the device computes."""

    AHEAD = 2
    """Chunks gathered ahead."""

    def __init__(self, split: SplitReader, device: torch.device, padding: PaddingOptions) -> None:
        self.split, self.device = split, device
        self.padder = DevicePadder(split, device, padding)

    def __call__(self, chunks: Iterator[MicroBatches]) -> Iterator[Batch]:
        thread = ThreadPoolExecutor(1, thread_name_prefix="lengthwise-feed")
        waiting: list[tuple[MicroBatches, Future[DeviceRows]]] = []
        try:
            for chunk in chunks:
                waiting.append((chunk, thread.submit(self.gather, chunk)))
                if len(waiting) > self.AHEAD:
                    yield from self._delivered(*waiting.pop(0))
            while waiting:
                yield from self._delivered(*waiting.pop(0))
        finally:
            thread.shutdown(wait=True, cancel_futures=True)

    def gather(self, chunk: MicroBatches) -> DeviceRows:
        """The rows of a chunk end to end in pinned memory, ready to be copied without waiting."""
        found = locate(self.split, chunk.rows)
        tokens = flat_tokens(self.split, found, chunk.lengths)
        of_tokens = flat_tokens(self.split, found, chunk.lengths, "labels") if self.split.task.per_token else None
        rows = DeviceRows.end_to_end(_bits(tokens), chunk.lengths, found.labels, found.first_lengths, of_tokens)
        return rows.each(lambda part: pinned(part, self.device))

    def _delivered(self, chunk: MicroBatches, gathered: "Future[DeviceRows]") -> Iterator[Batch]:
        return self.padder.batches(chunk, gathered.result().each(lambda part: to_device(part, self.device)))


class PackedFeed(StreamedFeed):
    """Packs chunk after chunk without a thread: for a CPU, as `cpu_feed.DirectFeed` does for padded batches."""

    def __call__(self, chunks: Iterator[MicroBatches]) -> Iterator[Batch]:
        for chunk in chunks:
            yield from self.padder.batches(chunk, self.gather(chunk).each(lambda part: to_device(part, self.device)))


def _tensor(array: Array) -> torch.Tensor:
    """An array as a tensor, copied only where it is a read-only view, such as of a mapped file."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _bits(tokens: Array) -> torch.Tensor:
    """Stored ids as a tensor of the signed type of the same size: torch indexes those everywhere."""
    return _tensor(tokens.view(np.int16 if tokens.dtype == np.uint16 else np.int32))
