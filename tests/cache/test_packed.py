"""Packed batches hold the rows of the plan end to end: equal to transformers' flattening collator, from every feed."""

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithFlattening

from cache import Cache, PlanSpec
from cache.format.tasks import IGNORED
from tests.helpers.builds import build_toy
from tests.helpers.caches import write_cache
from tests.helpers.files import write_jsonl

FEEDS = ("direct", "resident", "streamed")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cache]:
    """Classes in three shards, pairs, and tags of words."""
    folder = tmp_path_factory.mktemp("packed")
    pairs = [{"a": "word1 " * (n % 7), "b": "word2 " * (n % 5 + 1), "label": "xy"[n % 2]} for n in range(60)]
    words = [{"tokens": [f"word{n}"] * (n % 6 + 1), "tags": ["B-X"] + ["O"] * (n % 6)} for n in range(60)]
    made = {"classes": write_cache(folder / "toy", {"train": 120}, shards=3)}
    for name, rows, more in (("pairs", pairs, {"text": "a", "text_pair": "b"}), ("tags", words, {})):
        made[name] = build_toy(write_jsonl(folder / f"{name}.jsonl", rows), folder, name=name, **more).cache
    return made


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", ["classes", "pairs", "tags"])
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 3, "start": 2}, {"rank": 1, "world_size": 2}])
def test_a_packed_batch_is_what_the_flattening_collator_makes_of_its_rows(caches, feed, name, options):
    split = caches[name]["train"]
    flatten = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    packed = list(split.batches(0, PlanSpec("dynamic", 7), packed=True, feed=feed, equal_rows=True, **options))
    padded = list(split.batches(0, PlanSpec("dynamic", 7), equal_rows=True, **options))
    assert len(packed) == len(padded) > 8
    for batch, other in zip(packed, padded, strict=True):
        assert np.array_equal(batch.rows, other.rows)
        facts = [(one.step, one.last, one.targets, one.real_tokens) for one in (batch, other)]
        assert facts[0] == facts[1]
        rows = [split[int(row)] for row in batch.rows]
        if not rows:  # a dummy batch
            continue
        expected = flatten([{"input_ids": row.input_ids.tolist()} for row in rows])
        inputs = batch.model_inputs()
        for key in ("input_ids", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k"):
            assert torch.equal(inputs[key], expected[key]), key
            assert inputs[key].dtype == expected[key].dtype
        assert inputs["max_length_q"] == inputs["max_length_k"] == expected["max_length_q"]
        assert batch.attention_mask is None
        assert batch.padded_tokens == batch.real_tokens == sum(len(row.input_ids) for row in rows)
        if name == "tags":
            assert batch.labels.tolist() == [[label for row in rows for label in row.label]]
            assert (batch.labels != IGNORED).sum() == batch.targets
        else:
            assert torch.equal(batch.labels, other.labels)
        if name == "pairs":
            types = [int(column >= row.first_length) for row in rows for column in range(len(row.input_ids))]
            assert batch.token_type_ids.tolist() == [types]
        else:
            assert batch.token_type_ids is None


def test_a_dummy_batch_is_packed_too(caches):
    split = caches["classes"]["train"]
    batches = list(split.batches(0, PlanSpec("dynamic", 7), packed=True, rank=7, world_size=8))
    assert len(batches) == 18
    assert all(len(batch) == batch.loss_weight == 0 and batch.input_ids.numel() == batch.longest for batch in batches)


@pytest.mark.parametrize("feed", FEEDS)
def test_a_large_vocabulary_is_packed_as_it_is(tmp_path, feed):
    cache = write_cache(tmp_path / "large", {"train": 30}, vocab_size=100_000)
    (batch, *_) = cache["train"].batches(0, PlanSpec("tight", 4), packed=True, feed=feed)
    ids = [token for row in batch.rows for token in cache["train"][int(row)].input_ids.tolist()]
    assert batch.input_ids.tolist() == [ids]
    assert max(ids) > 1 << 16
