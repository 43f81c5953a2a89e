"""The training loop: the numbers it gives, and what it does not do."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import torch

from cache.common.folder import Folder
from cache.errors import InputError, LengthwiseError, MismatchError
from cache.format import tasks
from cache.format.files import FileInfo
from cache.plans.spec import PlanSpec
from tests.helpers.caches import write_cache
from tests.helpers.models import write_model
from train.loop.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from train.loop.epoch_row import epoch_row
from train.loop.resolution import epoch_steps, epochs_reached, keep_plan, resolve_settings, training_split
from train.loop.setup import TrainingSetup
from train.loop.state import Meter, State, Sums
from train.loop.step import backward, learning_rate, non_finite, schedule, update
from train.metrics.evaluation import evaluate
from train.report import run_warnings, small_batch_warning
from train.run import train
from train.run_folder.folder import METRICS, TIMING
from train.runtime import device as devices
from train.settings import SCHEDULES, Settings

CPU = torch.device("cpu")


class Recorder:
    """Callbacks that keep the loss of every step."""

    def __init__(self, job: TrainingSetup, state: State) -> None:
        self.job, self.state, self.losses, self.sums = job, state, [], Sums()

    def on_log(self) -> None:
        sums, self.norm, self.bad_step = self.state.meter.read()
        self.losses.append(sums.mean_loss)
        self.sums += sums
        self.state.meter = Meter(CPU)

    def on_step_end(self) -> bool:
        return False

    def on_epoch_end(self) -> bool:
        self.state.epoch, self.state.epoch_step = self.state.epoch + 1, 0
        return False


def run(job: TrainingSetup) -> Recorder:
    state = State(Meter(CPU))
    callbacks = Recorder(job, state)
    torch.manual_seed(job.settings.seed)
    assert train(job, state, callbacks)
    return callbacks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fused", "budget", "fp16"), [(True, None, False), (False, None, False), (True, 256, False), (True, None, True)]
)
def test_20_steps_equal_a_plain_loop_loss_by_loss(toy, model_folder, make_job, fused, budget, fp16):
    """Dropout on, the same seed: bit by bit with the same fused AdamW, within 1e-5 with the plain one.

    In fp16 the plain loop has autocast and `torch.amp.GradScaler`. With a budget each row counts the same.
    """
    from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

    from train.models.heads import quiet_transformers

    spec = PlanSpec("budget", None, budget) if budget else PlanSpec("smart", 8)
    precision = "fp16" if fp16 else "fp32"
    ours = run(make_job(spec, lr=1e-3, warmup_steps=4, max_steps=20, logging_steps=1, precision=precision)).losses

    torch.manual_seed(321)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-8, weight_decay=0.0, fused=fused)
    scheduler = get_linear_schedule_with_warmup(optimizer, 4, 20)
    scaler = torch.amp.GradScaler("cpu", enabled=fp16)
    torch.manual_seed(321)
    plain = []
    plan = toy["train"].draw(spec, 0)
    mean_rows = (budget or 0) / toy["train"].lengths.mean()
    for step in range(20):
        rows = [toy["train"][int(r)] for r in plan.rows[plan.batch_offsets[step] : plan.batch_offsets[step + 1]]]
        width = max(len(row.input_ids) for row in rows)
        ids = torch.tensor([row.input_ids.tolist() + [0] * (width - len(row.input_ids)) for row in rows])
        mask = torch.tensor([[1] * len(row.input_ids) + [0] * (width - len(row.input_ids)) for row in rows])
        labels = torch.tensor([row.label for row in rows])
        with torch.autocast("cpu", torch.float16, enabled=fp16):
            loss = model(input_ids=ids, attention_mask=None if mask.all() else mask, labels=labels).loss
        scaler.scale(loss * (len(rows) / mean_rows) if budget else loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
        plain.append(loss.item())
    assert len(ours) == 20
    if fused:
        np.testing.assert_allclose(ours, plain, rtol=2e-7)  # the sum over rows, divided again: one rounding
    else:
        np.testing.assert_allclose(ours, plain, atol=1e-5)


def test_rows_are_weighed_where_steps_have_different_numbers_of_them_and_each_has_one_loss(toy, make_job):
    budget = make_job(PlanSpec("budget", None, 256))
    tokens_a_row = toy["train"].info.tokens / len(toy["train"])
    assert budget.mean_rows == pytest.approx(256 / tokens_a_row)
    for task in (tasks.TOKENS, tasks.MLM):
        assert replace(budget, settings=replace(budget.settings, task=task)).mean_rows is None
    assert make_job(PlanSpec("tight", 8)).mean_rows is None


@pytest.mark.slow
def test_the_schedule_is_that_of_transformers():
    from transformers import get_scheduler

    cases = ((0, 10), (3, 10), (10, 10), (12, 10), (0, 1))
    for (warmup, total), kind in itertools.product(cases, SCHEDULES):
        theirs = "constant_with_warmup" if kind == "constant" else kind
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        scheduler = get_scheduler(theirs, optimizer, warmup, total)
        for step in range(total):
            assert schedule(step, warmup, total, kind) * 0.5 == scheduler.get_last_lr()[0], kind
            optimizer.step()
            scheduler.step()


def test_the_learning_rate_is_the_schedule_s_that_was_chosen(make_job):
    job = make_job(lr=0.5, lr_scheduler_type="constant", warmup_steps=2, max_steps=5)
    assert [learning_rate(job, step) for step in range(5)] == [0, 0.25, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("spec", [PlanSpec("tight", 8), PlanSpec("budget", None, 100)])
def test_plans_are_stored_for_the_epochs_that_max_steps_reaches(tmp_path, spec):
    """However many were asked for; all of them without a maximum."""
    cache = write_cache(tmp_path / "toy", {"train": 90})
    given = {"cache": "c", "strategy": spec.strategy, "batch_size": spec.batch_size, "max_tokens": spec.max_tokens}
    settings = Settings(**given, plan_seed=0, epochs=1 << 40, max_steps=30)
    keep_plan(cache, settings)
    stored = cache["train"].stored_plans()[spec].epochs
    reached = epoch_steps(cache["train"], spec, settings)
    assert len(reached) <= len(stored) <= len(reached) + 1
    assert epochs_reached(cache["train"], spec, replace(settings, epochs=7, max_steps=None)) == 7
    assert epochs_reached(cache["train"], spec, replace(settings, epochs=2)) == 2


def test_an_evaluation_of_a_few_rows_takes_not_many_more_and_of_every_length(make_job, tmp_path):
    """Though a batch of an evaluation holds more, and rows of one length fill it; whatever the batch size, the same."""
    split = write_cache(tmp_path / "two", {"test": 60}, lengths=np.repeat([10, 20], 30))["test"]
    model, rows = make_job().model, []
    model.register_forward_pre_hook(lambda module, args, inputs: rows.extend(ids_of(inputs)), with_kwargs=True)
    found = []
    for batch_size in (64, 10, 7):
        scores = evaluate(model, split, CPU, "fp32", batch_size, limit=20)
        assert scores is not None
        assert scores.rows == len(rows) == 20
        found.append({*rows})
        rows.clear()
    assert found[0] == found[1] == found[2]
    assert 5 < sum(len(ids) == 10 for ids in found[0]) < 15


def ids_of(inputs: dict[str, torch.Tensor]) -> list[tuple[int, ...]]:
    """The rows of a batch without their padding."""
    return [tuple(id_ for id_ in row if id_) for row in inputs["input_ids"].tolist()]


@pytest.mark.parametrize(("sums", "shown"), [(Sums(), "none"), (Sums(skipped_steps=3), "not finite")])
def test_an_epoch_without_a_loss_says_why(make_job, sums, shown):
    """No token was masked, or every update was skipped."""
    assert epoch_row(make_job(), State(Meter(CPU), epoch_sums=sums), {}, 0.0, None)["train loss"] == shown


def test_a_batch_of_fewer_rows_than_micro_batches_is_warned_of(make_job):
    assert small_batch_warning(make_job(PlanSpec("tight", 8), gradient_accumulation_steps=8)) is None
    warning = small_batch_warning(make_job(PlanSpec("tight", 8), gradient_accumulation_steps=32))
    assert warning is not None
    assert "--batch-size 8 is less than 32 micro-batches" in warning
    assert "pass --batch-size 32 or more" in warning


def test_steps_that_the_run_does_not_have_are_warned_of(make_job):
    """22 steps an epoch."""
    assert run_warnings(make_job(epochs=2, max_steps=44, warmup_steps=43)) == []
    short, warm_up = run_warnings(make_job(epochs=2, max_steps=45, warmup_steps=44))
    assert "--epochs 2 gives 44 steps, fewer than --max-steps 45; for as many pass --epochs 3" in short
    assert "the warm-up takes 44 steps and the run has 44" in warm_up


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [2, 3, 8, 11])
def test_accumulated_gradients_equal_those_of_the_whole_batch(make_job, accumulation):
    """Uneven micro-batches included, where a mean of means would differ; within 1e-6."""
    gradients = []
    for pieces in (1, accumulation):
        job = make_job(gradient_accumulation_steps=pieces)
        job.model.eval()  # no dropout
        batches = [batch for batch in job.batches(0, 0) if batch.step == 0]
        assert len(batches) == min(pieces, 8)
        for batch in batches:
            backward(job, batch)
        gradients.append(torch.cat([p.grad.ravel() for p in job.model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_the_mean_loss_is_the_sum_over_rows_divided_once(make_job):
    """The last batch is smaller; a mean of batch means would weigh its rows more."""
    job = make_job(lr=1e-12)
    for module in job.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    callbacks = run(job)
    logits, labels = [], []
    job.model.eval()
    for batch in job.batches(0, 0):
        with torch.no_grad():
            logits.append(job.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits)
        labels.append(batch.labels)
    expected = torch.nn.functional.cross_entropy(torch.cat(logits).double(), torch.cat(labels)).item()
    assert callbacks.sums.rows == 170
    assert callbacks.sums.mean_loss == pytest.approx(expected, abs=1e-6)
    assert callbacks.sums.real_tokens == job.split.info.tokens
    assert callbacks.sums.padded_tokens == job.split.draw(job.spec, 0).padded_tokens


def poisoned(job: TrainingSetup, step: int) -> TrainingSetup:
    """The same, but with an infinite loss at one step."""
    calls, model = [], job.model

    def forward(**inputs):
        output = model(**inputs)
        calls.append(1)
        if len(calls) == step + 1:
            output.loss = output.loss * float("inf")
        return output

    return replace(job, forward=forward)


@pytest.mark.slow
def test_a_skipped_update_leaves_weights_and_moments_as_they_were(make_job):
    job = poisoned(make_job(on_nonfinite="skip", lr=1e-3), 1)
    state = State(Meter(CPU))
    snapshots = []
    for batch in list(job.batches(0, 0))[:3]:
        state.meter.add(batch, backward(job, batch))
        update(job, state)
        moments = [v.clone() for s in job.optimizer.state.values() for v in s.values()]
        snapshots.append([p.detach().clone() for p in job.model.parameters()] + moments)
    assert all(torch.equal(a, b) for a, b in zip(snapshots[0], snapshots[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(snapshots[1], snapshots[2], strict=True))
    assert all(torch.isfinite(tensor).all() for tensor in snapshots[2])
    sums, _, bad_step = state.meter.read()
    assert (sums.rows, sums.weight, sums.skipped_steps, bad_step) == (24, 16, 1, 1)
    assert np.isfinite(sums.mean_loss)


@pytest.mark.slow
def test_after_a_bad_step_nothing_is_learned_until_the_run_stops(make_job):
    job = poisoned(make_job(on_nonfinite="stop", lr=1e-3), 1)
    state = State(Meter(CPU))
    weights = []
    for batch in list(job.batches(0, 0))[:4]:
        state.meter.add(batch, backward(job, batch))
        update(job, state)
        weights.append(torch.cat([p.detach().ravel() for p in job.model.parameters()]))
    assert torch.equal(weights[0], weights[3])
    assert state.meter.read()[2] == 1


def test_a_checkpoint_that_does_not_fit_the_run_is_refused(make_job, tmp_path):
    """Though its checksums fit: progress that its epochs do not have; tensors missing, unknown, of other shapes."""
    job = make_job()
    records = {name: FileInfo(name, 0, "0" * 64) for name in (METRICS, TIMING)}
    with Folder.make(tmp_path / "checkpoints") as root:
        save_checkpoint(root, job, State(Meter(CPU), epoch_step=2, step=2), Sums(), {}, records)
        checkpoint = read_checkpoint(root, "step-000002")
        for progress in ({"epoch": 2}, {"epoch_step": 23, "step": 23}, {"step": 3}):
            with pytest.raises(MismatchError, match="its progress is epoch"):
                load_checkpoint(replace(checkpoint, state={**checkpoint.state, **progress}), job)
        for name, change in (
            ("model", lambda tensors: tensors.popitem()),
            ("model", lambda tensors: tensors.update(dict.fromkeys(tensors, np.zeros(7, np.float32)))),
            ("optimizer", lambda tensors: tensors.update(extra=np.zeros(7, np.float32))),
            ("random", lambda tensors: tensors.popitem()),
        ):
            path = root.path / "step-000002" / f"{name}.safetensors"
            whole = path.read_bytes()
            tensors = safetensors.numpy.load(whole)
            change(tensors)
            path.write_bytes(safetensors.numpy.save(tensors))
            with pytest.raises(MismatchError, match="its tensors are not those of this model"):
                load_checkpoint(checkpoint, job)
            path.write_bytes(whole)
        assert load_checkpoint(checkpoint, job).step == 2


def test_a_bad_step_is_named_by_its_epoch_and_its_rows(make_job):
    job = make_job(epochs=3)
    assert job.steps == (22, 22, 22)
    plan = job.split.plan(job.spec, 2)
    rows = plan.rows[plan.batch_offsets[6] : plan.batch_offsets[7]]
    numbers, source_rows = (", ".join(map(str, found.tolist())) for found in (rows, job.split.source_rows[rows]))
    text = str(non_finite(job, 2 * 22 + 6, None))
    assert (
        f"at step 51 (epoch 3); its batch holds the rows {numbers} of split 'train' (source rows {source_rows})" in text
    )
    assert "no checkpoint was written before it" in text


def test_a_split_without_rows_is_neither_trained_on_nor_evaluated(make_job, tmp_path):
    cache = write_cache(tmp_path / "none", {"train": 0, "test": 0})
    with pytest.raises(InputError, match="split 'train' has no rows, so there is nothing to train on"):
        training_split(cache)
    with pytest.raises(InputError, match="has no rows, so there is nothing to evaluate"):
        evaluate(make_job().model, cache["test"], CPU, "fp32")
    with pytest.raises(InputError, match="--eval-split test: it has no rows; pass another one, or --eval-split none"):
        resolve_settings(Settings(cache=str(cache.folder), device="cpu", eval_split="test"), cache)


def test_weight_decay_spares_biases_and_norms(make_job):
    job = make_job(weight_decay=0.1)
    decayed, spared = (set(map(id, group["params"])) for group in job.optimizer.param_groups)
    names = {name: id(p) for name, p in job.model.named_parameters()}
    assert {name for name, i in names.items() if i in spared} == {
        name for name in names if name.endswith(".bias") or "LayerNorm" in name
    }
    assert decayed | spared == set(names.values())


@pytest.mark.slow
def test_max_steps_cuts_the_last_epoch(toy, make_job):
    assert make_job(epochs=3).steps == (22, 22, 22)
    assert make_job(epochs=3, max_steps=30).steps == (22, 8)
    assert make_job(epochs=3, max_steps=22).steps == (22,)
    callbacks = run(make_job(epochs=3, max_steps=24))
    assert callbacks.state.step == 24


@pytest.mark.parametrize("padding", [1, 30])
def test_logits_do_not_depend_on_the_padding_of_the_batch(make_job, padding):
    """fp32, no dropout: within 1e-6 of logits of about 1."""
    job = make_job()
    job.model.eval()
    torch.manual_seed(0)
    for parameter in job.model.parameters():  # larger weights than a fresh model's, so that differences would show
        parameter.data += 0.2 * torch.randn_like(parameter)
    batches = job.split.batches(0, PlanSpec("tight", 2))
    batch = next(batch for batch in batches if batch.attention_mask is None and batch.input_ids.shape[1] > 10)
    ids = torch.nn.functional.pad(batch.input_ids, (0, padding))
    mask = torch.nn.functional.pad(torch.ones_like(batch.input_ids), (0, padding))
    with torch.no_grad():
        alone = job.model(input_ids=batch.input_ids).logits
        padded = job.model(input_ids=ids, attention_mask=mask).logits
        unmasked = job.model(input_ids=ids).logits
    assert alone.abs().max() > 0.1
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-6)
    assert (unmasked - alone).abs().max() > 1e-4  # the mask is what makes it so


def test_a_decay_may_be_an_integer(make_job):
    """As `beta1 = 0` in a file of settings gives it."""
    assert make_job(beta1=0).optimizer.defaults["betas"] == (0.0, 0.999)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_computes_in_half_and_learns_in_fp32(make_job, precision, dtype):
    job = make_job(precision=precision)
    kinds = []
    job.model.bert.encoder.layer[0].attention.self.query.register_forward_hook(
        lambda module, inputs, output: kinds.extend([module.weight.dtype, output.dtype])
    )
    backward(job, next(iter(job.batches(0, 0))))
    assert kinds == [dtype, dtype]  # weights are cast once for the pass, and not by the layer
    assert (
        {p.dtype for p in job.model.parameters()} == {p.grad.dtype for p in job.model.parameters()} == {torch.float32}
    )


def test_a_gpu_without_bf16_is_told_of_fp16(make_job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    on_gpu = {
        precision: replace(make_job(precision=precision), device=torch.device("cuda")) for precision in ("fp32", "fp16")
    }
    assert run_warnings(on_gpu["fp32"]) == ["this GPU computes no bf16, and the run is in fp32; try --precision fp16"]
    assert run_warnings(on_gpu["fp16"]) == run_warnings(make_job()) == []


def test_auto_precision_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for built_for_it, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=built_for_it: answer)
        assert devices.pick_precision("auto", CPU) == expected
    assert devices.pick_precision("fp32", CPU) == "fp32"


def test_a_device_that_is_not_here_is_refused_with_those_that_are():
    from cache.errors import InputError

    for name in ("cuda:99", "abacus", "meta"):
        with pytest.raises(InputError, match="is not on this machine, expected auto or one of cpu"):
            devices.pick_device(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.faults)])
def test_compiled_training_compiles_few_times_however_many_widths(make_job, tmp_path, backend):
    """Once for batches with a mask and once for those without; no batch here has one row, which would be one more."""
    from torch._dynamo.utils import counters

    model = write_model(tmp_path / "model")
    jobs = [make_job(model_folder=model, lr=1e-3, compile=compiled) for compiled in (False, True)]
    for module in (module for job in jobs for module in job.model.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    plain, job = run(jobs[0]).losses, jobs[1]
    torch._dynamo.reset()
    counters.clear()
    job = replace(job, forward=torch.compile(job.model, backend=backend))
    widths = {batch.input_ids.shape[1] for batch in job.batches(0, 0)}
    callbacks = run(job)
    assert len(widths) > 10
    assert counters["stats"]["unique_graphs"] == 2
    np.testing.assert_allclose(callbacks.losses, plain, atol=1e-5)
    torch._dynamo.reset()


def test_a_failure_of_torch_compile_says_what_it_needs(make_job):
    def forward(**inputs):
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand a long story")

    job = replace(make_job(compile=True), forward=forward)
    with pytest.raises(LengthwiseError, match=r"torch.compile failed \(no compiler\); on a CPU it needs a C\+\+"):
        backward(job, next(iter(job.batches(0, 0))))
