"""For other people's loops: a stream whose place can be saved, a torch dataset of whole batches."""

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from cache import BatchStream, Cache, InputError, MismatchError, PlanSpec, Split, StepDataset, open_cache
from prep import to_dataset
from tests.helpers.caches import write_cache
from tests.helpers.children import CONTEXT, ended

TIGHT = PlanSpec("tight", 7)
NINES = PlanSpec("tight", 9)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """100 rows in two shards."""
    return write_cache(tmp_path_factory.mktemp("loops") / "toy", {"train": 100, "empty": 0}, shards=2)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_stream_is_the_epochs_one_after_the_other(corpus: Cache, accumulation: int) -> None:
    """The same batches as epoch by epoch, and a stream that has ended gives nothing more."""
    split = corpus["train"]
    stream = BatchStream(split, 3, TIGHT, gradient_accumulation_steps=accumulation)
    found = [batch.input_ids for batch in stream]
    expected = [
        b.input_ids for epoch in range(3) for b in split.batches(epoch, TIGHT, gradient_accumulation_steps=accumulation)
    ]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert list(stream) == []
    assert list(BatchStream(corpus["empty"], 2)) == []


def test_the_name_of_a_strategy_is_a_plan_with_the_built_ones_batch_size(corpus: Cache) -> None:
    split = corpus["train"]
    built = split.default_spec()
    assert split.batches(spec="dynamic").spec == PlanSpec("dynamic", built.batch_size, seed=built.seed)
    assert BatchStream(split, 1, "tight").spec == StepDataset(split, "tight").batches.spec == built.of_strategy("tight")
    assert PlanSpec("budget", None, 99).of_strategy("smart") == PlanSpec("smart", 16)
    assert PlanSpec("budget", None, 99, 7).of_strategy("budget") == PlanSpec("budget", None, 99, 7)
    for spec, message in (
        ("fast", "'fast' is not one of smart, tight"),
        (16, "spec is 16, expected a PlanSpec or one"),
    ):
        with pytest.raises(InputError, match=message):
            split.batches(spec=spec)  # type: ignore[arg-type]


