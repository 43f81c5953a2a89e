"""Runs on every task: losses, gradients and scores equal to a plain computation, resume, prediction."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from cache import Batch, Cache, InputError, MismatchError, PlanSpec, open_cache
from tests.helpers.builds import build_toy
from tests.helpers.corpora import WORDS
from tests.helpers.files import edit_json, write_jsonl
from tests.helpers.models import write_model
from tests.helpers.runs import check_same_run, resume_from_first_checkpoint
from tests.helpers.scores import entities, f1, rank_correlation
from tests.helpers.tasks import TAGS, build_task, rows_of, train_task
from tests.helpers.tokenizers import write_tokenizer
from train.compare.results import read_result
from train.compare.table import comparison
from train.forward.inputs import model_inputs
from train.metrics.evaluation import evaluate
from train.metrics.scores import main_score
from train.models.fit import CacheRequirements
from train.models.trained import load_for_evaluation
from train.predict import Predictor
from train.run_folder.export import trained_model_folder

KINDS = ("pairs", "regression", "multi-label", "token-classification")
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Cache, Path]:
    """The kind, a cache of it and a finished run of two epochs with dropout and accumulation."""
    folder = tmp_path_factory.mktemp("tasks")
    cache = build_task(request.param, folder)
    return request.param, cache, train_task(cache, folder / "run", save_steps=3)


def stock_model(kind: str, run: Path) -> Any:
    """The trained model as transformers loads it."""
    words = kind == "token-classification"
    auto = AutoModelForTokenClassification if words else AutoModelForSequenceClassification
    return auto.from_pretrained(run / "model").eval()


@pytest.mark.slow
def test_scores_and_losses_are_those_of_one_row_at_a_time(trained: tuple[str, Cache, Path]) -> None:
    """The stock model on unpadded rows, its own loss, scores by their definitions."""
    kind, cache, run = trained
    model, dtype = stock_model(kind, run), torch.float32 if kind in ("regression", "multi-label") else torch.int64
    logits, labels, losses, targets = [], [], [], []
    for row in cache["test"]:
        inputs = {"input_ids": torch.tensor(row.input_ids.astype(np.int64))[None]}
        if row.first_length is not None:
            inputs["token_type_ids"] = (torch.arange(len(row.input_ids)) >= row.first_length).long()[None]
        label = torch.tensor([row.label], dtype=dtype)
        own = int((label != -100).sum()) if kind == "token-classification" else 1
        if not own:
            continue
        with torch.inference_mode():
            output = model(**inputs, labels=label)
        logits.append(output.logits[0].double().numpy())
        labels.append(np.array(row.label))
        losses.append(float(output.loss))
        targets.append(own)
    required = CacheRequirements(cache, cache["test"].info.longest)
    loaded = load_for_evaluation(trained_model_folder(str(run)), CPU, required)
    scores = evaluate(loaded, cache["test"], CPU, "fp32", batch_size=7)
    assert scores is not None
    assert scores.mean_loss == pytest.approx(np.average(losses, weights=targets), rel=1e-4)
    summary, expected = scores.summary(), scores_by_definition(kind, logits, labels)
    tolerance = 1e-4 if kind == "regression" else 1e-9
    assert {name: summary[name] for name in expected} == pytest.approx(expected, abs=tolerance)
    recorded = json.loads((run / "summary.json").read_text())["scores"]
    assert recorded["loss"] == pytest.approx(scores.mean_loss, rel=1e-4)


def scores_by_definition(kind: str, logits: list[Any], labels: list[Any]) -> dict[str, float]:
    if kind == "token-classification":
        return tag_scores([row.argmax(-1) for row in logits], labels)
    found, actual = np.array(logits), np.array(labels)
    if kind == "pairs":
        return {"accuracy": np.mean(found.argmax(1) == actual)}
    if kind == "regression":
        pearson = np.corrcoef(found[:, 0], actual)[0, 1]
        return {"pearson": pearson, "spearman": rank_correlation(found[:, 0], actual)}
    each = [f1(found[:, c] > 0, actual[:, c] > 0) for c in range(3)]
    return {"f1_micro": f1(found > 0, actual > 0), "f1_macro": float(np.mean(each))}


def tag_scores(found: list[Any], actual: list[Any]) -> dict[str, float]:
    """Of tokens by their tags, of entities word by word."""
    right = tokens = both = total = 0
    for one, other in zip(found, actual, strict=True):
        labelled = other != -100
        right, tokens = right + int((one == other)[labelled].sum()), tokens + int(labelled.sum())
        groups = [entities([TAGS[tag] for tag in tags[labelled]]) for tags in (one, other)]
        both, total = both + len(groups[0] & groups[1]), total + len(groups[0]) + len(groups[1])
    assert both
    return {"token_accuracy": right / tokens, "entity_f1": 2 * both / total}


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_do_not_depend_on_ranks_and_accumulation(trained: tuple[str, Cache, Path], ranks: int) -> None:
    """Mean losses weighed by their share add up to the gradient of transformers' mean over the whole batch."""
    kind, cache, run = trained
    model, spec, gradients = stock_model(kind, run), PlanSpec("dynamic", 12), []
    for accumulation, world in ((1, 1), (3, ranks), (12, ranks)):
        model.zero_grad()
        for rank in range(world):
            batches = cache["train"].batches(
                0, spec, gradient_accumulation_steps=accumulation, rank=rank, world_size=world
            )
            for batch in batches.step(1):
                assert kind == "token-classification" or batch.loss_weight == len(batch) / batch.step_rows
                if batch.targets:
                    loss = model(**model_inputs(batch, model.config)).loss
                    (loss if accumulation == 1 else loss * batch.loss_weight).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_stopped_run_goes_on_exactly(trained: tuple[str, Cache, Path], tmp_path: Path) -> None:
    """Weights and metrics equal those of the run that was not stopped, dropout and accumulation included."""
    again = shutil.copytree(trained[2], tmp_path / "again")
    resume_from_first_checkpoint(again)
    check_same_run(again, trained[2])


