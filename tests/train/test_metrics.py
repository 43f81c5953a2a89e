"""Scores by hand and against their definitions: correlations, F1, Matthews, entities by seqeval's rules."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cache import Batch
from cache.format.tasks import KINDS, MLM, Task
from tests.helpers.caches import write_cache
from tests.helpers.scores import entities
from train.metrics import evaluation
from train.metrics.classification import MAX_CONFUSION_CLASSES, ClassificationMetric, ClassScores, MultiLabelMetric
from train.metrics.entities import EntityMetric, marks_entities
from train.metrics.evaluation import score_names
from train.metrics.perplexity import MaskedLMScores
from train.metrics.regression import RegressionMetric, correlation, ranks
from train.metrics.scores import MAIN, is_better, metric_of
from train.run_folder.records import finite

CPU = torch.device("cpu")


def test_correlations_by_hand() -> None:
    """Ties share the mean of their ranks; a constant column correlates with nothing."""
    assert ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1, 2.5, 4]
    assert correlation(np.array([1.0, 2, 3]), np.array([2.0, 4, 6])) == pytest.approx(1)
    assert correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert correlation(np.array([1.0, 1]), np.array([1.0, 2])) == 0
    for permuted in itertools.permutations([1.0, 2, 3, 4]):
        differences = sum((a - b) ** 2 for a, b in enumerate(permuted, 1))
        expected = 1 - 6 * differences / (4 * 15)
        assert correlation(ranks(np.arange(4.0)), ranks(np.array(permuted))) == pytest.approx(expected)
    metric = RegressionMetric()
    metric.update(torch.tensor([[1.0], [2], [3]]), torch.tensor([1.0, 4, 9]))
    assert list(metric.compute(3, 0.0).lines(())) == [("Pearson", "0.9897"), ("Spearman", "1.0000")]


def test_the_losses_of_an_evaluation_are_summed_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row more counts, however many there were: in fp32 2^24 + 1 is 2^24."""
    split = write_cache(tmp_path / "toy", {"train": 1, "test": 4})["test"]
    losses = iter([2.0**24, 1.0, 1.0, 1.0])

    def score(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        labels = batch.model_inputs()["labels"]
        return torch.tensor(next(losses)), torch.zeros(len(batch), 2), labels

    monkeypatch.setattr(evaluation, "_labelled", lambda *_: (score, metric_of(split.task, CPU)))
    found = evaluation.evaluate(torch.nn.Module(), split, CPU, "fp32", batch_size=1)
    assert found is not None
    assert found.loss == 2.0**24 + 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_has_scores_before_it_has_rows(kind: str) -> None:
    """The settings name a score before anything is evaluated; each task knows its own, the loss first."""
    classes = () if kind in ("regression", MLM) else ("B-A", "O")
    names = score_names(Task(kind, classes), kind == MLM)
    assert names[0] == "loss" and set(MAIN) & set(names)


def test_where_nothing_is_to_be_predicted_there_is_no_loss() -> None:
    """Rows without a masked token; a loss of 0 and a perplexity of 1 would be the best of all evaluations."""
    scores = MaskedLMScores(rows=3, loss=0.0, tokens=0, correct=0)
    assert np.isnan([scores.mean_loss, scores.perplexity]).all()
    assert not is_better("loss", finite(scores.summary())["loss"], None)


def test_f1_by_hand() -> None:
    """Micro counts decisions, macro classes; one that never occurs and is never found counts 0."""
    metric = MultiLabelMetric(3, CPU)
    metric.update(torch.tensor([[1.0, -1, -1], [1, 1, -1]]), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    metric.update(torch.tensor([[-1.0, -1, -1]]), torch.tensor([[1.0, 0, 0]]))
    scores = metric.compute(3, 0.6)
    assert (scores.correct, scores.predicted, scores.actual) == ((1, 1, 0), (2, 1, 0), (2, 1, 0))
    assert scores.f1_micro == pytest.approx(2 * 2 / (3 + 3))
    assert scores.f1_macro == pytest.approx((0.5 + 1 + 0) / 3)
    assert scores.mean_loss == pytest.approx(0.2)
    assert list(scores.lines(["a", "b", "c"])) == [
        ("micro F1", "0.6667 (over all decisions)"),
        ("macro F1", "0.5000 (mean over classes)"),
        ("", "a: 2 rows, 1 of them found, 2 found in all"),
        ("", "b: 1 row, 1 of them found, 1 found in all"),
        ("", "c: 0 rows, 0 of them found, 0 found in all"),
    ]


def test_of_very_many_classes_each_is_counted_and_no_pair() -> None:
    classes = MAX_CONFUSION_CLASSES + 1
    metric = ClassificationMetric(classes, CPU)
    metric.update(torch.eye(classes)[[0, 1, 0]], torch.tensor([0, 0, 1]))
    scores = metric.compute(3, 0.0)
    content, lines = scores.to_json(), list(scores.lines([f"c{number}" for number in range(classes)]))
    assert (content["correct"][:2], content["predicted"][:2], content["actual"][:2]) == ((1, 0), (2, 1), (2, 1))
    assert lines[3] == ("", "c0: 2 rows, 1 of them found, 2 found in all")
    assert len(lines) == 3 + 20


def test_matthews_by_hand() -> None:
    """Of two classes the correlation of their numbers; of more the covariances of their indicators (Gorodkin 2004)."""
    random = np.random.default_rng(0)
    for classes in (2, 4):
        actual = random.integers(0, classes, 300)
        found = np.where(random.random(300) < 0.4, actual, random.integers(0, classes, 300))
        metric = ClassificationMetric(classes, CPU)
        metric.update(torch.eye(classes)[found], torch.from_numpy(actual))
        scores = metric.compute(300, 0.0)
        one, other = (np.eye(classes)[which] - np.eye(classes)[which].mean(axis=0) for which in (found, actual))
        expected = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
        assert scores.matthews == pytest.approx(expected)
        assert scores.summary()["matthews"] == scores.to_json()["matthews"] == scores.matthews
        assert ("Matthews", f"{expected:.4f}") in list(scores.lines([str(c) for c in range(classes)]))
        if classes == 2:
            assert scores.matthews == pytest.approx(np.corrcoef(found, actual)[0, 1])
    constant = ClassificationMetric(2, CPU)
    constant.update(torch.eye(2)[[0, 0]], torch.tensor([0, 1]))
    assert constant.compute(2, 0.0).matthews == 0


def test_entities_are_counted_as_seqeval_does() -> None:
    """IOB2, IOBES and plain tags at random, sequences that the schemes forbid included; with words between that have
    no label, and padding on either side."""
    random = np.random.default_rng(0)
    schemes = [
        ["O", "B-A", "I-A", "B-B", "I-B"],
        ["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in ("A", "B-C"))],
        ["NN", "IN", "EX", "SYM", "BB", "OO", ".X", "O", "DT-X", "B", "I"],
    ]
    for names in schemes:
        metric = EntityMetric(names, CPU)
        counted = {name: Counter[str]() for name in ("correct", "predicted", "actual")}
        right = tokens = 0
        for _ in range(150):
            width = int(random.integers(1, 12))
            labels = torch.from_numpy(random.integers(0, len(names), (3, width)))
            labels[torch.from_numpy(random.random((3, width)) < 0.3)] = -100
            logits = torch.randn(3, width, len(names), generator=torch.Generator().manual_seed(int(tokens)))
            keep = torch.from_numpy(random.random((3, width)) < 0.6) & (labels != -100)
            logits[keep] += 9 * torch.nn.functional.one_hot(labels.clamp(min=0), len(names))[keep]
            metric.update(logits, labels)
            for row, found in zip(labels.tolist(), logits.argmax(-1).tolist(), strict=True):
                pairs = [(names[one], names[other]) for one, other in zip(row, found, strict=True) if one != -100]
                actual, predicted = (entities([pair[side] for pair in pairs]) for side in (0, 1))
                groups = {"correct": actual & predicted, "predicted": predicted, "actual": actual}
                for name, group in groups.items():
                    counted[name].update(kind for kind, _, _ in group)
                right, tokens = right + sum(one == other for one, other in pairs), tokens + len(pairs)
        scores = metric.compute(450, 1.0)
        assert counted["correct"]
        assert (scores.right, scores.tokens) == (right, tokens)
        for name, counts in counted.items():
            assert dict(zip(scores.types, getattr(scores, name), strict=True)) == {k: counts[k] for k in scores.types}


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        (("O", "B-PER"), True),
        (("O", "person", "place"), True),
        (("B-NP", "I-NP"), True),
        (("NOUN", "VERB", "INTJ", "SYM"), False),
        (("B-", "$", "-LRB-", "IN", "0"), False),
    ],
)
def test_tags_that_mark_no_entities_are_scored_as_classes_of_words(tags: tuple[str, ...], entities: bool) -> None:
    """Parts of speech have no entities to count; by seqeval's rules words of a kind in a row would be one."""
    assert marks_entities(tags) == entities
    metric = metric_of(Task("token-classification", tags), CPU)
    labels = torch.tensor([[-100, 0, 1, -100], [-100, 1, 1, 0]])
    found = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 0]])
    metric.update(torch.nn.functional.one_hot(found, len(tags)).float(), labels)
    scores = metric.compute(2, 10.0)
    assert scores.targets == 5
    assert scores.mean_loss == 2
    assert ("entity_f1" in scores.summary()) == entities
    if not entities:
        rows = ClassificationMetric(len(tags), CPU)  # of the same words, a row each
        kept = labels != -100
        rows.update(torch.nn.functional.one_hot(found[kept], len(tags)).float(), labels[kept])
        expected = rows.compute(5, 10.0)
        assert scores.summary() == {**expected.summary(), "rows": 2}
        assert scores.to_json() == {**expected.to_json(), "rows": 2}
        assert ("", f"{tags[1]}: 3 words, found as {tags[0]} 1, {tags[1]} 2") in list(scores.lines(tags))


