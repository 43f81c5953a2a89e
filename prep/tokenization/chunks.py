"""Long texts in several rows: every token of a text is kept, in chunks of the max length.

Texts are cut from their beginning on, as `tokenizers` does for `return_overflowing_tokens` where truncation is on the
right; where it is on the left, it cuts from the end on, and the rest is the first row of a text, not the last. Shapes:
N texts, T tokens, R rows.
"""

from collections.abc import Sequence

import numpy as np

from cache.common.arrays import Array
from cache.errors import InputError

from .engines import TokenizersEngine, assemble_rows
from .parity import ParityCheck

ChunkedRows = tuple[Array, Array, Array]
"""(T,) uint32 ids, rows end to end; (R,) int64 lengths; (R,) int64 the text that each row is a chunk of."""


def chunk_rows(ids: Array, lengths: Array, before: list[int], after: list[int], max_length: int) -> ChunkedRows:
    """Cut texts into rows; the last row of a text has what is left of it.

    Args:
        ids: (T,) of the texts without special tokens, end to end.
        lengths: (N,) tokens of each.
        before, after: the special tokens of a row.
        max_length: tokens of a row at most, special tokens included.
    """
    room = max_length - len(before) - len(after)
    chunks = np.maximum(-(-lengths // room), 1)  # (N,): a text without tokens is a row, too
    texts = np.repeat(np.arange(len(lengths)), chunks)  # (R,)
    chunk = np.arange(len(texts)) - np.repeat(np.cumsum(chunks) - chunks, chunks)  # (R,) its number in the text
    passed = chunk * room
    slices = ids, (np.cumsum(lengths) - lengths)[texts] + passed, np.minimum(lengths[texts] - passed, room)
    return *assemble_rows([before, slices, after]), texts


class ChunkEncoder:
    """A tokenizer that turns a text into as many rows as it needs.

    Args:
        reference: `tokenizers`.
        check: a fast engine; None for the reference itself.

    Raises:
        InputError: the tokenizer does not simply put special tokens before and after a text.
    """

    def __init__(self, reference: TokenizersEngine, check: ParityCheck | None) -> None:
        self.reference, self.check, self.max_length = reference, check, reference.rules.max_length
        try:
            self.before, self.after = reference.special_ids()
        except ValueError as error:
            raise InputError(f"--long-texts chunk does not take this tokenizer: {error}; leave it out") from error

    def encode(self, texts: Sequence[str]) -> ChunkedRows:
        """Encode texts.

        Raises:
            ParityError: a fast engine was wrong, or failed.
            RowError: `tokenizers` fails on a text.
        """
        ids, lengths = (self.check or self.reference).encode(texts, bare=True)
        if self.check:
            self.check.check(texts, ids, lengths, bare=True)
        return chunk_rows(ids, lengths.astype(np.int64), self.before, self.after, self.max_length)
