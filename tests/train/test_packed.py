"""The padding-free forward gives the logits and gradients of the padded one, for every kind of model, task and head."""

import copy
import itertools
import shutil
from contextlib import nullcontext
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DebertaV2Config,
    ModernBertConfig,
    PreTrainedModel,
)

from cache import Batch, PlanSpec
from cache.errors import MismatchError
from cache.format.tasks import IGNORED
from tests.helpers.models import STEADY, write_model
from tests.helpers.runs import check_same_run, records, resume_from_first_checkpoint
from tests.helpers.tasks import build_task, task_settings, train_task
from train.forward.inputs import attention_length, model_inputs
from train.forward.masked_lm import Masking, masked_forward, summed_loss
from train.forward.packed import attention, check_packed, use_packed
from train.forward.pooled import use_pooled_only
from train.kernels.cpu_attention import use_cpu_kernels
from train.kernels.packed_attention import packed_attention
from train.run import start_run
from train.runtime import device as devices

from .test_pooled import SMALL, SUPPORTED

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LENGTHS = [2, 5, 5, 5, 9, 17]

MODERN = ModernBertConfig(**SMALL, pad_token_id=0, local_attention=8, global_attn_every_n_layers=2)
CONFIGS = {
    **SUPPORTED,
    "modernbert": MODERN,
    "modernbert-mean": ModernBertConfig(**{**MODERN.to_dict(), "classifier_pooling": "mean"}),
}
HEADS = {
    "classification": AutoModelForSequenceClassification,
    "multi-label": AutoModelForSequenceClassification,
    "regression": AutoModelForSequenceClassification,
    "tokens": AutoModelForTokenClassification,
    "mlm": AutoModelForMaskedLM,
}
PROBLEMS = {
    "classification": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}


def tiny(name: str, task: str = "classification") -> PreTrainedModel:
    """A random model of two layers in double precision, dropout off."""
    config = copy.deepcopy(CONFIGS[name])
    config.problem_type = PROBLEMS.get(task)
    if task == "regression":
        config.num_labels = 1
    torch.manual_seed(0)
    model: PreTrainedModel = HEADS[task].from_config(config, attn_implementation="sdpa")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def batches(task: str = "classification", pairs: bool = False, pad: int = 0) -> tuple[Batch, Batch]:
    """The same six rows padded and packed."""
    torch.manual_seed(1)
    rows = [torch.randint(5, 100, (length,)) for length in LENGTHS]
    count, width = len(rows), max(LENGTHS)
    ids, mask = torch.full((count, width), pad), torch.zeros(count, width).long()
    types, token_labels = torch.zeros_like(mask), torch.full_like(mask, IGNORED)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
        types[number, len(row) // 2 : len(row)] = 1
        token_labels[number, 1 : len(row)] = torch.randint(0, 3, (len(row) - 1,))
    labels: torch.Tensor | None = {
        "classification": torch.tensor([0, 1, 2, 0, 1, 2]),
        "multi-label": torch.randint(0, 2, (6, 3)).double(),
        "regression": torch.randn(6).double(),
    }.get(task)
    padded = Batch(
        input_ids=ids,
        attention_mask=mask,
        labels=token_labels if labels is None else labels,
        token_type_ids=types if pairs else None,
        rows=torch.arange(6).numpy(),
        step=0,
        step_rows=6,
        targets=6,
        step_targets=6,
        last=True,
        real_tokens=sum(LENGTHS),
    )
    real = mask.bool()
    cu = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)]).int()
    packed = replace(
        padded,
        input_ids=ids[real][None],
        attention_mask=None,
        labels=token_labels[real][None] if labels is None else labels,
        token_type_ids=types[real][None] if pairs else None,
        position_ids=torch.cat([torch.arange(length) for length in LENGTHS])[None],
        cu_seq_lens=cu,
        longest=width,
    )
    return padded, packed


