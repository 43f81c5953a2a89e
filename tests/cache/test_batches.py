"""Batches equal what transformers' own collator makes of the same rows, however stored, shared out or resumed."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedTokenizerBase

from cache import Batch, Cache, InputError, PlanSpec, Split, open_cache
from cache.plans.costs import heaviest_step
from cache.plans.spec import STRATEGIES
from cache.reading.padding import gather_rows, row_mask

from ..helpers.caches import write_cache

SPECS = [PlanSpec.of(name, 8, None) if name != "budget" else PlanSpec(name, None, 200) for name in STRATEGIES]
SIDES = ("right", "left")


def padded_on(cache: Cache, side: str) -> Cache:
    """The same cache with another padding side in its manifest."""
    tokenizer = dataclasses.replace(cache.manifest.tokenizer, padding_side=side)
    manifest = dataclasses.replace(cache.manifest, tokenizer=tokenizer)
    (cache.folder / "manifest.json").write_bytes(manifest.to_bytes())
    return open_cache(cache.folder)


STORED = [("right", 3), ("left", 1)]
"""The side of the padding, and the shards of a split."""


@pytest.fixture(scope="module", params=STORED, ids=str)
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    side, shards = request.param
    place = tmp_path_factory.mktemp("caches") / "toy"
    return padded_on(write_cache(place, {"train": 61, "test": 7}, shards=shards, max_length=24), side)


def tokenizer_of(cache: Cache) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(cache.tokenizer_folder, padding_side=cache.manifest.tokenizer.padding_side)


def collated(cache: Cache, split: Split, batch: Batch, tokenizer: PreTrainedTokenizerBase, width: int | None) -> dict:
    rows = [{"input_ids": split[int(row)].input_ids.tolist(), "label": split[int(row)].label} for row in batch.rows]
    options = {"padding": True} if width is None else {"padding": "max_length", "max_length": width}
    return dict(DataCollatorWithPadding(tokenizer, **options)(rows))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_batches_equal_what_the_collator_makes_of_the_same_rows(cache: Cache, spec: PlanSpec) -> None:
    split, tokenizer = cache["train"], tokenizer_of(cache)
    seen = []
    for batch in split.batches(1, spec):
        expected = collated(cache, split, batch, tokenizer, 24 if spec.strategy == "fixed" else None)
        assert torch.equal(batch.input_ids, expected["input_ids"])
        assert torch.equal(batch.labels, expected["labels"])
        if batch.attention_mask is None:
            assert bool(expected["attention_mask"].all())
        else:
            assert torch.equal(batch.attention_mask, expected["attention_mask"])
            assert not bool(expected["attention_mask"].all()), "a mask that hides nothing is left out"
        assert batch.real_tokens == int(expected["attention_mask"].sum())
        assert batch.padded_tokens == expected["input_ids"].numel()
        assert set(batch.model_inputs()) == {"input_ids", "labels"} | (
            set() if batch.attention_mask is None else {"attention_mask"}
        )
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(61))
    assert seen == split.plan(spec, 1).rows.tolist()


def test_a_mask_is_given_everywhere_where_asked_for(cache: Cache) -> None:
    split = cache["train"]
    plain, masked = (list(split.batches(0, PlanSpec("tight", 2), always_mask=always)) for always in (False, True))
    assert any(batch.attention_mask is None for batch in plain)
    for one, other in zip(plain, masked, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        if one.attention_mask is None:
            assert bool(other.attention_mask.all())
        else:
            assert torch.equal(one.attention_mask, other.attention_mask)


@pytest.mark.parametrize("multiple", [1, 5, 8, 100])
def test_widths_round_up_to_a_multiple_as_the_collator_does_but_not_past_the_max_length(
    cache: Cache, multiple: int
) -> None:
    split, tokenizer = cache["train"], tokenizer_of(cache)
    for batch in split.batches(0, PlanSpec("dynamic", 8), pad_to_multiple_of=multiple):
        longest = int(split.lengths[batch.rows[-1]])
        width = min(-(-longest // multiple) * multiple, 24)
        expected = collated(cache, split, batch, tokenizer, width)
        assert torch.equal(batch.input_ids, expected["input_ids"])
        if batch.attention_mask is not None:
            assert torch.equal(batch.attention_mask, expected["attention_mask"])


SHARES = [(1, 1), (2, 1), (1, 3), (3, 2), (8, 1), (5, 4)]
"""Ranks, and micro-batches of each."""

SHARED = [
    pytest.param(STORED[(number + turn) % 2], spec, *share, id=f"{spec.id}-{share[0]}-{share[1]}")
    for number, spec in enumerate(SPECS)
    for turn, share in enumerate(SHARES)
]
"""Every strategy shared in every way, of the two caches in turn."""


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "spec", "ranks", "accumulation"), SHARED, indirect=["cache"])
def test_ranks_and_micro_steps_together_compute_the_planned_batch(
    cache: Cache, spec: PlanSpec, ranks: int, accumulation: int
) -> None:
    """Every row of the plan's batch once, and as many micro-batches on one rank as on another; one without rows of its
    own computes the batch's shortest row, which does not count."""
    split, side = cache["train"], cache.manifest.tokenizer.padding_side
    plan = split.plan(spec, 2)
    feeds = [
        split.batches(2, spec, rank=rank, world_size=ranks, gradient_accumulation_steps=accumulation)
        for rank in range(ranks)
    ]
    for step in range(len(plan)):
        planned = plan.rows[plan.batch_offsets[step] : plan.batch_offsets[step + 1]]
        parts = [feed.step(step) for feed in feeds]
        for rank, own in enumerate(parts):
            micro_steps = min(accumulation, -(-len(planned) // ranks))
            assert [part.last for part in own] == [False] * (micro_steps - 1) + [True]
            assert [len(part) > 0 for part in own] == [i * ranks + rank < len(planned) for i in range(micro_steps)]
            for part in own:
                computed = part.rows.tolist() or [int(planned[0])]
                lengths = split.lengths[computed].tolist()
                assert part.real_tokens == sum(split.lengths[part.rows])
                assert part.input_ids.shape == (len(computed), 24 if spec.strategy == "fixed" else max(lengths))
                rows = [
                    ids[:n] if side == "right" else ids[-n:] for ids, n in zip(part.input_ids, lengths, strict=True)
                ]
                assert [row.tolist() for row in rows] == [split[row].input_ids.tolist() for row in computed]
                assert part.labels.tolist() == split.labels[computed].tolist()
        every = [part for own in parts for part in own]
        assert sorted(np.concatenate([part.rows for part in every]).tolist()) == sorted(planned.tolist())
        assert {part.step_rows for part in every} == {len(planned)}
        assert sum(len(part) for part in every) == len(planned), "the weights len(batch) / step_rows add up to 1"


@pytest.mark.parametrize("feed", ["direct", "resident", "streamed"])
def test_the_side_of_padding_can_be_chosen_against_the_tokenizers_own(cache: Cache, feed: str) -> None:
    split, side, spec = cache["train"], cache.manifest.tokenizer.padding_side, PlanSpec("dynamic", 8)
    other = "left" if side == "right" else "right"
    pairs = zip(split.batches(0, spec), split.batches(0, spec, padding_side=other, feed=feed), strict=True)
    for one, two in pairs:
        if one.attention_mask is None or two.attention_mask is None:
            assert torch.equal(one.input_ids, two.input_ids)
            continue
        assert torch.equal(two.attention_mask, one.attention_mask.flip(1))
        for row, ids, mask in zip(two.rows.tolist(), two.input_ids, two.attention_mask.bool(), strict=True):
            assert ids[mask].tolist() == split[row].input_ids.tolist()
            assert set(ids[~mask].tolist()) <= {cache.manifest.tokenizer.pad_id}


def test_starting_at_a_step_gives_the_rest_of_the_epoch(cache: Cache) -> None:
    split = cache["train"]
    whole = list(split.batches(0))
    for start in range(len(whole) + 1):
        rest = split.batches(0, start=start)
        assert len(rest) == len(whole) - start
        pairs = zip(rest, whole[start:], strict=True)
        assert all(one.step == two.step and torch.equal(one.input_ids, two.input_ids) for one, two in pairs)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"rank": -1}, "rank -1"),
        ({"world_size": 0}, "0 ranks"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        ({"padding_side": "top"}, "padding_side 'top' is neither right nor left"),
        ({"start": -1}, "step -1"),
        ({"start": 1000}, "step 1000"),
        ({"epoch": "1"}, "epoch is '1', expected int"),
        ({"start": 1.5, "rank": True}, "start is 1.5, expected int; rank is True, expected int"),
        ({"packed": "yes"}, "packed is 'yes', expected bool"),
    ],
)
def test_options_out_of_range_are_refused(cache: Cache, options: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        cache["train"].batches(**options)


def test_numbers_of_numpy_are_numbers_and_a_step_outside_the_epoch_is_refused(cache: Cache) -> None:
    batches = cache["train"].batches(np.int64(1), start=np.int32(2))
    assert (batches.epoch, batches.start) == (1, 2)
    for outside in (-1, len(batches.plan)):
        with pytest.raises(IndexError, match=f"step {outside} of an epoch of"):
            batches.step(outside)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_splits_smaller_than_a_batch_work_even_with_shards_that_hold_no_row(
    tmp_path: Path, spec: PlanSpec, rows: int
) -> None:
    cache = write_cache(tmp_path / "toy", {"train": rows}, shards=8)
    split = cache["train"]
    found = [row for batch in split.batches(0, spec) for row in batch.rows.tolist()]
    assert sorted(found) == list(range(rows))
    assert len(split.labels) == len(split.source_rows) == len(split.lengths) == rows
    assert list(cache.verify())


def test_a_batch_across_all_shards_equals_the_rows_one_by_one(tmp_path: Path) -> None:
    split = write_cache(tmp_path / "toy", {"train": 40}, shards=13)["train"]
    [batch] = split.batches(0, PlanSpec("smart", 40))
    for position, row in enumerate(split):
        length = len(row.input_ids)
        assert batch.input_ids[position, :length].tolist() == row.input_ids.tolist()
        assert set(batch.input_ids[position, length:].tolist()) <= {0}
        assert batch.labels[position] == row.label


def test_rows_are_read_like_a_list(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy", {"train": 11}, shards=4)
    split = cache["train"]
    rows = list(split)
    assert len(rows) == len(split) == 11
    assert [len(row.input_ids) for row in rows] == split.lengths.tolist() == sorted(split.lengths.tolist())
    assert [row.label for row in rows] == split.labels.tolist()
    assert [row.source_row for row in rows] == split.source_rows.tolist()
    assert sorted(split.source_rows.tolist()) == list(range(11))
    assert all(split[i - 11].source_row == split[i].source_row for i in range(11))
    assert split[np.int64(3)].source_row == split[3].source_row
    for no_row in (slice(2), "3", 1.0):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            split[no_row]
    for outside in (11, -12):
        with pytest.raises(IndexError):
            split[outside]
    for array in (rows[0].input_ids, split.lengths):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_an_unknown_split_is_refused_with_those_there_are(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy", {"train": 3, "test": 2})
    with pytest.raises(InputError, match="no split 'dev'; it has train, test"):
        cache["dev"]
    assert "dev" not in cache
    assert cache.get("dev") is None
    assert cache.get("test") is cache["test"]
    assert list(cache) == ["train", "test"]
    assert "train: 3 rows" in repr(cache)


def test_the_heaviest_step_has_the_most_padded_tokens(cache: Cache) -> None:
    for spec in SPECS:
        plan = cache["train"].plan(spec, 0)
        tokens = [len(batch) * batch.input_ids.shape[1] for batch in cache["train"].batches(0, spec)]
        assert tokens[heaviest_step(plan)] == max(tokens)


# --- the rectangle itself


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [3, 1], [2], []])
def test_rows_are_laid_out_one_by_one_in_any_order(side: str, order: list[int]) -> None:
    for lengths in ([2, 2, 2, 2], [1, 2, 3, 3], [0, 0, 2, 3], [0, 0, 0, 0]):
        for wider in (0, 2):
            check_rows(side, order, lengths, wider)


def check_rows(side: str, order: list[int], lengths: list[int], wider: int) -> None:
    begins = np.cumsum([0, *lengths])[:-1]
    flat = np.arange(10, 10 + sum(lengths), dtype=np.uint16)
    chosen = np.array(order, int)
    sizes = np.array(lengths)[chosen]
    width = int(sizes.max(initial=0)) + wider
    padded = gather_rows(flat, begins[chosen], sizes, width, 7, side == "left")
    assert padded.shape == (len(order), width)
    assert padded.dtype == np.uint16
    for row, begin, size, mask in zip(
        padded.tolist(), begins[chosen], sizes, row_mask(sizes, width, side == "left"), strict=True
    ):
        values, fill = flat[begin : begin + size].tolist(), [7] * (width - size)
        assert row == (fill + values if side == "left" else values + fill)
        assert [value for value, real in zip(row, mask, strict=True) if real] == values
        assert mask.sum() == size
