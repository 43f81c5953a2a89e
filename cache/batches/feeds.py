"""From stored ids, two bytes a token, to padded tensors where the model is. Three ways, the same tensors.

- direct: padded by numpy on the CPU, from the mapped shards.
- resident: the split's tokens are copied to the device once, as stored; batches are gathered, padded and masked there.
- streamed: a background thread gathers the tokens of the next steps into pinned memory; they are copied as stored,
  without waiting, and padded on the device.

Shapes: B rows, W columns, N rows and T tokens of a stretch of steps.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from ..common.arrays import Array
from ..format.labels import for_model, token_types
from ..format.tasks import IGNORED
from ..reading.gather import Located, check_once, distinct, flat_tokens, locate
from .micro_batches import MicroBatches
from .padding import row_mask

if TYPE_CHECKING:
    from ..reading.opening import Split

FEEDS = ("auto", "direct", "resident", "streamed")

RESIDENT_SHARE = 8
"""A split stays on the device if it takes at most 1/8 of the memory that is free there."""
RESIDENT_BYTES = 1 << 30
"""The limit where the device cannot tell its free memory."""


Given = TypeVar("Given", torch.Tensor, torch.Tensor | None)


class Padded(NamedTuple):
    """A batch's tensors; `cache.batches.Batch` says what they are."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None
    token_type_ids: torch.Tensor | None


Feed = Callable[[Iterator[MicroBatches]], Iterator[tuple[MicroBatches, Iterator[Padded]]]]
"""Takes stretches of micro-batches, gives each back with its padded tensors."""


class Look(NamedTuple):
    """How batches are to look.

    Attributes:
        always_mask: a mask even where no row needs one.
        left: padding on the left.
    """

    always_mask: bool
    left: bool


def choose_feed(name: str, split: "Split", device: torch.device, look: Look) -> Feed:
    """The feed of a name in `FEEDS`; "auto" is direct on a CPU, else resident where the split fits, else streamed."""
    if name == "auto":
        name = "direct" if device.type == "cpu" else "resident" if _fits(split, device) else "streamed"
    make: Any = {"direct": DirectFeed, "resident": ResidentFeed, "streamed": StreamedFeed}[name]
    feed: Feed = make(split, device, look)
    return feed