def test_f1_of_many_classes_is_the_mean_over_those_that_occur() -> None:
    scores = ClassScores(6, 0.0, correct=(2, 1, 0, 0), predicted=(3, 2, 1, 0), actual=(2, 3, 1, 0), confusion=None)
    assert scores.f1 == pytest.approx((2 * 2 / 5 + 2 * 1 / 5 + 0) / 3)
    assert scores.accuracy == 0.5


def test_entity_scores_by_hand() -> None:
    """seqeval's own example: one of two entities found by type, first and last word; precision, recall and F1 0.5."""
    names = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER"]
    actual = ["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"]
    found = ["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"]
    metric = EntityMetric(names, CPU)
    for one, other in zip(actual, found, strict=True):
        labels, given = ([names.index(tag) for tag in tags.split()] for tags in (one, other))
        metric.update(torch.nn.functional.one_hot(torch.tensor([given]), 5).float(), torch.tensor([labels]))
    summary = metric.compute(2, 5.0).summary()
    assert [summary[f"entity_{name}"] for name in ("precision", "recall", "f1")] == [0.5, 0.5, 0.5]
    assert summary["token_accuracy"] == 0.8
    assert summary["loss"] == 0.5
    assert dict(metric.compute(2, 5.0).lines(names))["F1"].startswith("0.5000 (of entities: precision 0.5000")
    assert list(metric.compute(2, 5.0).to_json()["types"]) == ["MISC", "PER"]
