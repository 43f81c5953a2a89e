"""What a plan costs, against sums made row by row; how a batch is shared out over ranks and micro-steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.common.arrays import Array
from cache.plans import costs
from cache.plans.costs import plan_cost, round_widths
from cache.plans.spec import STRATEGIES, PlanSpec
from cache.plans.strategies import plan_epoch

pytestmark = pytest.mark.slow

MAX_LENGTH = 40


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, PlanSpec]:
    lengths = np.array(sorted(draw(st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=80))), np.int32)
    strategy = draw(st.sampled_from(STRATEGIES))
    if strategy == "budget":
        return lengths, PlanSpec(strategy, None, draw(st.integers(MAX_LENGTH, 300)))
    return lengths, PlanSpec(strategy, draw(st.integers(1, 90)))


@given(cases(), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_costs_equal_sums_over_every_batch_and_rank(case: tuple[Array, PlanSpec], ranks: int) -> None:
    lengths, spec = case
    plan = plan_epoch(lengths, spec, 0, MAX_LENGTH)
    fixed = spec.strategy == "fixed"
    cost = plan_cost(plan, lengths, (ranks,), own_width=not fixed)
    computed = waited = padded = uniform = 0
    for batch in range(len(plan)):
        rows = plan.rows[plan.batch_offsets[batch] : plan.batch_offsets[batch + 1]]
        width = MAX_LENGTH if fixed else max(lengths[rows])
        padded += len(rows) * width
        uniform += all(lengths[row] == width for row in rows)
        per_rank = [rows[rank::ranks] for rank in range(ranks)]
        work = [len(own) * (MAX_LENGTH if fixed else max(lengths[own])) if len(own) else 0 for own in per_rank]
        computed += sum(work)
        waited += ranks * max(work)
    assert (cost.batches, cost.real_tokens, cost.padded_tokens) == (len(plan), sum(lengths.tolist()), padded)
    assert cost.uniform_batches == uniform
    assert cost.utilization == {ranks: pytest.approx(computed / waited)}
    assert cost.overhead == pytest.approx(padded / sum(lengths.tolist()) - 1)


@given(cases(), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_packed_batches_cost_the_tokens_of_their_rows(
    case: tuple[Array, PlanSpec], ranks: int, batches_at_a_time: int
) -> None:
    lengths, spec = case
    plan = plan_epoch(lengths, spec, 0, MAX_LENGTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "BATCHES_AT_A_TIME", batches_at_a_time)
        cost = costs.packed_cost(plan, lengths, (ranks,))
    computed = waited = 0
    for batch in range(len(plan)):
        rows = plan.rows[plan.batch_offsets[batch] : plan.batch_offsets[batch + 1]]
        work = [int(lengths[rows[rank::ranks]].sum()) for rank in range(ranks)]
        computed += sum(work)
        waited += ranks * max(work)
    assert cost.real_tokens == cost.padded_tokens == sum(lengths.tolist())
    assert cost.uniform_batches == cost.batches == len(plan)
    assert cost.utilization == {ranks: pytest.approx(computed / waited)}


def test_one_rank_never_waits_and_no_rows_cost_nothing() -> None:
    lengths = np.arange(1, 33, dtype=np.int32)
    assert plan_cost(plan_epoch(lengths, PlanSpec("smart", 8), 0, 40), lengths).utilization[1] == 1.0
    none = np.zeros(0, np.int32)
    cost = plan_cost(plan_epoch(none, PlanSpec("smart", 8), 0, 40), none)
    assert (cost.batches, cost.padded_tokens, cost.overhead, cost.uniform_batches) == (0, 0, 0.0, 0)
    assert set(cost.utilization.values()) == {1.0}


@given(cases(), st.integers(1, 70))
@settings(max_examples=200, deadline=None)
def test_widths_round_up_to_a_multiple_but_not_past_the_max_length(case: tuple[Array, PlanSpec], multiple: int) -> None:
    lengths, spec = case
    plan = plan_epoch(lengths, spec, 0, MAX_LENGTH)
    for width, rounded in zip(plan.widths, round_widths(plan, multiple, MAX_LENGTH).widths, strict=True):
        assert rounded >= width
        assert rounded == MAX_LENGTH or rounded % multiple == 0
        assert rounded - width < multiple
