"""Record batches on their way from the process that reads them: of a moderate size, the first one at once."""

import os
from collections.abc import Iterator
from itertools import chain

import pyarrow as pa
import pytest

from cache.common import forked
from cache.common.forked import Forked

pytestmark = pytest.mark.usefixtures("parsed_apart")


def batch(first: int, rows: int, kind: pa.DataType | None = None) -> pa.RecordBatch:
    """A column of numbers, counted from `first`."""
    return pa.RecordBatch.from_arrays([pa.array(range(first, first + rows), kind or pa.int64())], ["n"])


def sizes(*batches: pa.RecordBatch) -> list[int]:
    """Rows of the batches that arrive; the same rows, in order."""
    found = list(Forked(0).stream("here", lambda: iter(batches)))
    assert [row for part in found for row in part.column(0).to_pylist()] == list(
        chain.from_iterable(part.column(0).to_pylist() for part in batches)
    )
    return [part.num_rows for part in found]


def test_small_batches_come_together_but_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes as it is, so that there is something to do while others are read; one without rows does not count."""
    monkeypatch.setattr(forked, "BATCH_ROWS", 25)
    small = [batch(10 * n, 10) for n in range(8)]
    assert sizes(*small) == [10, 20, 20, 20, 10]
    assert sizes(batch(0, 0), *small[:3]) == [0, 10, 20]
    assert sizes(batch(0, 0), batch(0, 0)) == [0, 0]
    monkeypatch.setattr(forked, "BATCH_BYTES", 8 * 10)
    assert sizes(*small[:4]) == [10, 10, 10, 10]


def test_large_batches_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "BATCH_ROWS", 25)
    assert sizes(batch(0, 60)) == [25, 25, 10]
    assert sizes(batch(0, 5), batch(5, 3), batch(8, 30)) == [5, 3, 25, 5]


def test_batches_of_other_types_stay_apart() -> None:
    """As those of two files may be."""
    others = [batch(n, 2, kind) for n, kind in enumerate([pa.int64(), pa.int64(), pa.int32(), pa.int32(), pa.int64()])]
    assert sizes(*others) == [2, 2, 4, 2]


def test_the_first_batch_is_there_before_the_second_is_read() -> None:
    """The second one is read once the pipe is written to."""
    ours, theirs = os.pipe()

    def batches() -> Iterator[pa.RecordBatch]:
        yield batch(0, 3)
        os.read(ours, 1)
        yield batch(3, 4)

    stream = Forked(0).stream("here", batches)
    assert next(stream).num_rows == 3
    os.write(theirs, b"x")
    assert [part.num_rows for part in stream] == [4]
    os.close(ours)
    os.close(theirs)