def test_an_unknown_option_of_batches_is_told_those_there_are(corpus: Cache) -> None:
    with pytest.raises(InputError, match=r"no option strategy; there are spec .such as PlanSpec.*, device, rank"):
        corpus["train"].batches(strategy="tight")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda split: BatchStream(split, "3"), "epochs is '3', expected int"),
        (lambda split: BatchStream(split, 1, start=2), "no option start; there are spec"),
        (lambda split: StepDataset(split, gradient_accumulation_steps=2), "no option gradient_accumulation_steps"),
        (lambda split: StepDataset(split).set_epoch(1.0), "epoch is 1.0, expected int"),
        (lambda split: BatchStream(split, 1).load_state_dict(without_step(split)), "step is None, expected int"),
    ],
)
def test_what_a_stream_or_dataset_does_not_take_is_refused_at_once(
    corpus: Cache, make: Callable[[Split], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(corpus["train"])


def without_step(split: Split) -> dict[str, object]:
    state = BatchStream(split, 1).state_dict()
    del state["step"]
    return state


@pytest.mark.parametrize("take", [StepDataset, lambda cache: BatchStream(cache, 1), to_dataset])
def test_a_cache_in_place_of_a_split_is_refused(corpus: Cache, take: Callable[[object], object]) -> None:
    with pytest.raises(InputError, match=r"Cache\(.* is not a split, expected one of a cache"):
        take(corpus)


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


class Bag(torch.nn.Module):
    """A linear classifier of the mean of a row's embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.classifier = torch.nn.Embedding(205, 8), torch.nn.Linear(8, 2)
        self.double()

    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mean = (self.embedding(input_ids) * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)  # (B, 8)
        return torch.nn.functional.cross_entropy(self.classifier(mean), labels)


def gradients(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_all_ranks_take_the_same_steps_and_their_gradients_add_up(corpus: Cache, world: int, accumulation: int) -> None:
    """100 rows in batches of 9, one of a single row, of which some ranks have none: at every micro-step all of them go
    forward and backward, step and place stay equal, and the sum of the gradients is that of one process."""
    options = {"world_size": world, "gradient_accumulation_steps": accumulation}
    streams = [BatchStream(corpus["train"], 1, NINES, rank=rank, **options) for rank in range(world)]
    alone, model, fillers = iter(BatchStream(corpus["train"], 1, NINES)), Bag(), 0
    for parts in zip(*streams, strict=True):
        assert len({(part.step, part.last, part.step_rows) for part in parts}) == 1
        assert len({json.dumps(stream.state_dict()) for stream in streams}) == 1
        for part in parts:
            (model(**part.model_inputs()) * len(part) / part.step_rows).backward()
            fillers += len(part) == 0
        if parts[0].last:
            summed = gradients(model)
            model.zero_grad()
            model(**next(alone).model_inputs()).backward()
            torch.testing.assert_close(summed, gradients(model), rtol=0, atol=1e-12)
            model.zero_grad()
    assert next(alone, None) is None
    assert fillers > 0


def train_as_rank(rank: int, world: int, folder: Path, cache: Path) -> None:
    """One of the processes of a data-parallel training; the first one saves the weights."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=60), world, rank)
    model = Bag()
    train_bag(model, BatchStream(open_cache(cache)["train"], 2, NINES, rank=rank, world_size=world), world)
    if rank == 0:
        save_file(model.state_dict(), folder / "weights.safetensors")
    torch.distributed.destroy_process_group()


def train_bag(model: Bag, stream: BatchStream, world: int) -> None:
    parallel = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for batch in stream:
        (parallel(**batch.model_inputs()) * len(batch) * world / batch.step_rows).backward()  # DDP takes the mean
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.slow
def test_three_processes_train_as_one_does(corpus: Cache, tmp_path: Path) -> None:
    """DistributedDataParallel over batches of 9 and of one row: no rank waits for ever, the weights come out equal."""
    ranks = [CONTEXT.Process(target=train_as_rank, args=(rank, 3, tmp_path, corpus.folder)) for rank in range(3)]
    for process in ranks:
        process.start()
    assert [ended(process) for process in ranks] == [0, 0, 0]
    alone = Bag()
    train_bag(alone, BatchStream(corpus["train"], 2, NINES), 1)
    found = load_file(tmp_path / "weights.safetensors")
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-12)


def test_the_state_of_another_stream_is_refused(corpus: Cache) -> None:
    """Another plan is named in the message."""
    state = BatchStream(corpus["train"], 2, TIGHT).state_dict()
    with pytest.raises(MismatchError, match=r"plan 'tight-b7-s0', not 'smart-b8-s0'"):
        BatchStream(corpus["train"], 2, PlanSpec("smart", 8)).load_state_dict(state)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_the_planned_batches(corpus: Cache, workers: int) -> None:
    """In the plan's order, with workers and without, in every epoch; workers that stay take up the new one, too."""
    dataset = StepDataset(corpus["train"], TIGHT)
    apart: dict[str, Any] = {"multiprocessing_context": CONTEXT, "persistent_workers": True} if workers else {}
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, **apart)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        expected = [batch.model_inputs() for batch in corpus["train"].batches(epoch, TIGHT)]
        found = list(loader)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_data_loader_that_would_batch_batches_is_told_how_to_be_made(corpus: Cache) -> None:
    """As with transformers' Trainer as it comes; one by one they are taken."""
    dataset = StepDataset(corpus["train"], TIGHT)
    with pytest.raises(InputError, match=r"a batch of 2 items is asked for, .* pass batch_size=None"):
        next(iter(DataLoader(dataset, batch_size=2)))
    alone = next(iter(DataLoader(dataset, batch_size=1, collate_fn=itemgetter(0))))
    assert torch.equal(alone["input_ids"], dataset[0]["input_ids"])


def test_a_split_in_another_process_is_refused_once_the_cache_is_another(corpus: Cache, tmp_path: Path) -> None:
    """What travels is the place and the fingerprint, not the rows."""
    cache = write_cache(tmp_path / "toy", {"train": 10})
    opener, arguments = cache["train"].__reduce__()
    assert opener(*arguments).lengths.tolist() == cache["train"].lengths.tolist()
    assert copy.copy(cache).manifest == cache.manifest
    write_cache(tmp_path / "toy", {"train": 12})
    with pytest.raises(MismatchError, match="was replaced by another cache"):
        opener(*arguments)
