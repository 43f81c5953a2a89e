"""Batches divided among ranks and micro-steps, against the same rules written down naively."""

from collections.abc import Callable
from itertools import chain, combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import Batch, Cache, PlanSpec
from cache.common.arrays import Array
from cache.plans import shares
from cache.plans.shares import Divide, equal_parts, packed_parts, padded_parts, row_costs
from tests.helpers.caches import write_cache

DIVIDES = (padded_parts, packed_parts, equal_parts)
COSTS: dict[Divide, Callable[[list[int]], int]] = {
    padded_parts: lambda rows: len(rows) * max(rows, default=0),
    packed_parts: sum,
    equal_parts: sum,
}
"""Cost of a part, by how it was divided, from its rows' costs."""

batch_costs = st.lists(st.integers(1, 60), min_size=1, max_size=9).map(sorted)
"""Costs of a batch's rows."""


def divided(divide: Divide, batches: list[list[int]], parts: int) -> list[list[list[int]]]:
    """The costs of the rows of each part of each batch."""
    costs, sizes = np.array([*chain(*batches)], np.int64), np.array([len(batch) for batch in batches])
    found = iter(divide(costs, sizes, parts).tolist())
    result = []
    for batch in batches:
        of_batch: list[list[int]] = [[] for _ in range(parts)]
        for cost in batch:
            of_batch[next(found)].append(cost)
        result.append(of_batch)
    assert next(found, None) is None
    return result


def cheapest_slices(costs: list[int], parts: int) -> int:
    """The cost of the costliest slice, in the best of all ways to cut a batch."""
    cuts = combinations(range(1, len(costs)), min(parts, len(costs)) - 1)
    ways = ([0, *cut, len(costs)] for cut in cuts)
    return min(max((b - a) * costs[b - 1] for a, b in pairwise(way)) for way in ways)


def cheapest_parts(costs: list[int], parts: int) -> int:
    """The cost of the costliest part, in the best of all partitions: rows x costliest row."""
    if parts == 1 or len(costs) == 1:
        return len(costs) * costs[-1]
    best = len(costs) * costs[-1]
    for mask in range(1, 1 << (len(costs) - 1)):  # rows of the part that holds the costliest row; the others go on
        own = [cost for i, cost in enumerate(costs[:-1]) if not mask >> i & 1] + costs[-1:]
        others = [cost for i, cost in enumerate(costs[:-1]) if mask >> i & 1]
        best = min(best, max(len(own) * own[-1], cheapest_parts(others, parts - 1)))
    return best


@given(st.lists(batch_costs, min_size=1, max_size=6), st.integers(1, 12), st.sampled_from(DIVIDES))
@settings(max_examples=80, deadline=None)
def test_parts_are_numbered_by_cost_and_none_is_empty_beside_one_of_two_rows(
    batches: list[list[int]], parts: int, divide: Divide
) -> None:
    for batch, found in zip(batches, divided(divide, batches, parts), strict=True):
        costs = [COSTS[divide](part) for part in found]
        assert sorted(chain(*found)) == batch
        assert [bool(part) for part in found] == [number < len(batch) for number in range(parts)]
        assert divide is equal_parts or costs == sorted(costs, reverse=True)


