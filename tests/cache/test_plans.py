"""Plans: every row once, the promised widths, the same everywhere, drawn as the tutorials draw."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.common.arrays import Array
from cache.errors import InputError
from cache.plans.spec import STRATEGIES, PlanSpec
from cache.plans.strategies import EpochPlan, plan_epoch

MAX_LENGTH = 40
SPECS = [PlanSpec.of(name, max_tokens=64 if name == "budget" else None) for name in STRATEGIES]

lengths_of_rows = st.lists(st.integers(1, MAX_LENGTH), max_size=120).map(
    lambda sizes: np.array(sorted(sizes), np.int32)
)


@st.composite
def specs(draw: st.DrawFn) -> PlanSpec:
    strategy, seed = draw(st.sampled_from(STRATEGIES)), draw(st.integers(0, 2**63 - 1))
    if strategy == "budget":
        return PlanSpec(strategy, None, draw(st.integers(MAX_LENGTH, 400)), seed)
    return PlanSpec(strategy, draw(st.integers(1, 150)), None, seed)


def batches(plan: EpochPlan) -> list[Array]:
    return np.split(plan.rows, plan.batch_offsets[1:-1]) if len(plan) else []


def some_lengths(rows: int = 500, seed: int = 7) -> Array:
    return np.sort(np.random.default_rng(seed).integers(3, MAX_LENGTH + 1, rows)).astype(np.int32)


@pytest.mark.slow
@given(lengths_of_rows, specs(), st.integers(0, 5))
@settings(max_examples=120, deadline=None)
def test_batches_hold_each_row_once_ascend_to_their_width_and_pass_no_limit(
    lengths: Array, spec: PlanSpec, epoch: int
) -> None:
    plan = plan_epoch(lengths, spec, epoch, MAX_LENGTH)
    found = batches(plan)
    assert np.array_equal(np.sort(plan.rows), np.arange(len(lengths)))
    assert (plan.batch_offsets[0], plan.batch_offsets[-1]) == (0, len(lengths))
    assert len(plan) == len(found) == len(plan.sizes)
    for batch, width in zip(found, plan.widths, strict=True):
        assert len(batch)
        assert sorted(set(batch.tolist())) == batch.tolist()
        assert width == (MAX_LENGTH if spec.strategy == "fixed" else max(lengths[row] for row in batch))
        if spec.strategy == "budget":
            assert len(batch) * int(width) <= spec.max_tokens
        else:
            assert len(batch) <= spec.batch_size
    assert plan.padded_tokens == sum(len(batch) * int(width) for batch, width in zip(found, plan.widths, strict=True))
    if spec.strategy in ("smart", "dynamic", "fixed"):
        assert {len(batch) for batch in found[:-1]} <= {spec.batch_size}, "only the last batch may be short"


@pytest.mark.slow
@given(lengths_of_rows, st.integers(1, 20), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_tight_makes_all_the_full_uniform_batches_that_there_can_be(lengths: Array, size: int, seed: int) -> None:
    plan = plan_epoch(lengths, PlanSpec("tight", size, None, seed), 0, MAX_LENGTH)
    uniform = [b for b in batches(plan) if len(b) == size and lengths[b[0]] == lengths[b[-1]]]
    possible = np.bincount(lengths) // size if len(lengths) else np.zeros(1, int)
    found = np.bincount([lengths[b[0]] for b in uniform], minlength=len(possible))
    assert (found >= possible).all()
    others = len(plan) - int(possible.sum())
    left = len(lengths) - size * int(possible.sum())
    assert others <= left // size + 2, "the rest is cut into full batches, but for the first and the last"


@pytest.mark.slow
@given(lengths_of_rows, st.integers(MAX_LENGTH, 300), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_budget_makes_all_the_full_uniform_batches_that_there_can_be(lengths: Array, tokens: int, seed: int) -> None:
    plan = plan_epoch(lengths, PlanSpec("budget", None, tokens, seed), 0, MAX_LENGTH)
    full = [b for b in batches(plan) if lengths[b[0]] == lengths[b[-1]] and len(b) == tokens // int(lengths[b[0]])]
    for length, count in enumerate(np.bincount(lengths) if len(lengths) else []):
        if length:
            assert sum(lengths[b[0]] == length for b in full) >= count // (tokens // length)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_an_empty_split_has_no_batches_and_one_row_makes_one(spec: PlanSpec) -> None:
    empty = plan_epoch(np.zeros(0, np.int32), spec, 0, MAX_LENGTH)
    assert (len(empty), empty.rows.tolist(), empty.batch_offsets.tolist(), empty.padded_tokens) == (0, [], [0], 0)
    one = plan_epoch(np.array([5], np.int32), spec, 0, MAX_LENGTH)
    assert (one.rows.tolist(), one.batch_offsets.tolist()) == ([0], [0, 1])
    assert one.widths.tolist() == [MAX_LENGTH if spec.strategy == "fixed" else 5]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_epochs_and_seeds_differ_and_repeat(spec: PlanSpec) -> None:
    lengths = some_lengths()
    other = PlanSpec(spec.strategy, spec.batch_size, spec.max_tokens, spec.seed + 1)
    drawn = [plan_epoch(lengths, s, epoch, MAX_LENGTH).rows.tobytes() for s in (spec, other) for epoch in (0, 1, 2)]
    assert len(set(drawn)) == len(drawn)
    assert plan_epoch(lengths, spec, 1, MAX_LENGTH).rows.tobytes() == drawn[1]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_the_type_of_the_lengths_does_not_matter(spec: PlanSpec) -> None:
    kinds = [*(some_lengths().astype(kind) for kind in (np.uint8, np.int32, np.int64)), some_lengths().tolist()]
    plans = [plan_epoch(lengths, spec, 0, MAX_LENGTH) for lengths in kinds]
    assert len({fingerprint(plan) for plan in plans}) == 1
    assert {str(array.dtype) for array in vars(plans[0]).values()} == {"uint32", "int64", "int32"}


# --- the same on any machine


def fingerprint(plan: EpochPlan) -> str:
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in (plan.rows, plan.batch_offsets, plan.widths))
    return hashlib.sha256(data).hexdigest()


def golden_lengths() -> Array:
    """500 lengths of 3..40, by arithmetic alone."""
    return np.sort(3 + (np.arange(500) ** 2 * 7 + 11) % 38).astype(np.int32)


GOLDEN = {
    "smart-b16-s0": "4e1355f2bb58ad5acee6b0d4d6feb967521266331b0da1b8eb3c3cbdd10bf24c",
    "tight-b16-s0": "db853b156963ddc704432031d458e3c6a55b259d46a415ac65a013e4ba6d81ac",
    "budget-t64-s0": "05177c41081fadb5bcf2b1ee8af0c0a64dff0cf0aba0dcedd01677465a69732e",
    "dynamic-b16-s0": "32686d40bf5792eee3461810393e8ba9507851328db4cb2e7dbd5657947007fd",
    "fixed-b16-s0": "0a0524e62d5d602b2f288c46e4141636696ae648061bcea6b79e2c48e94db762",
}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_plans_are_pinned_to_the_byte(spec: PlanSpec) -> None:
    """A numpy that drew another stream, or a change of an algorithm, would make stored plans and resumed runs differ
    from fresh ones. If this fails by intent, raise PLAN_VERSION."""
    assert fingerprint(plan_epoch(golden_lengths(), spec, 3, MAX_LENGTH)) == GOLDEN[spec.id]


# --- settings


@pytest.mark.parametrize(
    ("settings_of_plan", "named"),
    [
        ({"strategy": "wise"}, ["--strategy 'wise'", "smart, tight"]),
        ({"strategy": ["smart"]}, ["--strategy ['smart']"]),
        ({"batch_size": 0}, ["--batch-size, 1 or more"]),
        ({"batch_size": "16"}, ["--batch-size, 1 or more", "--batch-size is '16'"]),
        ({"batch_size": None}, ["--batch-size, 1 or more"]),
        ({"batch_size": True}, ["--batch-size, 1 or more"]),
        ({"batch_size": 1 << 31}, ["--batch-size, 1 or more"]),
        ({"max_tokens": 100}, ["no --max-tokens, which goes with --strategy budget"]),
        ({"strategy": "budget"}, ["--max-tokens, 1 or more, and no --batch-size"]),
        ({"seed": -1}, ["seed -1"]),
        ({"seed": 1 << 63}, ["seed"]),
        ({"seed": True}, ["seed True"]),
        ({"strategy": "wise", "seed": 1.5, "batch_size": -3}, ["--strategy", "seed 1.5", "--batch-size"]),
    ],
)
def test_settings_that_make_no_sense_are_all_named_at_once(settings_of_plan: dict, named: list[str]) -> None:
    with pytest.raises(InputError) as error:
        PlanSpec(**settings_of_plan)
    assert all(part in str(error.value) for part in named)


def test_a_batch_size_that_was_not_given_is_16_but_for_budget() -> None:
    assert PlanSpec.of("tight") == PlanSpec("tight") == PlanSpec("tight", 16)
    assert PlanSpec.of("budget", max_tokens=99) == PlanSpec("budget", max_tokens=99) == PlanSpec("budget", None, 99)
    assert [PlanSpec.of("smart", 4, seed=2).id, PlanSpec("budget", None, 99).id] == ["smart-b4-s2", "budget-t99-s0"]


def test_a_row_beyond_the_token_budget_is_refused_with_the_budget_that_would_do() -> None:
    with pytest.raises(InputError, match="--max-tokens 40 or more"):
        plan_epoch(np.array([3, 40], np.int32), PlanSpec("budget", None, 39), 0, MAX_LENGTH)


@pytest.mark.parametrize("lengths", [[5, 4], [3, MAX_LENGTH + 1], [-1, 3]])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_lengths_that_no_split_has_are_refused(spec: PlanSpec, lengths: list[int]) -> None:
    with pytest.raises(InputError, match="ascend"):
        plan_epoch(np.array(lengths, np.int32), spec, 0, MAX_LENGTH)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_rows_without_tokens_are_planned_like_others(spec: PlanSpec) -> None:
    plan = plan_epoch(np.array([0] * 70 + [1] * 5, np.int32), spec, 0, MAX_LENGTH)
    assert sorted(plan.rows.tolist()) == list(range(75))
