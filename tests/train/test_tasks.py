"""Runs on pairs, numbers and sets of classes: losses and scores equal to a plain computation, resume, prediction."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cache import Batch, InputError, MismatchError, open_cache
from cache.format.tasks import Task
from tests.helpers.builds import build_toy
from tests.helpers.corpora import WORDS
from tests.helpers.models import check_same_run, resume_from_first_checkpoint, write_model
from train.compare.table import comparison, read_result
from train.metrics.evaluation import evaluate
from train.metrics.scores import ClassificationMetric, MultiLabelMetric, correlation, main_score, ranks
from train.models.fit import CacheRequirements
from train.models.inputs import model_inputs
from train.models.trained import load_classifier
from train.predict import Predictor
from train.run import start_run
from train.run_folder.export import trained_model_folder
from train.settings import Settings

KINDS = ("pairs", "regression", "multi-label")
CPU = torch.device("cpu")


def say(text: str) -> None:
    pass


def rows_of(kind: str) -> list[dict[str, Any]]:
    """60 rows whose labels can be learned from their words."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        held = random.random(3) < 0.5
        text = " ".join([*random.choice(WORDS[3:], random.integers(1, 15)), *np.array(WORDS[:3])[held]])
        row: dict[str, Any] = {"text": text, "second": " ".join(random.choice(WORDS, random.integers(1, 15)))}
        row["label"] = {
            "pairs": ["no", "yes"][int(held[0])],
            "regression": held.sum() / 3,
            "multi-label": [name for name, yes in zip("xyz", held, strict=True) if yes],
        }[kind]
        rows.append(row)
    return rows


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """The kind, a cache of it and a finished run of two epochs with dropout and accumulation."""
    place, kind = tmp_path_factory.mktemp("tasks"), request.param
    source = place / f"{kind}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)))
    pair = {"text_pair": "second"} if kind == "pairs" else {}
    cache = build_toy(source, place, holdout=0.3, **pair).cache
    run = start_run(settings(cache.folder, place, place / "run"), say, say, quiet=True)
    return kind, cache.folder, run


def settings(cache: Path, place: Path, out: Path, **more: Any) -> Settings:
    model = place / "model"
    if not model.exists():
        write_model(model)
    common = {"epochs": 2, "gradient_accumulation_steps": 2, "precision": "fp32", "batch_size": 8, "lr": 1e-3}
    return Settings(cache=str(cache), model=str(model), out=str(out), **{**common, **more})


@pytest.mark.slow
def test_scores_and_losses_are_those_of_one_row_at_a_time(trained: tuple[str, Path, Path]) -> None:
    """The stock model on unpadded rows, its own loss, scores by their definitions."""
    kind, folder, run = trained
    cache = open_cache(folder)
    model = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    logits, labels, losses = [], [], []
    for row in cache["test"]:
        inputs = {"input_ids": torch.tensor(row.input_ids.astype(np.int64))[None]}
        if row.first_length is not None:
            inputs["token_type_ids"] = (torch.arange(len(row.input_ids)) >= row.first_length).long()[None]
        label = torch.tensor([row.label], dtype=torch.int64 if kind == "pairs" else torch.float32)
        with torch.inference_mode():
            output = model(**inputs, labels=label)
        logits.append(output.logits[0].double().numpy())
        labels.append(row.label)
        losses.append(float(output.loss))
    loaded = load_classifier(
        trained_model_folder(str(run)), CPU, CacheRequirements(cache.manifest, folder, cache["test"].info.longest)
    )
    scores = evaluate(loaded, cache["test"], CPU, "fp32", batch_size=7)
    assert scores is not None
    assert scores.mean_loss == pytest.approx(np.mean(losses), rel=1e-4)
    summary, found, actual = scores.summary(), np.array(logits), np.array(labels)
    if kind == "pairs":
        assert summary["accuracy"] == np.mean(found.argmax(1) == actual)
    elif kind == "regression":
        assert summary["pearson"] == pytest.approx(np.corrcoef(found[:, 0], actual)[0, 1], abs=1e-4)
        assert summary["spearman"] == pytest.approx(rank_correlation(found[:, 0], actual), abs=1e-4)
    else:
        assert summary["f1_micro"] == pytest.approx(f1(found > 0, actual > 0))
        each = [f1(found[:, c] > 0, actual[:, c] > 0) for c in range(3)]
        assert summary["f1_macro"] == pytest.approx(np.mean(each))
    recorded = json.loads((run / "summary.json").read_text())["scores"]
    assert recorded["loss"] == pytest.approx(scores.mean_loss, rel=1e-4)


