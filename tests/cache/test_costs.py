"""What a plan costs and how well ranks are used that share its batches, against sums made row by row."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.batches.micro_batches import Sharing, micro_batches
from cache.common.arrays import Array
from cache.plans import costs
from cache.plans.costs import RankUse, packed_cost, plan_cost, rank_use, round_up
from cache.plans.spec import STRATEGIES, PlanSpec
from cache.plans.strategies import EpochPlan, plan_epoch

pytestmark = pytest.mark.slow

MAX_LENGTH = 40


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, PlanSpec]:
    lengths = np.array(sorted(draw(st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=80))), np.int32)
    strategy = draw(st.sampled_from(STRATEGIES))
    if strategy == "budget":
        return lengths, PlanSpec(strategy, None, draw(st.integers(MAX_LENGTH, 300)))
    return lengths, PlanSpec(strategy, draw(st.integers(1, 90)))


@given(cases())
@settings(max_examples=80, deadline=None)
def test_costs_equal_sums_over_every_batch(case: tuple[Array, PlanSpec]) -> None:
    lengths, spec = case
    plan = plan_epoch(lengths, spec, 0, MAX_LENGTH)
    cost = plan_cost(plan, lengths)
    padded = uniform = 0
    for rows in batches_of(plan):
        width = MAX_LENGTH if spec.strategy == "fixed" else max(lengths[rows])
        padded += len(rows) * width
        uniform += all(lengths[row] == width for row in rows)
    assert (cost.batches, cost.real_tokens, cost.padded_tokens) == (len(plan), sum(lengths.tolist()), padded)
    assert cost.uniform_batches == uniform
    assert cost.overhead == pytest.approx(padded / sum(lengths.tolist()) - 1)
    packed = packed_cost(cost)
    assert packed.real_tokens == packed.padded_tokens == sum(lengths.tolist())
    assert packed.uniform_batches == packed.batches == len(plan)


def batches_of(plan: EpochPlan) -> list[Array]:
    return [plan.rows[begin:end].astype(np.int64) for begin, end in pairwise(plan.batch_offsets)]


@given(cases(), st.integers(1, 9), st.sampled_from(["padded", "packed"]))
@settings(max_examples=100, deadline=None)
def test_the_use_of_ranks_equals_sums_over_every_batch_and_rank(
    case: tuple[Array, PlanSpec], ranks: int, kind: str
) -> None:
    """Each rank's cost, from the rows that `micro_batches` gives it; a row of L columns costs 100 L + L²."""
    lengths, spec = case
    plan = plan_epoch(lengths, spec, 0, MAX_LENGTH)
    fixed, packed = spec.strategy == "fixed", kind == "packed"
    computed, needed, waited = 0, 0, 0
    shares = [
        micro_batches(
            plan,
            lengths,
            0,
            len(plan),
            Sharing(MAX_LENGTH, rank, ranks, fixed=fixed, packed=packed, attention_length=100),
        )
        for rank in range(ranks)
    ]
    for parts in zip(*shares, strict=True):
        work = []
        for part in parts:
            own = lengths[part.rows].tolist()
            needed += sum(100 * length + length**2 for length in own)
            columns = own if packed else [MAX_LENGTH if fixed else max(own, default=0)] * len(own)
            work.append(sum(100 * width + width**2 for width in columns))
        computed += sum(work)
        waited += ranks * max(work)
    use = rank_use(plan, lengths, ranks, packed=packed, fixed_width=MAX_LENGTH if fixed else None, attention_length=100)
    assert (use.busy, use.useful) == (pytest.approx(computed / waited), pytest.approx(needed / waited))


def test_of_a_long_epoch_some_steps_spread_evenly_show_the_use_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.sort(np.random.default_rng(0).integers(1, 400, 20_000)).astype(np.int32)
    plan = plan_epoch(lengths, PlanSpec("dynamic", 32), 0, 400)
    every = rank_use(plan, lengths, 8)
    monkeypatch.setattr(costs, "MOST_ROWS", 2000)
    some = rank_use(plan, lengths, 8)
    assert some != every
    assert (some.busy, some.useful) == (pytest.approx(every.busy, abs=0.02), pytest.approx(every.useful, abs=0.02))


def test_one_rank_never_waits_and_no_rows_cost_nothing() -> None:
    lengths, none = np.arange(1, 33, dtype=np.int32), np.zeros(0, np.int32)
    assert rank_use(plan_epoch(lengths, PlanSpec("smart", 8), 0, 40), lengths, 1).busy == 1.0
    empty = plan_epoch(none, PlanSpec("smart", 8), 0, 40)
    cost = plan_cost(empty, none)
    assert (cost.batches, cost.padded_tokens, cost.overhead, cost.uniform_batches) == (0, 0, 0.0, 0)
    assert rank_use(empty, none, 8) == RankUse(1.0, 1.0)


@given(st.lists(st.integers(1, MAX_LENGTH)), st.integers(1, 70) | st.just(1 << 40))
@settings(max_examples=80, deadline=None)
def test_widths_round_up_to_a_multiple_but_not_past_the_max_length(widths: list[int], multiple: int) -> None:
    for width, rounded in zip(widths, round_up(np.array(widths, np.int32), multiple, MAX_LENGTH), strict=True):
        assert rounded >= width
        assert rounded == MAX_LENGTH or rounded % multiple == 0
        assert rounded - width < multiple