@given(st.lists(batch_costs, min_size=1, max_size=6), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_the_costliest_padded_slice_is_as_cheap_as_can_be(batches: list[list[int]], parts: int) -> None:
    for batch, found in zip(batches, divided(padded_parts, batches, parts), strict=True):
        assert max(map(COSTS[padded_parts], found)) == cheapest_slices(batch, parts)
        slices = sorted(filter(None, found), key=lambda part: (part[0], part[-1]))
        assert [*chain(*slices)] == batch, "slices are contiguous"


@given(batch_costs, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_no_partition_has_a_cheaper_costliest_part_than_contiguous_slices(batch: list[int], parts: int) -> None:
    (found,) = divided(padded_parts, [batch], parts)
    assert max(map(COSTS[padded_parts], found)) == cheapest_parts(batch, parts)


@given(st.lists(batch_costs, min_size=1, max_size=6), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_packed_rows_first_go_where_least_has_gone_so_far(batches: list[list[int]], parts: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "MOST_EXCHANGES", 0)
        result = divided(packed_parts, batches, parts)
    for batch, found in zip(batches, result, strict=True):
        assert [sum(part) for part in found] == sorted(map(sum, longest_first(batch, parts)), reverse=True)


def longest_first(batch: list[int], parts: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(parts)]
    for cost in reversed(batch):
        min(found, key=sum).append(cost)
    return found


def exchange_helps(heavy: list[int], light: list[int]) -> bool:
    """Whether the costlier of two parts can give the other a row, for one of its rows or for none, to their profit."""
    gap = sum(heavy) - sum(light)
    return any(0 < given - back < gap for given in heavy for back in [0, *light])


@pytest.mark.parametrize("parts", [2, 3])
def test_an_exchange_brings_two_parts_as_near_to_each_other_as_one_can(parts: int, monkeypatch) -> None:
    """In one batch of a hundred only a row in the middle of many that would do brings them that near."""
    monkeypatch.setattr(shares, "MOST_EXCHANGES", 1)
    batches = np.sort(np.random.default_rng(0).integers(1, 61, (500, 8)), axis=1).tolist()
    for batch, found in zip(batches, divided(packed_parts, batches, parts), strict=True):
        before = longest_first(batch, parts)
        heavy, light = max(before, key=sum), min(before, key=sum)
        moved = [given - back for given in heavy for back in [0, *light]]
        best = min((abs(sum(heavy) - sum(light) - 2 * cost), cost) for cost in [0, *moved])[1]
        _, *others, _ = sorted(map(sum, before))
        assert sorted(map(sum, found)) == sorted([sum(heavy) - best, sum(light) + best, *others])


@given(st.lists(batch_costs, min_size=1, max_size=6), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_packed_rows_are_then_exchanged_as_long_as_it_helps(batches: list[list[int]], parts: int) -> None:
    for batch, found in zip(batches, divided(packed_parts, batches, parts), strict=True):
        assert sum(found[0]) <= max(map(sum, longest_first(batch, parts)))
        heaviest = [part for part in found if sum(part) == sum(found[0])]
        lightest = [part for part in found if sum(part) == sum(found[-1])]
        assert any(not exchange_helps(heavy, light) for heavy in heaviest for light in lightest)


def test_random_rows_packed_for_eight_ranks_leave_them_waiting_for_a_thousandth() -> None:
    costs = row_costs(np.sort(np.random.default_rng(0).integers(15, 401, (50, 128)), axis=1).ravel())
    part = np.repeat(np.arange(50), 128) * 8 + packed_parts(costs, np.full(50, 128), 8)
    loads = np.bincount(part, costs).reshape(50, 8)
    assert loads.sum() / loads.max(axis=1).sum() / 8 > 0.999


@given(st.lists(batch_costs, min_size=1, max_size=6), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_equal_parts_are_every_nth_row_from_the_longest_down(batches: list[list[int]], parts: int) -> None:
    for batch, found in zip(batches, divided(equal_parts, batches, parts), strict=True):
        assert found == [batch[::-1][number::parts][::-1] for number in range(parts)]


def test_costs_count_linear_layers_and_attention() -> None:
    """A BERT-base's layer: 24 H² operations for a token, 4 L H for its attention to L of them."""
    operations = [length * (24 * 768**2 + 4 * length * 768) for length in (16, 128, 512)]
    costs = row_costs(np.array([16, 128, 512], np.int32))
    assert costs.dtype == np.int64
    assert (costs / costs[0]).tolist() == pytest.approx([count / operations[0] for count in operations])
    assert row_costs(np.array([0])) > 0, "rows without tokens can be shared out too"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("shares") / "toy", {"train": 150}, shards=3)


def parts_of(cache: Cache, spec: PlanSpec, ranks: int, accumulation: int, **options) -> list[list[Batch]]:
    """Each rank's micro-batches of an epoch."""
    return [
        list(
            cache["train"].batches(
                1, spec, rank=rank, world_size=ranks, gradient_accumulation_steps=accumulation, **options
            )
        )
        for rank in range(ranks)
    ]


@pytest.mark.parametrize("options", [{}, {"packed": True}, {"equal_rows": True}, {"pad_to_multiple_of": 8}])
@pytest.mark.parametrize("feed", ["direct", "resident", "streamed"])
@pytest.mark.parametrize("spec", [PlanSpec("dynamic", 13), PlanSpec("budget", None, 200)], ids=lambda spec: spec.id)
def test_ranks_and_micro_steps_hold_the_rows_of_the_step_whatever_the_feed(cache, spec, feed, options) -> None:
    plan = cache["train"].plan(spec, 1)
    steps: list[list[int]] = [[] for _ in range(len(plan))]
    for own in parts_of(cache, spec, 3, 2, feed=feed, **options):
        assert [batch.step for batch in own if batch.last] == list(range(len(plan)))
        for batch in own:
            assert batch.rows.tolist() == sorted(batch.rows.tolist())
            steps[batch.step] += batch.rows.tolist()
    bounds = pairwise(plan.batch_offsets)
    assert [sorted(rows) for rows in steps] == [plan.rows[a:b].tolist() for a, b in bounds]


def computed(batch: Batch) -> int:
    return batch.padded_tokens * (len(batch) > 0)


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_sharing_by_cost_computes_less_and_waits_less_than_sharing_by_rows(cache: Cache, ranks: int) -> None:
    """Tokens of the slowest rank at each micro-step, and of all ranks together; random order, padded and packed."""
    for options in ({}, {"packed": True}):
        shared, equal = (
            np.array(
                [
                    [computed(batch) for batch in own]
                    for own in parts_of(cache, PlanSpec("dynamic", 28), ranks, 2, equal_rows=equal_rows, **options)
                ]
            )
            for equal_rows in (False, True)
        )
        assert shared.max(axis=0).sum() < equal.max(axis=0).sum()
        assert shared.sum() <= equal.sum()


def test_equal_rows_are_equal(cache: Cache) -> None:
    parts = parts_of(cache, PlanSpec("dynamic", 30), 5, 2, equal_rows=True)
    assert {len(batch) for own in parts for batch in own} == {3}


@pytest.mark.parametrize("options", [{}, {"packed": True}, {"equal_rows": True}])
@pytest.mark.parametrize("ranks", [1, 3])
def test_more_micro_steps_than_rows_are_those_of_one_row_each(cache: Cache, ranks: int, options: dict) -> None:
    """However many: what has no row costs nothing."""
    one_each, huge = (parts_of(cache, PlanSpec("dynamic", 13), ranks, steps, **options) for steps in (13, 1 << 60))
    for own, other in zip(one_each, huge, strict=True):
        assert [(batch.step, batch.rows.tolist(), batch.last) for batch in own] == [
            (batch.step, batch.rows.tolist(), batch.last) for batch in other
        ]


def test_accumulated_slices_are_only_as_wide_as_their_own_rows(cache: Cache) -> None:
    """Micro-batches of one rank are contiguous slices of the sorted batch."""
    (own,) = parts_of(cache, PlanSpec("dynamic", 20), 1, 4)
    by_step: dict[int, list[Array]] = {}
    for batch in own:
        by_step.setdefault(batch.step, []).append(batch.rows)
    for slices in by_step.values():
        slices.sort(key=lambda rows: int(rows[0]))
        assert all(one[-1] < two[0] for one, two in pairwise(slices))
    whole = sum(batch.padded_tokens for batch in cache["train"].batches(1, PlanSpec("dynamic", 20)))
    assert sum(batch.padded_tokens for batch in own) < 0.9 * whole


@pytest.mark.parametrize("options", [{}, {"packed": True}, {"equal_rows": True}, {"pad_to_multiple_of": 16}])
@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (1, 3), (3, 2)])
def test_the_heaviest_step_holds_the_largest_micro_batch_of_any_rank(cache, ranks, accumulation, options) -> None:
    split = cache["train"]
    for spec in (PlanSpec("dynamic", 20), PlanSpec("tight", 20), PlanSpec("fixed", 20)):
        parts = [batch for own in parts_of(cache, spec, ranks, accumulation, **options) for batch in own]
        largest = max(computed(batch) for batch in parts)
        steps = {batch.step for batch in parts if computed(batch) == largest}
        for rank in range(ranks):
            place = {"rank": rank, "world_size": ranks, "gradient_accumulation_steps": accumulation}
            assert split.batches(1, spec, **place, **options).heaviest_step() == (largest, min(steps))
    batches = split.batches(1, spec, start=2, **options)
    assert batches.heaviest_step(end=2) == (0, 0)
    assert batches.heaviest_step()[1] >= 2
