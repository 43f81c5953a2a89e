"""One row of a split."""

from dataclasses import dataclass
from typing import Any

from ..common.arrays import Array


@dataclass(frozen=True)
class Row:
    """One tokenized example.

    Attributes:
        input_ids: (length,) uint16 or uint32, special tokens included, no padding.
        label: by task its class id, its number, for each class 0 or 1, or for each token its class id or -100; None in
            a cache without labels.
        source_row: its index in the source split.
        first_length: in a cache of pairs its tokens of token type 0, which come first: special tokens, the first text
            and its separator; None elsewhere.
    """

    input_ids: Array
    label: Any
    source_row: int
    first_length: int | None = None
