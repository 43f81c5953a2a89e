"""Whether two peers delivered the same rows: sums over hashes, so that order and batching need not be the same.

Shapes: N rows of together T tokens; B rows of a batch, W columns.
"""

import numpy as np

_WEIGHTS = np.random.default_rng(20_201_123).integers(1, 1 << 63, 1 << 16, dtype=np.uint64) | np.uint64(1)


class WrongError(RuntimeError):
    """A peer delivered something else than the rows it was given."""


def hash_rows(flat: np.ndarray, lengths: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) uint64: a hash of each row's ids in their order, and its label.

    Args:
        flat: (T,) ids, rows end to end.
        lengths: (N,) tokens of each row.
        labels: (N,) class ids.
    """
    lengths = lengths.astype(np.int64)
    begins = np.cumsum(lengths) - lengths
    positions = np.arange(len(flat)) - np.repeat(begins, lengths)
    weighed = (flat.astype(np.uint64) + np.uint64(1)) * _WEIGHTS[positions]
    sums = np.add.reduceat(weighed, begins) + labels.astype(np.uint64) * _WEIGHTS[-1]
    sums ^= sums >> np.uint64(29)
    hashes: np.ndarray = sums * _WEIGHTS[-2]
    return hashes


def digest(hashes: np.ndarray) -> str:
    """One number for a set of rows, whatever their order."""
    return f"{int(np.add.reduce(hashes, dtype=np.uint64)):016x}"


class BatchDigest:
    """Digest of an epoch's batches: the rows it held, and which of them came together in which order."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self.rows = np.uint64(0)
        self.batches = 0

    def add(self, ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch of (B, W) ids and mask, (B,) labels.

        Raises:
            WrongError: the mask has holes, or something else than padding lies outside it.
        """
        lengths = mask.sum(axis=1)
        real = np.arange(ids.shape[1]) < lengths[:, None]
        if not np.array_equal(real, mask.astype(bool)) or np.any(ids[~real] != self.pad_id):
            raise WrongError("a batch has a mask with holes, or something else than padding outside the mask")
        hashes = hash_rows(ids[real], lengths, labels)
        total = np.add.reduce(hashes, dtype=np.uint64)
        with np.errstate(over="ignore"):
            self.rows = self.rows + total
        self.batches = (self.batches * 1_000_003 + int(total) + ids.shape[1]) % (1 << 64)

    def to_json(self) -> dict[str, str]:
        """Both digests."""
        return {"rows_digest": f"{int(self.rows):016x}", "batches_digest": f"{self.batches:016x}"}