def results(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and all gradients."""
    model.zero_grad()
    output = model(**model_inputs(batch, model.config))
    output.loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return output.logits, torch.cat([grad.ravel() for grad in grads])


CLASSIFIERS = [
    (name, list(PROBLEMS)[(number + turn) % 3], pooled_only, kernels)
    for number, name in enumerate(CONFIGS)
    for turn, (pooled_only, kernels) in enumerate(itertools.product([True, False], repeat=2))
]
"""Each kind of model with every way to compute it; each way with every task, in turn."""


@pytest.mark.parametrize(("name", "task", "pooled_only", "kernels"), CLASSIFIERS)
def test_classifiers_give_the_padded_logits_and_gradients(name, task, pooled_only, kernels):
    """In double precision, within 1e-10; one text and pairs."""
    stock, model = tiny(name, task), tiny(name, task)
    if kernels:
        use_cpu_kernels(model, CPU)
    if pooled_only and use_pooled_only(model) is not None:
        pytest.skip("its last layer is always computed for all tokens")
    assert use_packed(model, CPU, "fp32") is None
    for pairs in (False, True):
        if pairs and getattr(model.config, "type_vocab_size", 0) < 2:
            continue
        padded, packed = batches(task, pairs, model.config.pad_token_id)
        logits, gradients = results(stock, padded)
        for batch in (packed, padded):  # a model made for packed batches still takes padded ones
            found, found_gradients = results(model, batch)
            torch.testing.assert_close(found, logits, atol=1e-10, rtol=1e-9)
            torch.testing.assert_close(found_gradients, gradients, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "modernbert-mean"])
def test_token_classifiers_give_the_padded_logits_and_gradients(name):
    stock, model = tiny(name, "tokens"), tiny(name, "tokens")
    assert use_packed(model, CPU, "fp32") is None
    padded, packed = batches("tokens", pad=model.config.pad_token_id)
    logits, gradients = results(stock, padded)
    found, found_gradients = results(model, packed)
    torch.testing.assert_close(found, logits[padded.attention_mask.bool()][None], atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(found_gradients, gradients, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "modernbert-mean"])
def test_masked_language_models_mask_the_same_tokens_and_give_the_padded_loss_and_gradients(name):
    stock, model = tiny(name, "mlm"), tiny(name, "mlm")
    assert use_packed(model, CPU, "fp32") is None
    masking = Masking(3, 0.4, 4, 0, torch.zeros(100, dtype=torch.bool), True)
    losses = []
    for one, batch in zip((stock, model), batches("mlm", pad=model.config.pad_token_id), strict=True):
        if batch.attention_mask is not None:
            masking.special[one.config.pad_token_id] = True
        masked = masking.mask(batch, 2)
        inputs = model_inputs(masked, one.config)
        loss, _, labels = summed_loss(masked_forward(one)[0], positions=masking.masked_positions(masked), **inputs)
        loss.backward()
        losses.append((loss, labels, torch.cat([p.grad.ravel() for p in one.parameters() if p.grad is not None])))
    assert torch.equal(losses[0][1], losses[1][1])
    assert len(losses[0][1]) > 8
    torch.testing.assert_close(losses[1], losses[0], atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_is_dropped_with_the_given_probability_and_gradients_follow(dtype):
    """Of equal scores and ones for values a token's result is the share of weights that were kept, over 1 - p."""
    tokens, p = 64, 0.3
    cu = torch.tensor([0, tokens, 2 * tokens]).int()
    query = torch.zeros(1, 8, 2 * tokens, 4, dtype=dtype)
    value = torch.ones(1, 8, 2 * tokens, 4, dtype=dtype).requires_grad_()
    torch.manual_seed(0)
    out = packed_attention(query, query, value, p, 1.0, (cu, cu), (tokens, tokens))
    kept = out.detach().float() * (1 - p)
    assert float(kept.mean()) == pytest.approx(1 - p, abs=0.01)
    assert float(kept.std()) > 0.03
    out.float().sum().backward()
    assert float(value.grad.float().sum()) == pytest.approx(float(out.detach().sum()), rel=0.01)


def test_a_dropout_of_1_drops_every_weight_as_torch_s_does():
    query, key = torch.randn(2, 1, 2, 5, 4, requires_grad=True)
    cu_seq_lens = torch.tensor([0, 2, 5], dtype=torch.int32)
    out = packed_attention(query, key, key, 1.0, 0.5, (cu_seq_lens, cu_seq_lens), (3, 3))
    assert out.shape == (1, 5, 2, 4)
    assert not out.any()


def test_gradients_with_dropout_are_those_of_the_numbers_that_were_drawn():
    """Finite differences under the same seed, in double precision."""
    cu = torch.tensor([0, 2, 4, 9]).int()
    torch.manual_seed(3)
    parts = [torch.randn(1, 2, 9, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def seeded(*parts: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return packed_attention(*parts, 0.4, 0.5, (cu, cu), (5, 5), 3)

    assert torch.autograd.gradcheck(seeded, parts)


def test_on_cuda_packed_rows_are_checked_in_the_precisions_that_its_kernels_have(monkeypatch):
    """Those for a sliding window know no fp32; those for bf16 and for a sliding window need CUDA 8.0."""
    cuda, used = torch.device("cuda"), []

    def output(model, batch):
        assert torch.get_float32_matmul_precision() == "highest"  # TF32 rounds more than the tolerance of fp32
        return torch.zeros(2 if batch.longest == 0 else 6, 3)

    monkeypatch.setattr("train.forward.packed._output", output)
    monkeypatch.setattr(devices, "autocast", lambda device, precision: used.append(precision) or nullcontext())
    padded, packed = batches()
    for name, precisions, needed in (
        ("bert", ["fp32", "bf16"], "its attention in bf16 needs CUDA"),
        ("modernbert", ["bf16"], "its sliding window needs bf16 or fp16 on CUDA"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert use_packed(tiny(name), cuda, "bf16").startswith(needed)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
        model = tiny(name)
        assert use_packed(model, cuda, "bf16") is None
        used.clear()
        torch.set_float32_matmul_precision("high")
        try:
            check_packed(model, replace(packed, input_ids=SimpleNamespace(device=cuda)), padded, "bf16")
            assert torch.get_float32_matmul_precision() == "high"
        finally:
            torch.set_float32_matmul_precision("highest")
        assert used == precisions
    assert use_packed(tiny("modernbert"), cuda, "fp32").startswith("its sliding window needs bf16")


def test_deberta_is_computed_padded_and_says_so():
    config = DebertaV2Config(**{**SMALL, "type_vocab_size": 0})
    model = AutoModelForSequenceClassification.from_config(config)
    assert use_packed(model, CPU, "fp32") == "models of type deberta-v2 are not supported"


@pytest.mark.parametrize("task", ["classification", "tokens", "mlm"])
def test_rows_that_see_each_other_are_found_before_training(task, monkeypatch):
    model = tiny("bert", task).float()
    use_packed(model, CPU, "fp32")
    padded, packed = batches(task)
    check_packed(model.train(), packed, padded, "bf16")
    assert model.training

    def leaking(*arguments: Any, cu_seq_lens_q: torch.Tensor | None = None, **options: Any) -> Any:
        return attention(*arguments, **{**options, "cu_seq_lens_k": None}, cu_seq_lens_q=None)

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = ALL_ATTENTION_FUNCTIONS[model.config._attn_implementation]
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS._global_mapping,
        model.config._attn_implementation,
        lambda *arguments, **options: leaking(*arguments, padded=own.keywords["padded"], **options),
    )
    with pytest.raises(MismatchError, match="computes packed rows otherwise than padded ones"):
        check_packed(model, packed, padded, "fp32")


@pytest.mark.parametrize("kind", ["pairs", "regression", "multi-label", "token-classification", "mlm"])
def test_a_padding_free_run_learns_what_the_padded_one_learns_and_resumes_bit_by_bit(kind, tmp_path):
    """Every task, accumulation 2: with dropout off the losses are equal within 1e-4; with it, a resumed run is the same
    to the byte. No padding is computed."""
    cache = build_task("pairs" if kind == "mlm" else kind, tmp_path)
    steady = write_model(tmp_path / "steady", **STEADY)
    task = "mlm" if kind == "mlm" else None
    flags: dict[str, Any] = {"strategy": "dynamic", "lr": 1e-3, "logging_steps": 1, "task": task}
    runs = [
        train_task(cache, tmp_path / f"run-{packed}", model=str(steady), padding_free=packed, **flags)
        for packed in (False, True)
    ]
    padded, packed = map(records, runs)
    assert len(padded) == len(packed) > 10
    for one, other in zip(padded, packed, strict=True):
        assert one.get("loss") == pytest.approx(other.get("loss"), abs=1e-4)
        if one["kind"] == "step":
            assert other["padded_tokens"] == other["real_tokens"] == one["real_tokens"] <= one["padded_tokens"]
    whole = train_task(cache, tmp_path / "whole", padding_free=True, **flags)
    shutil.copytree(whole, tmp_path / "resumed")
    resume_from_first_checkpoint(tmp_path / "resumed")
    check_same_run(whole, tmp_path / "resumed")


def test_a_model_that_cannot_is_trained_padded_and_the_report_says_why(tmp_path):
    cache = build_task("pairs", tmp_path)
    model = write_model(tmp_path / "deberta", kind="deberta-v2", type_vocab_size=2)
    heard: list[str] = []
    settings = task_settings(cache, tmp_path / "run", model=str(model), padding_free=True, max_steps=1)
    start_run(settings, heard.append, heard.append)
    assert "batches    padded: models of type deberta-v2 are not supported" in heard


def test_the_oom_check_takes_the_packed_step_with_the_largest_micro_batch(tmp_path):
    cache = build_task("pairs", tmp_path)
    heard: list[str] = []
    start_run(task_settings(cache, tmp_path / "run", padding_free=True, strategy="dynamic"), heard.append, print)
    options = {
        "packed": True,
        "gradient_accumulation_steps": 2,
        "attention_length": attention_length(AutoConfig.from_pretrained(tmp_path / "run" / "model")),
    }
    sizes = [
        batch.padded_tokens
        for epoch in range(2)
        for batch in cache["train"].batches(epoch, PlanSpec("dynamic", 8), **options)
    ]
    (line,) = [line for line in heard if line.startswith("steps")]
    assert "rows, " in line
    assert f", {max(sizes):,} tokens, fits" in line
    assert "batches    rows end to end, without padding" in heard


def on_cuda(batch: Batch) -> Batch:
    parts = {name: value.cuda() for name, value in vars_of(batch).items() if isinstance(value, torch.Tensor)}
    return replace(batch, **parts)


def vars_of(batch: Batch) -> dict[str, Any]:
    return {field.name: getattr(batch, field.name) for field in fields(batch)}


@pytest.mark.cuda
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
@pytest.mark.parametrize("name", CONFIGS)
def test_classifiers_give_the_padded_logits_and_gradients_on_cuda(name, precision, tolerance):
    """Flash attention in bf16, memory-efficient attention in fp32; the last layer for the pooled token alone."""
    stock, model = tiny(name).float().cuda(), tiny(name).float().cuda()
    device = torch.device("cuda")
    use_pooled_only(model)
    reason = use_packed(model, device, precision)
    if name.startswith("modernbert") and precision == "fp32":
        assert str(reason).startswith("its sliding window needs bf16 or fp16 on CUDA")
        return
    assert reason is None
    padded, packed = (on_cuda(batch) for batch in batches(pad=model.config.pad_token_id))
    with devices.autocast(device, precision):
        logits, gradients = results(stock, padded)
        found, found_gradients = results(model, packed)
    torch.testing.assert_close(found.float(), logits.float(), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found_gradients, gradients, atol=tolerance, rtol=tolerance)
    check_packed(model, packed, padded, precision)
