"""What `prep info` predicts of a model: memory against what torch keeps and allocates, parameters against transformers'
own count, the cost of attention against what `train run` counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from cache import PlanSpec
from cache.common.hub import packaged_model
from cache.plans.costs import rank_use
from prep.inspect.memory import ELEMENT_BYTES, format_memory, kept_bytes, memory_facts, peak_bytes
from prep.inspect.model_size import DEFAULTS, DISTILBERT_NAMES, ModelSize, read_size
from prep.inspect.ranks import rank_facts
from train.forward.inputs import attention_length
from train.forward.pooled import FORWARDS, use_pooled_only
from train.kernels.cpu_attention import use_cpu_kernels
from train.models.fit import usable_positions
from train.settings import PRECISIONS

from ..helpers.caches import write_cache

TINY = {
    "vocab_size": 100,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
}
CPU = torch.device("cpu")
SHAPES = ((7, 23), (2, 100))


def config_of(kind: str, **sizes: Any) -> Any:
    """A configuration in the names of its type."""
    theirs = {ours: name for name, ours in DISTILBERT_NAMES.items()} if kind == "distilbert" else {}
    return AutoConfig.for_model(kind, **{theirs.get(name, name): value for name, value in sizes.items()})


def made(config: Any, folder: Path) -> tuple[PreTrainedModel, ModelSize]:
    """A classifier of two classes in training, and its sizes read from the config.json it writes."""
    config.save_pretrained(folder)
    model = AutoModelForSequenceClassification.from_config(config).train()
    return model, read_size(str(folder), 2)


def inputs(rows: int, width: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, 1, 1, width, dtype=torch.bool).expand(-1, 1, width, -1)  # (B, 1, W, W), as train gives it
    labels = torch.zeros(rows, dtype=torch.int64)
    return {"input_ids": torch.full((rows, width), 9), "labels": labels, "attention_mask": mask}


def kept_by_torch(model: PreTrainedModel, rows: int, width: int, precision: str) -> int:
    """Bytes of all storages that autograd keeps for the backward pass, parameters and buffers aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, tuple[int, torch.Tensor]] = {}  # the tensors too, lest memory be reused

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), bf16:
        model(**inputs(rows, width))
    return sum(size for size, _ in kept.values())


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "hidden"), [(0.1, 0.1), (0.0, 0.1), (0.0, 0.0)])
@pytest.mark.parametrize("kind", DEFAULTS)
def test_what_is_kept_for_the_backward_pass(tmp_path: Path, kind: str, attention: float, hidden: float) -> None:
    """Within 3% of what torch keeps: each type of model, both precisions, with and without dropouts."""
    config = config_of(kind, **TINY, attention_probs_dropout_prob=attention, hidden_dropout_prob=hidden)
    model, size = made(config, tmp_path)
    assert use_cpu_kernels(model, CPU) is None
    assert use_pooled_only(model) is None
    for precision in ELEMENT_BYTES:
        for rows, width in SHAPES:
            found = kept_by_torch(model, rows, width, precision)
            assert kept_bytes(size, rows, width, precision) == pytest.approx(found, rel=0.03), (precision, rows, width)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shapes", [((2, 32), (1, 400)), pytest.param(((4, 128),), marks=pytest.mark.faults)], ids=["short", "wide"]
)
def test_what_the_packaged_bert_keeps(shapes: tuple[tuple[int, int], ...]) -> None:
    folder = packaged_model()
    assert folder is not None
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder)).train()
    use_cpu_kernels(model, CPU)
    assert use_pooled_only(model) is None
    for precision in ELEMENT_BYTES:
        for rows, width in shapes:
            found = kept_by_torch(model, rows, width, precision)
            assert kept_bytes(read_size("minilm", 2), rows, width, precision) == pytest.approx(found, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocabulary", "rows", "width", "precision", "attention"),
    [
        (100, 16, 64, "fp32", 0.1),
        (100, 16, 64, "bf16", 0.1),
        (100, 4, 256, "fp32", 0.0),
        (30_000, 2, 16, "fp32", 0.1),
        (30_000, 2, 16, "bf16", 0.0),
        pytest.param(100, 4, 256, "bf16", 0.0, marks=pytest.mark.faults),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_peak_of_a_step(
    tmp_path: Path, vocabulary: int, rows: int, width: int, precision: str, attention: float
) -> None:
    """Within 7% of what torch's allocator counts, whether activations or gradients make the peak."""
    larger = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "max_position_embeddings": 256}
    # What says which elements are dropped is numpy's, which the allocator does not count.
    dropouts = {"attention_probs_dropout_prob": attention, "hidden_dropout_prob": 0.0}
    model, size = made(config_of("bert", **{**TINY, **larger, **dropouts, "vocab_size": vocabulary}), tmp_path)
    use_cpu_kernels(model, CPU)
    use_pooled_only(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**inputs(rows, width)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # makes the moments
    found = 12 * size.parameters + peak_of(step)
    assert peak_bytes(size, rows, width, precision) == pytest.approx(found, rel=0.07)


def peak_of(action: Any) -> int:
    """Most bytes that tensors take while an action runs, beyond those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        action()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert peak > 0
    return peak


@pytest.mark.parametrize("kind", DEFAULTS)
def test_parameters_are_counted_as_transformers_does(tmp_path: Path, kind: str) -> None:
    """Also where a config.json leaves all sizes to their defaults."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for config, folder in ((AutoConfig.for_model(kind), tmp_path), (config_of(kind, **TINY), tmp_path / "tiny")):
        config.num_labels = 3
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        if folder != tmp_path:
            config.save_pretrained(folder)
        assert read_size(str(folder), 3).parameters == model.num_parameters()


def test_the_types_are_those_whose_last_layer_is_computed_for_one_token() -> None:
    assert sorted(DEFAULTS) == sorted(name.split(".")[2].replace("_", "-") for name in FORWARDS)
    assert set(ELEMENT_BYTES) == set(PRECISIONS) - {"auto", "fp16"}  # which takes what bf16 takes


@pytest.mark.parametrize("kind", sorted(DEFAULTS))
def test_a_cache_of_longer_rows_than_the_model_takes_is_said(tmp_path: Path, kind: str) -> None:
    """As train's own check counts them: RoBERTa and its kin use two positions less than they have."""
    model, size = made(config_of(kind, **{**TINY, "max_position_embeddings": 40}), tmp_path / "model")
    assert size.positions == usable_positions(model)
    lengths = np.array([5, 39, 40, 41])
    fits = write_cache(tmp_path / "fits", {"train": 4}, lengths=np.minimum(lengths, size.positions))
    exceeds = write_cache(tmp_path / "exceeds", {"train": 4}, lengths=lengths)
    assert "warning" not in format_memory(memory_facts(fits, str(tmp_path / "model")))
    said = format_memory(memory_facts(exceeds, str(tmp_path / "model")))
    assert f"at most {size.positions} tokens, the longest here has 41" in said
    assert f"--max-length {size.positions}" in said


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_the_model_says_what_attention_costs(tmp_path: Path, kind: str) -> None:
    """As `train run` counts it: a narrow model spends more of its work on attention."""
    sizes = {"dim": 32, "hidden_dim": 64} if kind == "distilbert" else {"hidden_size": 32, "intermediate_size": 64}
    config = AutoConfig.for_model(kind, **sizes)
    config.save_pretrained(tmp_path / "model")
    cache = write_cache(tmp_path / "toy", {"train": 200})
    split = cache["train"]
    facts = rank_facts(cache, 4, str(tmp_path / "model"))
    assert attention_length(config) == 2 * 32 + 64
    spec = PlanSpec("dynamic", 4 * (split.default_spec().batch_size or 0))
    (plan,) = (
        plan for plan in facts["plans"] if (plan["strategy"], plan["batch_size"]) == ("dynamic", spec.batch_size)
    )
    use = rank_use(split.plan(spec, 0), split.lengths, 4, attention_length=2 * 32 + 64)
    assert plan["padded"] == vars(use)
    assert plan not in rank_facts(cache, 4)["plans"]
