"""The types that all feeds share: padded or packed tensors of micro-batches, and how they are made."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from .micro_batches import MicroBatches


class PaddedTensors(NamedTuple):
    """The tensors of a micro-batch; `cache.batches.batch.Batch` describes them."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    position_ids: torch.Tensor | None = None
    cu_seq_lens: torch.Tensor | None = None
    longest: int = 0


Feed = Callable[[Iterator[MicroBatches]], Iterator[tuple[MicroBatches, Iterator[PaddedTensors]]]]
"""Takes chunks of micro-batches and gives each back with its padded tensors."""


class PaddingOptions(NamedTuple):
    """How batches are padded.

    Attributes:
        always_mask: give a mask even where no row needs one.
        left: pad on the left.
        packed: do not pad, but lay the rows end to end.
    """

    always_mask: bool
    left: bool
    packed: bool = False
