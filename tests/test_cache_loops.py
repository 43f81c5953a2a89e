"""For other people's loops: a stream whose place can be saved, a torch dataset of whole batches."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from cache import MismatchError, PlanSpec
from cache.loops import BatchStream, StepDataset
from cache.reader import Cache
from tests.toys import write_cache

TIGHT = PlanSpec("tight", 7)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """100 rows in two shards."""
    return write_cache(tmp_path_factory.mktemp("loops") / "toy", {"train": 100, "empty": 0}, shards=2)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_stream_is_the_epochs_one_after_the_other(corpus: Cache, accumulation: int) -> None:
    """The same batches as epoch by epoch, and a stream that has ended gives nothing more."""
    split = corpus["train"]
    stream = BatchStream(split, 3, TIGHT, accumulation=accumulation)
    found = [batch.input_ids for batch in stream]
    expected = [b.input_ids for epoch in range(3) for b in split.batches(epoch, TIGHT, accumulation=accumulation)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert list(stream) == []
    assert list(BatchStream(corpus["empty"], 2)) == []


def test_a_stream_taken_up_at_any_step_goes_on_where_it_was(corpus: Cache) -> None:
    """Through JSON, after each of its steps, epoch ends included."""
    split = corpus["train"]
    everything = [batch.rows.tolist() for batch in BatchStream(split, 2, TIGHT)]
    stream = BatchStream(split, 2, TIGHT)
    for number, _ in enumerate(stream, start=1):
        state = json.loads(json.dumps(stream.state_dict()))
        other = BatchStream(split, 2, TIGHT)
        other.load_state_dict(state)
        assert [batch.rows.tolist() for batch in other] == everything[number:]


def test_a_rank_without_any_row_comes_to_an_end(corpus: Cache) -> None:
    """More ranks than rows in a batch: the last rank sees nothing, and does not wait for it."""
    assert list(BatchStream(corpus["train"], 2, TIGHT, rank=7, world_size=8)) == []


def test_the_state_of_another_stream_is_refused(corpus: Cache) -> None:
    """Another plan is named in the message."""
    state = BatchStream(corpus["train"], 2, TIGHT).state_dict()
    with pytest.raises(MismatchError, match=r"plan 'tight-b7-s0', not 'smart-b8-s0'"):
        BatchStream(corpus["train"], 2, PlanSpec("smart", 8)).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_the_planned_batches(corpus: Cache, workers: int) -> None:
    """In the plan's order, with workers and without, in every epoch."""
    dataset = StepDataset(corpus["train"], TIGHT)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        loader = DataLoader(
            dataset, batch_size=None, num_workers=workers, multiprocessing_context="spawn" if workers else None
        )
        expected = [batch.model_inputs() for batch in corpus["train"].batches(epoch, TIGHT)]
        found = list(loader)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_split_in_another_process_is_refused_once_the_cache_is_another(corpus: Cache, tmp_path: Path) -> None:
    """What travels is the place and the fingerprint, not the rows."""
    cache = write_cache(tmp_path / "toy", {"train": 10})
    opener, arguments = cache["train"].__reduce__()
    assert opener(*arguments).lengths.tolist() == cache["train"].lengths.tolist()
    write_cache(tmp_path / "toy", {"train": 12})
    with pytest.raises(MismatchError, match="was replaced by another cache"):
        opener(*arguments)
