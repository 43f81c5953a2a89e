"""`prep info --ranks`: how well ranks are used, and which batches are too small for them."""

import json
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from cache import InputError, PlanSpec, Split, open_cache
from cache.plans.costs import rank_use
from cache.plans.strategies import EpochPlan
from prep.inspect.ranks import format_ranks, rank_facts

from ..helpers.caches import write_cache
from ..helpers.commands import Prep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache of 200 rows, with a plan of a token budget."""
    cache = write_cache(tmp_path / "toy", {"train": 200})
    cache["train"].keep_plan(PlanSpec("budget", None, 300), 1)
    return cache.folder


def test_the_facts_are_those_of_the_plans(folder: Path, prep: Prep) -> None:
    """Each plan of the token table, and batches of as many rows for every rank."""
    cache, split = open_cache(folder), open_cache(folder)["train"]
    batch_size = split.default_spec().batch_size
    facts = rank_facts(cache, 4)
    assert json.loads(prep("info", str(folder), "--ranks", "4", "--json").out)["ranks"] == facts
    found = {(plan["strategy"], plan["batch_size"] or plan["max_tokens"]): plan for plan in facts["plans"]}
    sizes = [(name, size) for size in (batch_size, 4 * batch_size) for name in ("fixed", "dynamic", "smart", "tight")]
    assert found.keys() == {*sizes, ("budget", 300)}
    for strategy, size in sizes:
        plan = split.plan(PlanSpec(strategy, size), 0)
        width = split.max_length if strategy == "fixed" else None
        for kind, packed in (("padded", False), ("padding_free", True)):
            use = rank_use(plan, split.lengths, 4, packed=packed, fixed_width=width)
            assert found[strategy, size][kind] == {"busy": use.busy, "useful": use.useful}


def test_batches_smaller_than_the_ranks_are_warned_about_with_the_size_that_fits(folder: Path, prep: Prep) -> None:
    cache = open_cache(folder)
    batch_size, longest = cache["train"].default_spec().batch_size, cache["train"].info.longest
    said = prep("info", str(folder), "--ranks", "40").out
    assert f"with --batch-size {batch_size} some of 40 ranks have no row; train with --batch-size 40 or more" in said
    assert f"with --max-tokens 300 some of 40 ranks have no row; train with --max-tokens {40 * longest} or more" in said
    assert "warning" not in format_ranks(rank_facts(cache, 2))


def test_info_draws_each_plan_once_and_holds_one_at_a_time(
    folder: Path, prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, drawn, held = Split.draw, list[PlanSpec](), WeakValueDictionary[PlanSpec, EpochPlan]()

    def observed(split: Split, spec: PlanSpec, epoch: int) -> EpochPlan:
        assert not held
        drawn.append(spec)
        plan = held[spec] = draw(split, spec, epoch)
        return plan

    monkeypatch.setattr(Split, "draw", observed)
    for options in ([], ["--json"]):
        drawn.clear()
        assert prep("info", str(folder), "--ranks", "4", *options).code == 0
        assert len(drawn) == len(set(drawn)) == 8  # four strategies, two batch sizes; the budget is stored


@pytest.mark.parametrize("ranks", [0, -1, 4097])
def test_impossible_numbers_of_ranks_are_refused(folder: Path, prep: Prep, ranks: int) -> None:
    with pytest.raises(InputError, match=f"--ranks is {ranks:,}, expected 1 to 4,096; pass for example --ranks 8"):
        rank_facts(open_cache(folder), ranks)
    assert prep("info", str(folder), "--ranks", str(ranks)).code == 2