@pytest.mark.slow
def test_predictions_are_those_of_transformers(trained: tuple[str, Cache, Path]) -> None:
    """In input order, of texts of any length in one batch; a text with tags at the first token of each word, and none
    for words behind the maximum length or without a token."""
    kind, _, run = trained
    tokenizer, model = AutoTokenizer.from_pretrained(run / "model"), stock_model(kind, run)
    rows = rows_of(kind)[:20]
    if kind == "token-classification":
        assert tuple(model.config.id2label.values()) == TAGS
        rows += [{"tokens": []}, {"tokens": ["word1", "\u200b", "word2"]}, {"tokens": WORDS[:40]}]
    texts = [typed(kind, row) for row in rows]
    for row, text, result in zip(rows, texts, Predictor(str(run), batch_size=7)(texts), strict=True):
        if kind == "token-classification":
            words = text.split()
            options = {"is_split_into_words": True, "truncation": True, "max_length": 24}
            given = tokenizer([words], return_tensors="pt", **options)
        else:
            both = [row["text"], row["second"]] if kind == "pairs" else [row["text"]]
            given = tokenizer(*both, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**given).logits[0]
        content = result.to_json()
        if kind == "pairs":
            assert content["label"] == ["no", "yes"][int(logits.argmax())]
            assert content["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
        elif kind == "regression":
            assert content["value"] == pytest.approx(float(logits[0]), abs=1e-5)
        elif kind == "multi-label":
            assert list(content["probabilities"].values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
            assert content["labels"] == [n for n, v in zip("xyz", logits.tolist(), strict=True) if v > 0]
        else:
            assert (content["text"], content["words"]) == (text, words)
            check_tags(content, logits.softmax(-1), given.word_ids(0))
            assert len(result.to_line().partition("\t")[0].split()) == len(words)
        assert result.to_line().endswith(content["text"])


@pytest.mark.slow
def test_the_tokenizer_of_a_model_trained_with_token_types_gives_them(tmp_path: Path) -> None:
    """Though its class is of no model, and by itself gives none; a run on this cache exports it so."""
    edit_json(write_tokenizer(tmp_path / "tokenizer") / "tokenizer_config.json", tokenizer_class="TokenizersBackend")
    cache = build_task("pairs", tmp_path)
    run = train_task(cache, tmp_path / "run", max_steps=1)
    rows = {row.source_row: row for row in cache["test"]}
    for folder, typed in ((run / "model", True), (cache.tokenizer_folder, False)):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for number, row in rows.items():
            source = rows_of("pairs")[number]
            given = tokenizer(source["text"], source["second"])
            assert given["input_ids"] == row.input_ids.tolist()
            assert ("token_type_ids" in given) == typed
            if typed:
                assert given["token_type_ids"].count(0) == row.first_length


def typed(kind: str, row: dict[str, Any]) -> str:
    """A row as a user types it."""
    if kind == "token-classification":
        return " ".join(row["tokens"])
    return f"{row['text']}\t{row['second']}" if kind == "pairs" else str(row["text"])


def check_tags(content: dict[str, Any], probabilities: torch.Tensor, word_ids: list[int | None]) -> None:
    """Each word has the tag that is likeliest at its first token."""
    for number, (tag, probability) in enumerate(zip(content["tags"], content["probabilities"], strict=True)):
        if number not in word_ids:
            assert (tag, probability) == (None, None)
            continue
        own = probabilities[word_ids.index(number)]
        assert tag == TAGS[int(own.argmax())]
        assert probability == pytest.approx(float(own.max()), abs=1e-5)


@pytest.mark.slow
def test_a_line_without_a_tab_is_no_pair(trained: tuple[str, Cache, Path]) -> None:
    """The message shows the text; models of single texts take tabs as they come."""
    kind, _, run = trained
    predict = Predictor(str(run))
    if kind == "pairs":
        for text in ("word1 word2", "word1\tword2\tword3"):
            with pytest.raises(InputError, match="put one tab between"):
                list(predict([text]))
    else:
        assert len(list(predict(["word1\tword2"]))) == 1


SCORES = {
    "pairs": "accuracy",
    "regression": "Spearman ",
    "multi-label": "micro F1 ",
    "token-classification": "entity F1 0.",
}


@pytest.mark.slow
def test_runs_of_other_tasks_show_their_score(trained: tuple[str, Cache, Path]) -> None:
    """The comparison names the score where it is not accuracy."""
    kind, _, run = trained
    assert SCORES[kind] in comparison([read_result(run)])


@pytest.mark.slow
def test_a_model_of_another_task_is_refused(trained: tuple[str, Cache, Path], tmp_path: Path) -> None:
    """Both tasks are named, and a remedy for an evaluation: no other tokenizer helps."""
    kind, cache, _ = trained
    classes = {"regression": 2, "token-classification": 4}.get(kind, 1)
    theirs = "regression" if classes == 1 else "classification"
    ours = "classification" if kind == "pairs" else kind
    with pytest.raises(
        MismatchError, match=f"task: its head was trained for {theirs}, the cache is for {ours}"
    ) as error:
        other = write_model(tmp_path / "model", classes=classes)
        load_for_evaluation(other, CPU, CacheRequirements(cache, 30))
    assert str(error.value).endswith("\npass another model, or a --cache of the model's task and classes")


@pytest.mark.slow
def test_a_corpus_s_own_metric_is_its_runs_main_score(tmp_path: Path) -> None:
    """Named in the cache's manifest by its preset, kept by the run, shown by the comparison; else it is accuracy."""
    assert main_score({"accuracy": 0.5, "matthews": 0.2}, "Matthews") == ("matthews", 0.2)
    assert main_score({"accuracy": 0.5, "matthews": 0.2}) == ("accuracy", 0.5)
    assert main_score({"spearman": 0.5}, "F1") == ("spearman", 0.5)
    cache = build_toy(write_jsonl(tmp_path / "pairs.jsonl", rows_of("pairs")), tmp_path, holdout=0.3).cache
    known = replace(cache.manifest, source={**cache.manifest.source, "metric": "Matthews"})
    (cache.folder / "manifest.json").write_bytes(known.to_bytes())
    result = read_result(train_task(open_cache(cache.folder), tmp_path / "run", epochs=1))
    assert result.score is not None
    assert result.score[0] == "matthews"
    assert f"Matthews {result.score[1]:.4f}" in comparison([result])


def test_models_without_token_types_get_none() -> None:
    """By the configuration, for RoBERTa's table has one entry and DistilBERT none."""
    from transformers import AutoConfig

    ids = torch.ones(1, 2, dtype=torch.int64)
    batch = Batch(ids, None, ids[0], np.arange(1), 0, 1, 1, 1, True, 2, ids)
    known = {kind: "token_type_ids" in model_inputs(batch, AutoConfig.for_model(kind)) for kind in ("bert", "electra")}
    assert all(known.values())
    for kind, more in (("roberta", {"type_vocab_size": 1}), ("distilbert", {}), ("modernbert", {}), ("deberta-v2", {})):
        assert "token_type_ids" not in model_inputs(batch, AutoConfig.for_model(kind, **more))


@pytest.mark.slow
def test_a_model_of_pairs_is_refused_on_single_texts_and_the_other_way_round(tmp_path: Path) -> None:
    """To evaluate it would give numbers that mean nothing; the message names both and the option."""
    source = write_jsonl(tmp_path / "pairs.jsonl", rows_of("pairs"))
    options: dict[bool, dict[str, Any]] = {True: {"text_pair": "second"}, False: {}}
    caches = {
        pair: build_toy(source, tmp_path, name=str(pair), holdout=0.3, **more).cache for pair, more in options.items()
    }
    for pair, other, remedy in ((True, False, "with --text-pair"), (False, True, "without --text-pair")):
        out = train_task(caches[pair], tmp_path / f"run-{pair}", max_steps=1)
        needs = {which: CacheRequirements(cache, 30) for which, cache in caches.items()}
        load_for_evaluation(out / "model", CPU, needs[pair])
        words = r"trained on pairs of texts.* holds single" if pair else r"trained on single texts.* holds pairs"
        with pytest.raises(MismatchError, match=f"{words}.*{remedy}"):
            load_for_evaluation(out / "model", CPU, needs[other])
        (out / "model" / "lengthwise.json").unlink()
        load_for_evaluation(out / "model", CPU, needs[other])  # a model of other make does not say
