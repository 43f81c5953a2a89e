"""Runs on words with tags: the loss per labelled token, steps without a label, what the commands print, masked
language modelling."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

from cache import Cache, InputError, MismatchError, PlanSpec
from cache.format.tasks import IGNORED
from tests.helpers.builds import build_toy
from tests.helpers.files import write_jsonl
from tests.helpers.runs import command, quiet, records
from tests.helpers.tasks import build_task, task_settings, train_task
from train.cli import cli
from train.forward.masked_lm import Masking
from train.metrics.evaluation import evaluate
from train.models.fit import CacheRequirements
from train.models.trained import load_for_evaluation
from train.run import start_run

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Path]:
    """A cache, and a finished run of two epochs with dropout and accumulation."""
    folder = tmp_path_factory.mktemp("words")
    cache = build_task("token-classification", folder)
    return cache, train_task(cache, folder / "run")


def test_the_loss_on_record_is_per_labelled_token(trained: tuple[Cache, Path]) -> None:
    """Of the whole epoch, whatever the batches; computed by an untrained copy of a run that learns nothing."""
    cache, _ = trained
    out = cache.folder.parent / "still"
    train_task(cache, out, lr=1e-30, epochs=1, eval_split="none", max_steps=None)
    model = AutoModelForTokenClassification.from_pretrained(out / "model")
    record = records(out)[-1]
    assert record["kind"] == "epoch"
    scores = evaluate(model, cache["train"], CPU, "fp32")
    assert scores is not None
    assert record["loss"] == pytest.approx(scores.mean_loss, rel=0.05)  # dropout
    assert record["rows"] == len(cache["train"])


def test_steps_without_a_label_change_nothing_and_stop_nothing(tmp_path: Path) -> None:
    """A corpus in which most sentences have no words, in batches of one."""
    rows = [{"tokens": ["word1", "word2"], "tags": ["O", "B-X"]}] * 3 + [{"tokens": [], "tags": []}] * 9
    cache = build_toy(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path).cache
    options: dict[str, Any] = {"batch_size": 1, "gradient_accumulation_steps": 1, "logging_steps": 1, "epochs": 1}
    run = train_task(cache, tmp_path / "run", eval_split="train", **options)
    losses = [record["loss"] for record in records(run, "step")]
    assert len(losses) == 12
    assert sum(loss is not None for loss in losses) == 3
    assert not any("skipped_updates" in record for record in records(run))
    assert records(run)[-1]["kind"] == "eval"
    assert np.isfinite(records(run)[-1]["loss"])


def test_the_commands_tell_scores_tags_and_why_the_last_layer_is_whole(trained: tuple[Cache, Path]) -> None:
    """`train eval`, `train predict`, `train compare` and the report of a run."""
    cache, run = trained

    train = partial(command, cli)
    told = train("eval", str(run), "--cache", str(cache.folder))
    assert "of entities: precision" in told
    assert "PER: F1" in told
    facts = json.loads(train("eval", str(run), "--cache", str(cache.folder), "--json"))
    assert set(facts["types"]) == {"LOC", "PER"}
    assert train("predict", str(run), "word1 word7").rstrip().endswith("\tword1 word7")
    assert json.loads(train("predict", str(run), "--json", "word1 word7"))["words"] == ["word1", "word7"]
    heard: list[str] = []
    start_run(task_settings(cache, run.parent / "loud", max_steps=1), heard.append, quiet)
    assert any("for every token: BertForTokenClassification reads more than one token" in line for line in heard)
    assert any("labels O, B-LOC, B-PER, I-PER" in line for line in heard)
    assert any("eval loss" in line and "entity F1" in line for line in heard)


def test_a_tagger_is_refused_on_texts_with_a_class(trained: tuple[Cache, Path], tmp_path: Path) -> None:
    """Both tasks are named."""
    _, run = trained
    rows = [{"text": "word1", "label": "x"}, {"text": "word2", "label": "y"}]
    other = build_toy(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path).cache
    with pytest.raises(MismatchError, match="its head was trained for token-classification, the cache is for class"):
        load_for_evaluation(run / "model", CPU, CacheRequirements(other, 24))


def test_words_with_tags_serve_masked_language_modelling_too(trained: tuple[Cache, Path], tmp_path: Path) -> None:
    """Rows without a tag count as well, the tags do not, and the tagger goes on from the adapted model. Words without
    tags are refused, with the way there is."""
    cache, _ = trained
    run = train_task(cache, tmp_path / "adapted", task="mlm", epochs=1, lr=1e-3)
    record = records(run)[-2]
    masked = sum(
        int((Masking.of(cache["train"], CPU, 321).mask(batch).labels != IGNORED).sum())  # type: ignore[operator]
        for batch in cache["train"].batches(0, PlanSpec("tight", 8))
    )
    assert (record["kind"], record["rows"], record["masked_tokens"]) == ("epoch", len(cache["train"]), masked)
    model = load_for_evaluation(run / "model", CPU, CacheRequirements(cache, 24))
    scores = evaluate(model, cache["train"], CPU, "fp32")
    assert scores is not None
    assert scores.to_json()["masked_tokens"] > 0
    heard: list[str] = []
    tagger = replace(task_settings(cache, tmp_path / "tagger", max_steps=2), model=str(run / "model"))
    assert (start_run(tagger, heard.append, quiet) / "model").is_dir()
    assert any("new, from seed 321: the model has none for token-classification" in line for line in heard)
    with pytest.raises(InputError, match=r"lists of words.*train run --task mlm"):
        build_toy(cache.folder.parent.parent / "token-classification.jsonl", tmp_path, task="mlm")