def f1(found: Any, actual: Any) -> float:
    right, wrong = (found & actual).sum(), (found ^ actual).sum()
    return float(2 * right / (2 * right + wrong)) if right + wrong else 0.0


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's by its definition: ranks counted one by one."""

    def counted(values: Any) -> list[float]:
        return [sum(v < value for v in values) + sum(v == value for v in values) / 2 for value in values]

    return float(np.corrcoef(counted(one), counted(other))[0, 1])


@pytest.mark.slow
def test_gradients_do_not_depend_on_accumulation(trained: tuple[str, Path, Path]) -> None:
    """Losses weighed by B / step_rows add up to the gradient of the batch as a whole."""
    _, folder, run = trained
    model = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    gradients = []
    for accumulation in (1, 3):
        model.zero_grad()
        for batch in open_cache(folder)["train"].batches(0, gradient_accumulation_steps=accumulation).step(1):
            (model(**model_inputs(batch, model.config)).loss * len(batch) / batch.step_rows).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_stopped_run_goes_on_exactly(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Weights and metrics equal those of the run that was not stopped, dropout and accumulation included."""
    _, folder, run = trained
    out = tmp_path / "again"
    given = settings(folder, folder.parent.parent, out, save_steps=3)
    start_run(given, say, say, quiet=True)
    resume_from_first_checkpoint(out)
    check_same_run(out, run)


def test_predictions_are_those_of_transformers(trained: tuple[str, Path, Path]) -> None:
    """In input order, of rows of any length in one batch."""
    kind, _, run = trained
    rows = rows_of(kind)[:20]
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    texts = [f"{row['text']}\t{row['second']}" if kind == "pairs" else row["text"] for row in rows]
    for row, result in zip(rows, Predictor(str(run), batch_size=7)(texts), strict=True):
        given = [row["text"], row["second"]] if kind == "pairs" else [row["text"]]
        with torch.inference_mode():
            logits = model(**tokenizer(*given, return_tensors="pt")).logits[0]
        content = result.to_json()
        if kind == "pairs":
            assert content["label"] == ["no", "yes"][int(logits.argmax())]
            assert content["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
        elif kind == "regression":
            assert content["value"] == pytest.approx(float(logits[0]), abs=1e-5)
        else:
            assert list(content["probabilities"].values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
            assert content["labels"] == tuple(n for n, v in zip("xyz", logits.tolist(), strict=True) if v > 0)
        assert result.to_line().endswith(content["text"])


def test_a_line_without_a_tab_is_no_pair(trained: tuple[str, Path, Path]) -> None:
    """The message shows the text; models of single texts take tabs as they come."""
    kind, _, run = trained
    predict = Predictor(str(run))
    if kind == "pairs":
        for text in ("word1 word2", "word1\tword2\tword3"):
            with pytest.raises(InputError, match="put one tab between"):
                list(predict([text]))
    else:
        assert len(list(predict(["word1\tword2"]))) == 1


def test_runs_of_other_tasks_show_their_score(trained: tuple[str, Path, Path]) -> None:
    """The comparison names the score where it is not accuracy."""
    kind, _, run = trained
    table = comparison([read_result(run)])
    assert {"pairs": "accuracy", "regression": "Spearman ", "multi-label": "micro F1 "}[kind] in table


def test_a_model_of_another_task_is_refused(trained: tuple[str, Path, Path], tmp_path: Path) -> None:
    """Both tasks are named."""
    kind, folder, _ = trained
    manifest = open_cache(folder).manifest
    other = write_model(tmp_path / "model", classes=1 if kind != "regression" else 2)
    with pytest.raises(MismatchError, match=r"task: its head was trained for .*, the cache is for"):
        load_classifier(other, CPU, CacheRequirements(manifest, folder, 30))


def test_models_without_token_types_get_none() -> None:
    """By the configuration, for RoBERTa's table has one entry and DistilBERT none."""
    from transformers import AutoConfig

    ids = torch.ones(1, 2, dtype=torch.int64)
    batch = Batch(ids, None, ids[0], np.arange(1), 0, 1, 1, 1, True, 2, ids)
    known = {kind: "token_type_ids" in model_inputs(batch, AutoConfig.for_model(kind)) for kind in ("bert", "electra")}
    assert all(known.values())
    for kind, more in (("roberta", {"type_vocab_size": 1}), ("distilbert", {}), ("modernbert", {}), ("deberta-v2", {})):
        assert "token_type_ids" not in model_inputs(batch, AutoConfig.for_model(kind, **more))


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


@pytest.mark.slow
def test_a_corpus_s_own_metric_is_its_runs_main_score(tmp_path: Path) -> None:
    """Named in the cache's manifest by its preset, kept by the run, shown by the comparison; else it is accuracy."""
    assert main_score({"accuracy": 0.5, "matthews": 0.2}, "Matthews") == ("matthews", 0.2)
    assert main_score({"accuracy": 0.5, "matthews": 0.2}) == ("accuracy", 0.5)
    assert main_score({"spearman": 0.5}, "F1") == ("spearman", 0.5)
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows_of("pairs")))
    cache = build_toy(source, tmp_path, holdout=0.3).cache
    known = replace(cache.manifest, source={**cache.manifest.source, "metric": "Matthews"})
    (cache.folder / "manifest.json").write_bytes(known.to_bytes())
    run = start_run(settings(cache.folder, tmp_path, tmp_path / "run", epochs=1), say, say, quiet=True)
    result = read_result(run)
    assert result.score is not None
    assert result.score[0] == "matthews"
    assert f"Matthews {result.score[1]:.4f}" in comparison([result])