def _fits(split: "Split", device: torch.device) -> bool:
    size = sum(shard.bytes for shard in split.info.shards)
    free = getattr(torch.get_device_module(device), "mem_get_info", None)
    return size <= (free(device)[0] // RESIDENT_SHARE if free else RESIDENT_BYTES)


MOST_BLOCKS = 6
"""A batch of more stretches of one length than this is gathered token by token."""


class _Blocks:
    """The stretches of rows of one length within micro-batches. On disk such rows lie in one rectangle, so that a
    whole stretch is copied at once.

    Attributes:
        first: (M+1,) the first block of each micro-batch.
        starts: the first row of each block, then the number of rows.
        places: (N,) each row's place in the rectangle of its block.
    """

    def __init__(self, split: "Split", stretch: MicroBatches, found: Located) -> None:
        rows = stretch.rows
        new = np.ones(len(rows), bool)
        new[1:] = (np.diff(stretch.lengths) != 0) | (np.diff(found.shards) != 0)
        new[stretch.offsets[:-1]] = True
        starts = np.flatnonzero(new)
        lasts = np.append(starts[1:], len(rows)) - 1
        self.first = np.searchsorted(starts, stretch.offsets)
        self.starts = [*starts.tolist(), len(rows)]
        self.places = rows - np.repeat(rows[starts], lasts - starts + 1)
        self._shards_used = {shard: split.shard(shard) for shard in distinct(found.shards)}
        self._shards = found.shards[starts].tolist()
        self._lengths = stretch.lengths[starts].tolist()
        self._begins = found.begins[starts].tolist()
        self._ends = (found.begins[lasts] + stretch.lengths[lasts]).tolist()
        self._whole = (self.places[lasts] == lasts - starts).tolist()

    def part(self, number: int, name: str = "input_ids") -> Array:
        """The rows of a block as stored, (rows, length): ids, or the labels of tokens."""
        tokens = self._shards_used[self._shards[number]][name][self._begins[number] : self._ends[number]]
        rectangle: Array = tokens.reshape(-1, self._lengths[number])
        if not self._whole[number]:
            rectangle = rectangle.take(self.places[self.starts[number] : self.starts[number + 1]], axis=0)
        return rectangle


class DirectFeed:
    """Pads with numpy, a block of rows of one length at a time."""

    def __init__(self, split: "Split", device: torch.device, look: Look) -> None:
        self.split, self.device = split, device
        self.on_cpu = device.type == "cpu"
        self.one = torch.ones(1, 1, dtype=torch.int64)  # a mask that is all ones needs no memory
        self.pad_id, (self.always_mask, self.left) = split.cache.manifest.tokenizer.pad_id, look

    def __call__(self, stretches: Iterator[MicroBatches]) -> Iterator[tuple[MicroBatches, Iterator[Padded]]]:
        for stretch in stretches:
            yield stretch, self._stretch(stretch)

    def _stretch(self, stretch: MicroBatches) -> Iterator[Padded]:
        found = locate(self.split, stretch.rows)
        check_once(self.split, found, stretch.lengths)
        blocks = _Blocks(self.split, stretch, found)
        labels: Sequence[torch.Tensor | None] = [None] * len(stretch)
        if found.labels is not None:
            labels = torch.from_numpy(found.labels).split(np.diff(stretch.offsets).tolist())
        plain = zip(
            pairwise(stretch.offsets.tolist()),
            stretch.widths.tolist(),
            stretch.uniform.tolist(),
            pairwise(blocks.first.tolist()),
            labels,
            strict=True,
        )
        for (first, stop), width, uniform, (block, end), label in plain:
            shape, lengths, mask = (stop - first, width), stretch.lengths[first:stop], None
            if uniform and end - block == 1:
                ids = torch.from_numpy(blocks.part(block).astype(np.int64))
            elif end - block <= MOST_BLOCKS:
                ids, mask = self._laid_out(blocks, block, end, shape)
            else:
                ids, mask = self._gathered(stretch.rows[first:stop], lengths, width)
            if label is None and self.split.cache.manifest.task.per_token:
                label = self._token_labels(blocks, (block, end), stretch.rows[first:stop], lengths, width)
            if uniform:
                mask = self.one.expand(shape) if self.always_mask else None
            types = None
            if found.first_lengths is not None:
                types = torch.from_numpy(token_types(found.first_lengths[first:stop], lengths, width, self.left))
            yield Padded(self._placed(ids), self._placed(mask), self._placed(label), self._placed(types))

    def _placed(self, tensor: Given) -> Given:
        return tensor if self.on_cpu or tensor is None else tensor.to(self.device, non_blocking=True)

    def _gathered(self, rows: Array, lengths: Array, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of many lengths, token by token: ids and mask (B, W)."""
        ids = self.split.padded(rows, lengths, width, self.left).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(row_mask(lengths, width, self.left).astype(np.int64))

    def _laid_out(
        self, blocks: _Blocks, block: int, end: int, shape: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blocks one below the other: ids and mask (B, W)."""
        ids, mask = np.empty(shape, np.int64), np.empty(shape, np.int64)
        ids.fill(self.pad_id)
        mask.fill(0)
        for part, place in self._parts(blocks, block, end, shape[1]):
            ids[place] = part
            mask[place] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def _token_labels(
        self, blocks: _Blocks, span: tuple[int, int], rows: Array, lengths: Array, width: int
    ) -> torch.Tensor:
        """The labels of a micro-batch's tokens, (B, W): as for ids, few blocks at once, many token by token."""
        if span[1] - span[0] > MOST_BLOCKS:
            return torch.from_numpy(self.split.padded(rows, lengths, width, self.left, "labels").astype(np.int64))
        labels = np.full((len(rows), width), IGNORED, np.int64)
        for part, place in self._parts(blocks, *span, width, "labels"):
            labels[place] = part
        return torch.from_numpy(labels)

    def _parts(
        self, blocks: _Blocks, block: int, end: int, width: int, name: str = "input_ids"
    ) -> Iterator[tuple[Array, tuple[slice, slice]]]:
        """Blocks one below the other: what each holds, and its place in a batch of some width."""
        top = 0
        for number in range(block, end):
            part = blocks.part(number, name)
            bottom, size = top + len(part), part.shape[1]
            yield part, (slice(top, bottom), slice(width - size, width) if self.left else slice(size))
            top = bottom


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

    def take(self, rows: torch.Tensor) -> "DeviceRows":
        """Some of the rows; the tokens stay where they are."""
        return self.each(lambda part: part[rows], but=("tokens", "token_labels"))

    def to(self, device: torch.device) -> "DeviceRows":
        """The rows on a device, copied without waiting."""
        return self.each(lambda part: part.to(device, non_blocking=True))

    def each(self, change: Callable[[torch.Tensor], torch.Tensor], but: Sequence[str] = ()) -> "DeviceRows":
        """The rows with every tensor that is there changed, `but` some."""
        parts = vars(self).items()
        return DeviceRows(**{name: part if part is None or name in but else change(part) for name, part in parts})


class DevicePadder:
    """Gathers, pads and masks on the device, without a word to the host."""

    def __init__(self, split: "Split", device: torch.device, look: Look) -> None:
        self.pad_id, (self.always_mask, self.left) = split.cache.manifest.tokenizer.pad_id, look
        self.columns = torch.arange(split.cache.manifest.max_length, device=device)

    def pad(self, stretch: MicroBatches, rows: DeviceRows) -> Iterator[Padded]:
        """Padded tensors of each micro-batch; `rows` are the stretch's, in its order."""
        plain = zip(stretch.offsets.tolist(), stretch.offsets[1:].tolist(), stretch.widths.tolist(),
                    stretch.uniform.tolist(), strict=False)  # fmt: skip
        for first, stop, width, uniform in plain:
            columns = self.columns[:width]
            lengths = rows.lengths[first:stop, None]  # (B, 1)
            shift = width - lengths if self.left else 0
            positions = rows.begins[first:stop, None] - shift + columns  # (B, W)
            positions.clamp_(0, len(rows.tokens) - 1)
            ids = rows.tokens[positions].long()
            labels: Any = None if rows.labels is None else rows.labels[first:stop]
            if rows.token_labels is not None:
                labels = rows.token_labels[positions].long()
            if rows.tokens.dtype == torch.int16:
                ids &= 0xFFFF
            mask = None
            if self.always_mask or not uniform:
                mask = columns >= shift if self.left else columns < lengths
                ids = torch.where(mask, ids, self.pad_id)
                if rows.token_labels is not None:
                    labels = torch.where(mask, labels, IGNORED)
                mask = mask.long()
            types = None
            if rows.first_lengths is not None:
                begins = rows.first_lengths[first:stop, None] + shift
                types = ((columns >= begins) & (columns < shift + lengths)).long()
            yield Padded(ids, mask, labels, types)


_RESIDENT: "WeakKeyDictionary[Split, dict[torch.device, DeviceRows]]" = WeakKeyDictionary()
"""What lies on devices, for as long as the split is open: the next epoch finds it there."""


class ResidentFeed:
    """The whole split on the device; a stretch costs the copy of its row numbers."""

    def __init__(self, split: "Split", device: torch.device, look: Look) -> None:
        self.padder, self.device = DevicePadder(split, device, look), device
        kept = _RESIDENT.setdefault(split, {})
        if device not in kept:
            kept[device] = self._load(split, device)
        self.store = kept[device]

    @staticmethod
    def _load(split: "Split", device: torch.device) -> DeviceRows:
        shards = [split.shard(index)["input_ids"] for index in range(len(split.info.shards))]
        for tokens in shards:
            split.check_ids(tokens)
        lengths = split.lengths.astype(np.int64)
        parts = [_bits(tokens).to(device) for tokens in shards]
        task = split.cache.manifest.task
        own = task.labelled and not task.per_token
        return DeviceRows(
            torch.cat(parts) if len(parts) != 1 else parts[0],
            torch.from_numpy(np.cumsum(lengths) - lengths).to(device),
            torch.from_numpy(lengths).to(device),
            torch.from_numpy(np.array(for_model(split.labels))).to(device) if own else None,
            torch.from_numpy(np.array(split.first_lengths)).to(device) if task.pair else None,
            torch.from_numpy(np.array(split.labels)).to(device) if task.per_token else None,
        )

    def __call__(self, stretches: Iterator[MicroBatches]) -> Iterator[tuple[MicroBatches, Iterator[Padded]]]:
        for stretch in stretches:
            rows = _pinned(torch.from_numpy(stretch.rows), self.device).to(self.device, non_blocking=True)
            yield stretch, self.padder.pad(stretch, self.store.take(rows))


class StreamedFeed:
    """The tokens of the next stretches, gathered by a background thread while the device computes."""

    AHEAD = 2
    """Stretches gathered ahead."""

    def __init__(self, split: "Split", device: torch.device, look: Look) -> None:
        self.split, self.device = split, device
        self.padder = DevicePadder(split, device, look)

    def __call__(self, stretches: Iterator[MicroBatches]) -> Iterator[tuple[MicroBatches, Iterator[Padded]]]:
        thread = ThreadPoolExecutor(1, thread_name_prefix="lengthwise-feed")
        waiting: list[tuple[MicroBatches, Future[DeviceRows]]] = []
        try:
            for stretch in stretches:
                waiting.append((stretch, thread.submit(self.gather, stretch)))
                if len(waiting) > self.AHEAD:
                    yield self._deliver(*waiting.pop(0))
            while waiting:
                yield self._deliver(*waiting.pop(0))
        finally:
            thread.shutdown(wait=True, cancel_futures=True)

    def gather(self, stretch: MicroBatches) -> DeviceRows:
        """The rows of a stretch end to end in pinned memory, ready to be copied without waiting."""
        found = locate(self.split, stretch.rows)
        tokens = flat_tokens(self.split, found, stretch.lengths)
        lengths = stretch.lengths.astype(np.int64)
        of_tokens = None
        if self.split.cache.manifest.task.per_token:
            of_tokens = torch.from_numpy(flat_tokens(self.split, found, stretch.lengths, "labels"))
        rows = DeviceRows(
            _bits(tokens),
            torch.from_numpy(np.cumsum(lengths) - lengths),
            torch.from_numpy(lengths),
            None if found.labels is None else torch.from_numpy(found.labels),
            None if found.first_lengths is None else torch.from_numpy(found.first_lengths),
            of_tokens,
        )
        return rows.each(lambda part: _pinned(part, self.device))

    def _deliver(self, stretch: MicroBatches, gathered: "Future[DeviceRows]") -> tuple[MicroBatches, Iterator[Padded]]:
        return stretch, self.padder.pad(stretch, gathered.result().to(self.device))


def _bits(tokens: Array) -> torch.Tensor:
    """Stored ids as a tensor of the signed type of the same size: torch indexes those everywhere."""
    signed = np.int16 if tokens.dtype == np.uint16 else np.int32
    view = tokens.view(signed)
    return torch.from_numpy(view if view.flags.writeable else view.copy())


def _pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """In page-locked memory, from which a copy to the device need not wait; as it is for a CPU."""
    return tensor if device.type == "cpu" else tensor.pin_memory()
