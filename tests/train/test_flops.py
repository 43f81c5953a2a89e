"""Model FLOPs: against torch's counter and the closed form, in the records, and as a share of a device's peak."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMaskedLM

from cache import Cache
from tests.helpers.caches import write_cache
from tests.helpers.files import read_jsonl
from tests.helpers.models import DEBERTA_V3, DISTIL, KINDS, random_model, write_model
from tests.helpers.runs import records
from train.compare.results import read_result
from train.forward.frozen import freeze, use_gradient_checkpointing
from train.forward.masked_lm import masked_forward
from train.forward.packed import use_packed
from train.forward.pooled import use_pooled_only
from train.kernels.cpu_attention import use_cpu_kernels
from train.loop.speed import SpeedMeter
from train.metrics import peaks
from train.metrics.flops import ModelFlops, count_flops
from train.metrics.peaks import peak_tflops
from train.run import run_facts, start_run
from train.settings import Settings

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (kind.model, kind.config) for name, kind in KINDS.items() if name in ("bert", "roberta", "electra")},
    "distilbert": ("distilbert", DISTIL),
    "albert": ("albert", {"embedding_size": 16}),
    "mpnet": ("mpnet", {}),
    "deberta": ("deberta", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "deberta-v2": ("deberta-v2", {**DEBERTA_V3, "conv_kernel_size": 3}),  # as its sizes from xlarge have one
}
LENGTH = 30


def tiny(kind: str, config: dict[str, Any], auto: Any = None) -> Any:
    return random_model(kind, auto, attn_implementation="eager", **{"num_hidden_layers": 2, **config})


def counted(model: Any, rows: int, length: int = LENGTH) -> int:
    """What torch's counter sees of a training step."""
    ids = torch.randint(5, 200, (rows, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=torch.zeros(rows, dtype=torch.long)).loss.backward()
    model.zero_grad()
    return counter.get_total_flops()


@pytest.mark.parametrize("frozen", [None, 1, pytest.param(0, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_costs_what_torch_counts_for_one_more_row(name: str, frozen: int | None) -> None:
    """To the operation, with frozen layers and with the last layer for the pooled token alone."""
    for pooled in (False, True):
        model = tiny(*CONFIGS[name])
        if pooled and use_pooled_only(model) is not None:
            continue
        if frozen is not None and name != "albert":  # its layers are one
            freeze(model, frozen)
        flops = count_flops(model)
        assert flops is not None
        assert flops.of_rows(np.array([LENGTH])) == counted(model, 4) - counted(model, 3)
        assert flops.of_rows(np.array([7, LENGTH])) == flops.of_rows(np.array([7])) + flops.of_rows(np.array([LENGTH]))
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())


def test_the_count_of_bert_is_the_closed_form() -> None:
    """Six operations a weight of a linear layer and token, and 12 L H a token and layer for attention."""
    model = tiny("bert", {})
    layers, hidden, feed_forward = 2, 32, 64
    linear = layers * (4 * hidden**2 + 2 * hidden * feed_forward)
    head = hidden**2 + 2 * hidden
    lengths = np.array([5, 17, 30], np.int32)
    total = 6 * linear * lengths.sum() + 12 * layers * hidden * (lengths**2).sum() + len(lengths) * 6 * head
    flops = count_flops(model)
    assert flops is not None
    assert flops.of_rows(lengths) == total


def test_the_kernels_of_a_run_do_not_change_the_count() -> None:
    """Attention on the CPU by blocks, padding-free, recomputed activations: the same model FLOPs, and the model attends
    as before."""
    expected = count_flops(tiny("bert", {}))
    model = tiny("bert", {})
    model.set_attn_implementation("sdpa")
    cpu = torch.device("cpu")
    for change in (
        lambda: use_cpu_kernels(model, cpu),
        lambda: use_packed(model, cpu, "fp32"),
        lambda: use_gradient_checkpointing(model, cpu),
    ):
        assert change() is None
        used = model.config._attn_implementation
        assert count_flops(model) == expected
        assert model.config._attn_implementation == used


@pytest.mark.parametrize("frozen", [None, 2])
def test_pairs_outside_a_sliding_window_are_not_counted(frozen: int | None) -> None:
    """ModernBERT: up to its window the count is torch's, which sees whole rows; behind it, fewer pairs by so many."""
    model = tiny("modernbert", {"num_hidden_layers": 3, "local_attention": 8, "global_attn_every_n_layers": 3})
    if frozen:
        freeze(model, frozen)
    flops = count_flops(model)
    assert flops is not None
    assert flops.of_rows(np.array([5])) == counted(model, 4, 5) - counted(model, 3, 5)
    far = sum(abs(i - j) > 4 for i in range(LENGTH) for j in range(LENGTH))
    kinds = model.config.layer_types
    assert kinds == ["full_attention", "sliding_attention", "sliding_attention"]
    each = 4 * 32 * far  # of a sliding layer, forward; three times that with backward
    outside = each * (1 + 3 if frozen else 3 + 3)
    assert flops.of_rows(np.array([LENGTH])) == pytest.approx(counted(model, 4) - counted(model, 3) - outside)


def test_the_head_of_a_masked_language_model_counts_for_masked_tokens_alone() -> None:
    model = tiny("bert", {}, AutoModelForMaskedLM)
    forward, _ = masked_forward(model)

    def step(rows: int, masked: int) -> int:
        ids = torch.randint(5, 200, (rows, LENGTH))
        with FlopCounterMode(display=False) as counter:
            forward(input_ids=ids, positions=torch.arange(masked)).sum().backward()
        return counter.get_total_flops()

    flops = count_flops(model)
    assert flops is not None
    assert flops.of_rows(np.array([LENGTH]), 4) == step(4, 9) - step(3, 5)


def test_a_model_that_pads_its_rows_itself_has_no_count() -> None:
    """Longformer's rows have the width of its window, so that a token costs nothing; nothing is claimed for it."""
    model = tiny("longformer", {"attention_window": [8, 8]})
    assert count_flops(model) is None


def test_a_model_that_computes_no_such_rows_has_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left as it was, and is trained without the figure."""
    model = tiny("bert", {})
    model.set_attn_implementation("sdpa")
    monkeypatch.setattr(model.bert, "forward", lambda **_: 1 / 0)
    assert count_flops(model) is None
    assert model.training
    assert model.config._attn_implementation == "sdpa"


# --- peaks


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "bf16", 756.0),
        ("NVIDIA H200", "fp32", 494.7),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("A100-PCIE-40GB", "fp32", 156.0),
        ("NVIDIA A100 80GB PCIe", "bf16", 312.0),
        ("NVIDIA A10", "bf16", 125.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.05),
        ("Tesla T4", "fp32", 8.1),
        ("Tesla T4", "bf16", None),
        ("Tesla V100-SXM2-32GB", "fp32", 15.7),
        ("Tesla V100-SXM2-32GB", "fp16", 125.0),
        ("NVIDIA GeForce RTX 3090", "bf16", 71.0),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("AMD Instinct MI300X", "bf16", 1307.4),
        ("CPU, 2 threads", "fp32", None),
    ],
)
def test_the_peak_of_a_device_is_that_of_its_whole_name(name: str, precision: str, peak: float | None) -> None:
    """A part of a GPU, or one whose name only begins alike, has another peak."""
    assert peak_tflops(name, precision) == peak


# --- a run


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("cache") / "toy", {"train": 50, "test": 8})


def settings(cache: Cache, model: Path, out: Path, **options: Any) -> Settings:
    given = {"epochs": 2, "logging_steps": 3, "batch_size": 4, "strategy": "smart", "device": "cpu", **options}
    return Settings(cache=str(cache.folder), model=str(model), out=str(out), **given)


@pytest.mark.slow
@pytest.mark.parametrize("peak", [None, 0.001])
def test_records_table_and_summary_have_model_flops(
    toy: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peak: float | None
) -> None:
    """Steps add up to their epoch, epochs to the run; a share of the peak appears where the peak is known."""
    if peak is not None:
        monkeypatch.setattr(peaks, "PEAK_TFLOPS", {r"CPU, \d+ threads?": (1.0, peak)})
    lines: list[str] = []
    model = write_model(tmp_path / "model")
    run = start_run(settings(toy, model, tmp_path / "run", precision="fp32"), lines.append, lines.append)
    metrics, timing = (read_jsonl(run / name) for name in ("metrics.jsonl", "timing.jsonl"))
    facts = run_facts(run)
    epochs = records(run, "epoch")
    for epoch in epochs:
        steps = [record for record in records(run, "step") if record["epoch"] == epoch["epoch"]]
        assert len(steps) > 1
        assert sum(step["model_flops"] for step in steps) == epoch["model_flops"]
    assert epochs[0]["model_flops"] == epochs[1]["model_flops"] > 0
    assert facts["model_flops"] == sum(epoch["model_flops"] for epoch in epochs)
    times = [record for record in timing if record["kind"] in ("step", "epoch")]
    for record, time in zip([r for r in metrics if r["kind"] in ("step", "epoch")], times, strict=True):
        assert time["model_tflops_per_second"] == pytest.approx(record["model_flops"] / time["seconds"] / 1e12)
        assert time.get("mfu") == (None if peak is None else time["model_tflops_per_second"] / peak)
    assert ("mfu" in facts) == any("MFU" in line and "epoch" in line for line in lines) == (peak is not None)
    assert any("model TFLOP/s" in line for line in lines)


@pytest.mark.slow
def test_a_run_without_model_flops_is_read(toy: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by an earlier release, or of a model whose operations cannot be counted."""
    monkeypatch.setattr("train.loop.speed.count_flops", lambda model: None)
    model = write_model(tmp_path / "model")
    lines: list[str] = []
    run = start_run(settings(toy, model, tmp_path / "run"), lines.append, lines.append)
    assert not any("flops" in name for record in records(run) for name in record)
    assert "model_flops" not in run_facts(run)
    assert not any("FLOP" in line for line in lines)
    assert read_result(run).finished


def test_figures_are_for_each_device() -> None:
    """Of a run on several devices the model FLOPs are those of all, their speed that of one."""
    meter = SpeedMeter.__new__(SpeedMeter)
    meter.device_count, meter.peak = 4, 100.0
    assert meter.speed({"model_flops": 8e14}, 2.0) == {"model_tflops_per_second": 100.0, "mfu": 1.0}
    assert meter.speed({}, 2.0) == {}


def test_rows_of_no_tokens_cost_nothing() -> None:
    assert ModelFlops(1.0, 2.0, 3.0).of_rows(np.array([], np.int32)) == 0