@pytest.mark.slow
def test_a_model_of_pairs_is_refused_on_single_texts_and_the_other_way_round(tmp_path: Path) -> None:
    """To evaluate it would give numbers that mean nothing; the message names both and the option."""
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows_of("pairs")))
    options: dict[bool, dict[str, Any]] = {True: {"text_pair": "second"}, False: {}}
    caches = {
        pair: build_toy(source, tmp_path, name=str(pair), holdout=0.3, **more).cache for pair, more in options.items()
    }
    for pair, other, remedy in ((True, False, "with --text-pair"), (False, True, "without --text-pair")):
        out = tmp_path / f"run-{pair}"
        start_run(settings(caches[pair].folder, tmp_path, out, max_steps=1), say, say, quiet=True)
        needs = {which: CacheRequirements(cache.manifest, cache.folder, 30) for which, cache in caches.items()}
        load_classifier(out / "model", CPU, needs[pair])
        words = r"trained on pairs of texts.* holds single" if pair else r"trained on single texts.* holds pairs"
        with pytest.raises(MismatchError, match=f"{words}.*{remedy}"):
            load_classifier(out / "model", CPU, needs[other])
        (out / "model" / "lengthwise.json").unlink()
        load_classifier(out / "model", CPU, needs[other])  # a model of other make does not say


def test_a_task_knows_its_outputs(tmp_path: Path) -> None:
    """One number for a regression, one for each class otherwise."""

    class Manifest:
        task = Task("regression", ())

    assert CacheRequirements(Manifest, tmp_path, 1).outputs == 1  # type: ignore[arg-type]
