"""Evaluation on a cache with some of the model's classes, in any order: they are matched by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from cache import Cache, MismatchError
from cache.format.tasks import Task
from tests.helpers.builds import build_toy
from tests.helpers.caches import write_cache
from tests.helpers.files import write_jsonl
from tests.helpers.models import SPREAD, write_model
from tests.helpers.scores import entities, f1
from tests.helpers.tasks import TAGS, build_task, rows_of, train_task
from train.cli import cli
from train.metrics.evaluation import evaluate
from train.models.classes import map_classes, positions_of
from train.models.fit import CacheRequirements
from train.models.trained import load_for_evaluation

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


def random_model(folder: Path, *names: str) -> Path:
    """A classifier with these classes."""
    return write_model(folder, classes=names, num_hidden_layers=2, initializer_range=SPREAD)


def test_scores_are_of_the_names_whatever_their_numbers(tmp_path: Path) -> None:
    """Two of three classes, in another order and case: loss and counts by a plain computation, row by row. The third
    class is predicted for some rows, and wrong."""
    names = ("NEG", "mid", "pos")
    cache = write_cache(tmp_path / "cache", {"test": 80}, classes=("Pos", "neg"))
    folder = random_model(tmp_path / "model", *names)
    flags = ["--cache", str(cache.folder), "--precision", "fp32", "--device", "cpu", "--batch-size", "7"]
    done = CliRunner().invoke(cli, ["eval", str(folder), *flags, "--json"])
    assert done.exception is None, done.output
    scores = json.loads(done.stdout)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    confusion, loss = np.zeros((3, 3), int), 0.0
    for row in cache["test"]:
        actual = names.index(("pos", "NEG")[row.label])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.input_ids.tolist()])).logits[0].double()
        confusion[actual, int(logits.argmax())] += 1
        loss -= torch.log_softmax(logits, 0)[actual].item()
    assert confusion[:, 1].any()
    assert scores["labels"] == list(names)
    assert scores["confusion"] == confusion.tolist()
    assert scores["accuracy"] == confusion.trace() / 80
    assert scores["loss"] == pytest.approx(loss / 80, abs=1e-5)
    each = [2 * confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum()) for c in range(3)]
    assert scores["f1"] == pytest.approx(np.mean(each))
    text = CliRunner().invoke(cli, ["eval", str(folder), *flags]).stdout
    assert "2 of the model's 3, matched by name" in text
    assert "  mid: 0 rows, found as nothing" in text


def fewer(kind: str, folder: Path) -> Cache:
    """A cache of the rows of a kind that lacks a class."""
    rows = rows_of(kind)
    if kind == "multi-label":
        rows = [{**row, "label": [name for name in row["label"] if name != "x"]} for row in rows]
        return build_toy(write_jsonl(folder / "fewer.jsonl", rows), folder, name="fewer").cache
    rows = [row for row in rows if "I-PER" not in row["tags"]]
    return build_toy(write_jsonl(folder / "fewer.jsonl", rows), folder, name="fewer", max_length=24).cache


@pytest.mark.parametrize("kind", ["multi-label", "token-classification"])
def test_several_labels_and_tags_are_matched_too(tmp_path: Path, kind: str) -> None:
    run = train_task(build_task(kind, tmp_path), tmp_path / "run", epochs=1)
    cache = fewer(kind, tmp_path)
    required = CacheRequirements(cache, 48)
    model = load_for_evaluation(run / "model", CPU, required)
    scores = evaluate(model, cache["train"], CPU, "fp32", batch_size=7)
    assert scores is not None
    words = kind == "token-classification"
    names, held = TAGS if words else ("x", "y", "z"), cache.manifest.task.label_names
    assert set(held) < set(names)
    auto: Any = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
    stock, found, actual = auto.from_pretrained(run / "model").eval(), [], []
    for row in cache["train"]:
        with torch.no_grad():
            logits = stock(input_ids=torch.tensor([row.input_ids.tolist()])).logits[0].numpy()
        if words:
            tags = np.array(row.label)
            labelled = tags != -100
            found.append([names[c] for c in logits.argmax(-1)[labelled]])
            actual.append([held[c] for c in tags[labelled]])
        else:
            found.append(logits > 0)
            actual.append([name in held and bool(np.array(row.label)[held.index(name)]) for name in names])
    if words:
        sets = [(entities(one), entities(other)) for one, other in zip(found, actual, strict=True)]
        total = sum(len(one) + len(other) for one, other in sets)
        assert scores.summary()["entity_f1"] == pytest.approx(2 * sum(len(a & b) for a, b in sets) / total)
        right = [one == other for f, a in zip(found, actual, strict=True) for one, other in zip(f, a, strict=True)]
        assert scores.summary()["token_accuracy"] == pytest.approx(np.mean(right))
    else:
        assert np.array(found)[:, 0].any()
        assert scores.summary()["f1_micro"] == pytest.approx(f1(np.array(found), np.array(actual)))


def test_a_class_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"test": 5}, classes=("neg", "pos", "other"))
    folder = random_model(tmp_path / "model", "neg", "pos")
    required = CacheRequirements(cache, 48)
    with pytest.raises(MismatchError, match="has no class 'other', which the cache has; the model's classes are 'neg'"):
        load_for_evaluation(folder, CPU, required)
    with pytest.raises(MismatchError, match="no class 'neg', 'pos'"):  # two names cannot stand for three classes
        load_for_evaluation(write_model(tmp_path / "unnamed", classes=2), CPU, required)


@pytest.mark.parametrize(
    ("wanted", "names", "expected"),
    [
        (("negative", "positive"), ("POSITIVE", "NEGATIVE"), [1, 0]),
        (("neg", "Mid"), ("mid", "pos", "neg"), [2, 0]),
        (("us", "US"), ("US", "it", "us"), [2, 0]),
        (("us", "it"), ("US", "Us", "it"), [None, 2]),
        (("Us", "US"), ("us", "it"), [None, None]),
        (("neg", "other"), ("NEG", "POS"), [0, None]),
    ],
)
def test_case_tells_no_classes_apart_but_those_of_one_name(
    wanted: tuple[str, ...], names: tuple[str, ...], expected: list[int | None]
) -> None:
    assert positions_of(wanted, names) == expected


def test_classes_without_names_are_taken_in_their_order(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(write_model(tmp_path / "unnamed", classes=2))
    labels = torch.tensor([1, 0])
    assert map_classes(config, Task("classification", ("pos", "neg")), CPU)(labels) is labels
