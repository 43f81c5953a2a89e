"""All feeds give the same tensors: direct, resident on the device, streamed by a background thread."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from cache import STRATEGIES, Batch, Cache, InputError, PlanSpec
from cache.batches import feeds
from cache.batches.device_feeds import DeviceRows
from cache.batches.options import PaddingOptions
from cache.batches.transfer import to_device
from tests.helpers.caches import write_cache

SIDES = ("right", "left")


@pytest.fixture(scope="module", params=SIDES)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """300 rows in three shards, padded on either side."""
    place: Path = tmp_path_factory.mktemp("feeds") / "toy"
    return write_cache(place, {"train": 300}, shards=3, padding_side=request.param)


def spec(strategy: str) -> PlanSpec:
    """A plan of the strategy with batches of about seven rows."""
    return PlanSpec(strategy, None, 200) if strategy == "budget" else PlanSpec(strategy, 7)


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    """Every field of every batch is equal, types included."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        facts = [(b.rows.tolist(), b.step, b.step_rows, b.last, b.real_tokens) for b in (one, other)]
        assert facts[0] == facts[1]
        assert one.model_inputs().keys() == other.model_inputs().keys()
        for name, value in other.model_inputs().items():
            found = one.model_inputs()[name]
            if not isinstance(value, torch.Tensor):
                assert found == value, name
                continue
            assert found.dtype == value.dtype == (torch.int32 if "seq_lens" in name else torch.int64)
            assert torch.equal(found.cpu(), value), name


FED = [
    (SIDES[(number + turn) % 2], feed, strategy)
    for number, feed in enumerate(("resident", "streamed"))
    for turn, strategy in enumerate(STRATEGIES)
]
"""Either feed with every strategy, padded on either side in turn."""


@pytest.mark.slow
@pytest.mark.parametrize(("corpus", "feed", "strategy"), FED, indirect=["corpus"])
def test_every_feed_gives_the_same_tensors(corpus: Cache, feed: str, strategy: str) -> None:
    """Resident and streamed batches equal the direct ones, over shards, padding sides and micro-steps."""
    for options in (
        {},
        {"gradient_accumulation_steps": 3, "start": 5},
        {"pad_to_multiple_of": 8},
        {"always_mask": True},
        {"packed": True},
    ):
        direct = list(corpus["train"].batches(1, spec(strategy), feed="direct", **options))
        assert_same(list(corpus["train"].batches(1, spec(strategy), feed=feed, **options)), direct)


@pytest.mark.cuda
@pytest.mark.parametrize("feed", ["auto", "direct", "resident", "streamed"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_feed_gives_the_same_tensors_on_cuda(corpus: Cache, feed: str, packed: bool) -> None:
    """The same on a GPU, bit for bit."""
    direct = list(corpus["train"].batches(0, spec("smart"), packed=packed))
    found = list(corpus["train"].batches(0, spec("smart"), feed=feed, device="cuda", packed=packed))
    assert all(batch.input_ids.device.type == "cuda" for batch in found)
    assert_same(found, direct)


@pytest.mark.parametrize(("kind", "waits"), [("cpu", False), ("cuda", False), ("xpu", False), ("mps", True)])
def test_a_copy_to_the_device_is_not_waited_for_but_on_mps(kind: str, waits: bool) -> None:
    """There torch reads the source after it was released: rows would be noise, and nothing would tell."""
    source, device = MagicMock(), torch.device(kind)
    to_device(source, device)
    assert source.pin_memory.called == (kind in ("cuda", "xpu"))
    (source.pin_memory() if source.pin_memory.called else source).to.assert_called_with(device, non_blocking=not waits)


def test_auto_is_direct_on_a_cpu(corpus: Cache) -> None:
    """No thread and no copy where the model computes on the CPU."""
    before = threading.active_count()
    assert_same(list(corpus["train"].batches()), list(corpus["train"].batches(feed="direct")))
    assert threading.active_count() == before


def test_auto_is_resident_on_a_device_where_an_eighth_of_the_free_memory_holds_the_split(
    corpus: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a device that does not tell its free memory a fixed size is taken for the limit."""
    size = sum(shard.bytes for shard in corpus["train"].info.shards)
    monkeypatch.setattr(feeds, "ResidentFeed", lambda *_: "resident")
    monkeypatch.setattr(feeds, "StreamedFeed", lambda *_: "streamed")

    def chosen(**module: Any) -> Any:
        monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(**module))
        padding = PaddingOptions(always_mask=False, left=False, packed=False)
        return feeds.choose_feed("auto", corpus["train"], torch.device("cuda"), padding)

    assert chosen(mem_get_info=lambda _: (8 * size, 0)) == chosen() == "resident"
    monkeypatch.setattr(feeds, "RESIDENT_BYTES", size - 1)
    assert chosen(mem_get_info=lambda _: (8 * size - 1, 99 * size)) == chosen() == "streamed"


def test_a_stream_left_early_ends_its_thread(corpus: Cache) -> None:
    """Breaking out of a loop over streamed batches leaves no thread behind."""
    batches = iter(corpus["train"].batches(feed="streamed"))
    next(batches)
    del batches
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lengthwise-feed")]


def test_an_unknown_feed_is_refused(corpus: Cache) -> None:
    """The message lists the feeds."""
    with pytest.raises(InputError, match=r"feed 'fast' is not one of auto, direct, resident, streamed"):
        corpus["train"].batches(feed="fast")


def test_a_large_vocabulary_is_fed_as_it_is(tmp_path: Path) -> None:
    """Ids above 32,767 and above 65,535 survive the signed types that tokens travel in."""
    for vocab_size, least in ((100_000, 1 << 16), (65_000, 1 << 15)):
        split = write_cache(tmp_path / str(vocab_size), {"train": 64}, vocab_size=vocab_size)["train"]
        assert int(max(row.input_ids.max() for row in split)) > least
        expected = list(split.batches(feed="direct"))
        for feed in ("resident", "streamed"):
            assert_same(list(split.batches(feed=feed)), expected)


def test_rows_are_taken_on_a_device_without_their_tokens() -> None:
    """Of fewer tokens than rows, too, where some rows have none."""
    rows = DeviceRows.end_to_end(torch.tensor([7], dtype=torch.int16), np.array([0, 0, 1]), None, None, None)
    taken = rows.take(torch.tensor([2, 1]))
    assert taken.tokens is rows.tokens
    assert (taken.begins.tolist(), taken.lengths.tolist()) == ([0, 0], [1, 0])
