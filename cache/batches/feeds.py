"""The choice of a feed, which brings stored ids to the device as padded batches. All three give the same tensors.

- direct: padded by numpy on the CPU, from the mapped shards.
- resident: the split's tokens are copied to the device once, as stored; batches are gathered, padded and masked there.
- streamed: a background thread gathers the tokens of the next steps into pinned memory; they are copied as stored,
  without waiting, and padded on the device.
"""

from collections.abc import Callable, Iterator

import torch

from ..reading.split_reader import SplitReader
from .batch import Batch
from .cpu_feed import DirectFeed
from .device_feeds import PackedFeed, ResidentFeed, StreamedFeed
from .micro_batches import MicroBatches
from .options import PaddingOptions

Feed = Callable[[Iterator[MicroBatches]], Iterator[Batch]]
"""Takes chunks of micro-batches and gives each micro-batch with its tensors."""

RESIDENT_SHARE = 8
"""A split stays on the device if it takes at most 1/8 of the memory that is free there."""
RESIDENT_BYTES = 1 << 30
"""The limit where the device cannot tell its free memory."""


def choose_feed(name: str, split: SplitReader, device: torch.device, padding: PaddingOptions) -> Feed:
    """The feed of a name in `FEEDS`; "auto" is direct on a CPU, else resident where the split fits, else streamed."""
    if name == "auto":
        name = "direct" if device.type == "cpu" else "resident" if _fits(split, device) else "streamed"
    direct = PackedFeed if padding.packed else DirectFeed
    feeds: dict[str, Callable[..., Feed]] = {"direct": direct, "resident": ResidentFeed, "streamed": StreamedFeed}
    return feeds[name](split, device, padding)


def _fits(split: SplitReader, device: torch.device) -> bool:
    size = sum(shard.bytes for shard in split.info.shards)
    free = getattr(torch.get_device_module(device), "mem_get_info", None)
    return size <= (free(device)[0] // RESIDENT_SHARE if free else RESIDENT_BYTES)
