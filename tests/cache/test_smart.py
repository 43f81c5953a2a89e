"""The plans called smart equal the tutorials' list-deleting algorithm, and cost n log n; draws are uniform."""

import sys
from array import array
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.common.arrays import Array
from cache.plans import shrinking_list as slices
from cache.plans import strategies as plans
from cache.plans.spec import PlanSpec
from cache.plans.strategies import plan_epoch

CRITICAL_SIGMAS = 5.0


def naive(rows: int, batch_size: int, starts: list[int]) -> list[int]:
    """The tutorials' loop: take a slice out of one list, again and again."""
    remaining, batches = list(range(rows)), []
    for start in starts:
        size = min(batch_size, len(remaining))
        batches += remaining[start : start + size]
        del remaining[start : start + size]
    assert not remaining
    return batches


def words(seed: int) -> Callable[[int], Any]:
    return np.random.PCG64(seed).random_raw


@pytest.mark.slow
@given(st.integers(1, 150), st.integers(1, 170), st.integers(1, 33), st.data())
@settings(max_examples=100, deadline=None)
def test_the_same_draws_give_the_naive_algorithms_batches(rows: int, size: int, leaf: int, data: st.DataObject) -> None:
    """For any sequence of draws, first and last places included, and any number of leaves."""
    starts = [
        data.draw(st.one_of(st.just(0), st.just(last), st.integers(0, last)))
        for done in range(0, rows, size)
        for last in [rows - done - min(size, rows - done)]
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "_LEAF", leaf)
        assert slices.slice_batches(rows, size, np.array(starts)).tolist() == naive(rows, size, starts)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, slices._LEAF - 1, slices._LEAF, slices._LEAF + 1, 5 * slices._LEAF + 17])
@pytest.mark.parametrize("size", [1, 16, slices._LEAF + 3])
def test_whole_epochs_equal_the_naive_algorithm_at_real_leaf_size(rows: int, size: int) -> None:
    spec = PlanSpec("smart", size, None, 5)
    starts = plans.draw_starts(rows, size, plans._words(spec, 2))
    plan = plan_epoch(np.arange(rows, dtype=np.int32), spec, 2, rows)  # all lengths differ: the list has one order
    assert plan.rows.tolist() == naive(rows, size, starts.tolist())


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=200), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_with_ties_the_lengths_of_every_batch_equal_the_naive_algorithms(
    lengths: list[int], size: int, seed: int
) -> None:
    """Rows of one length change places, nothing else."""
    ascending = np.sort(np.array(lengths, np.int32))
    spec = PlanSpec("smart", size, None, seed)
    starts = plans.draw_starts(len(lengths), size, plans._words(spec, 0))
    plan = plan_epoch(ascending, spec, 0, 9)
    expected = ascending[naive(len(lengths), size, starts.tolist())]
    assert ascending[plan.rows].tolist() == expected.tolist()
    assert sorted(plan.rows.tolist()) == list(range(len(lengths)))


def test_rows_of_one_length_are_mixed() -> None:
    """A corpus sorted by label and cut to one length: hardly a batch of a single class."""
    labels = np.arange(3200) // 1600
    plan = plan_epoch(np.full(3200, 9, np.int32), PlanSpec("smart", 16), 0, 9)
    classes = labels[plan.rows].reshape(-1, 16).sum(axis=1)
    assert np.count_nonzero((classes == 0) | (classes == 16)) <= 1


def chi_square_sigmas(counts: Array) -> float:
    """How many standard deviations the chi-square statistic of equally likely cells lies above its mean."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.slow
def test_each_slice_is_drawn_uniformly_over_the_places_where_it_fits() -> None:
    """10 rows in batches of 3: 8, 5, 2 and 1 places, over 5,000 epochs."""
    drawn = np.array([plans.draw_starts(10, 3, words(seed)) for seed in range(5_000)])
    for column, places in zip(drawn.T, (8, 5, 2, 1), strict=True):
        assert column.min() == 0
        assert column.max() == places - 1
        if places > 1:
            assert chi_square_sigmas(np.bincount(column, minlength=places)) < CRITICAL_SIGMAS


@pytest.mark.parametrize("high", [1, 2, 3, 7, 1000])
def test_words_become_uniform_integers(high: int) -> None:
    drawn = plans._below(words(high)(200_000), np.full(200_000, high))
    counts = np.bincount(drawn, minlength=high)
    assert len(counts) == high
    if high > 1:
        assert chi_square_sigmas(counts) < CRITICAL_SIGMAS


@pytest.mark.parametrize("high", [1, 2, 25_000, (1 << 40) - 1])
def test_the_smallest_and_largest_words_stay_in_range(high: int) -> None:
    extremes = np.array([0, (1 << 64) - 1], np.uint64)
    assert plans._below(extremes, np.array([high, high])).tolist() == [0, high - 1]


@pytest.mark.slow
def test_every_order_of_a_shuffle_is_equally_likely() -> None:
    orders = [tuple(plans._shuffled(4, words(seed)).tolist()) for seed in range(6_000)]
    seen, counts = np.unique(np.array(orders), axis=0, return_counts=True)
    assert len(seen) == 24
    assert chi_square_sigmas(counts) < CRITICAL_SIGMAS


# --- cost, counted


class CountedArray(array):
    """An array that adds up how many elements its deletions move."""

    moved = 0

    def __delitem__(self, key: Any) -> None:
        CountedArray.moved += len(self) - key.start
        super().__delitem__(key)


def operations(rows: int, size: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Lines of Python executed to slice `rows` rows, and elements moved by deletions."""
    executed = 0

    def count(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal executed
        if frame.f_code.co_filename != slices.__file__:
            return None
        executed += event == "line"
        return count

    starts = plans.draw_starts(rows, size, words(1))
    monkeypatch.setattr(slices, "array", CountedArray)
    CountedArray.moved = 0
    before = sys.gettrace()
    sys.settrace(count)
    try:
        slices.slice_batches(rows, size, starts)
    finally:
        sys.settrace(before)
    return executed, CountedArray.moved


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 64])
@pytest.mark.parametrize("leaves", [16, 128, 512])
def test_the_cost_grows_no_faster_than_n_log_n(size: int, leaves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding and noting a slice costs at most twelve lines of Python a level of the tree; deleting it moves at most a
    leaf. The bound is the same at every size; the naive algorithm moves n^2 / 4b elements."""
    leaf = 64
    monkeypatch.setattr(slices, "_LEAF", leaf)
    rows = leaf * leaves
    parts = rows // size + leaves
    lines, moved = operations(rows, size, monkeypatch)
    assert lines <= parts * 12 * (2 + np.log2(leaves))
    assert moved <= parts * leaf
