"""Runs on words with tags: losses, gradients and scores equal to a plain computation; entities by seqeval's rules."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForTokenClassification, AutoTokenizer

from cache import Cache, InputError, MismatchError, PlanSpec, open_cache
from cache.format.tasks import IGNORED
from tests.helpers.builds import build_toy
from tests.helpers.corpora import WORDS
from tests.helpers.models import check_same_run, resume_from_first_checkpoint, write_model
from train.cli import cli
from train.compare.table import comparison, read_result
from train.metrics.entities import TokenMetric
from train.metrics.evaluation import evaluate
from train.models.fit import CacheRequirements
from train.models.inputs import model_inputs
from train.models.masked_lm import Masking
from train.models.trained import load_classifier, load_for_evaluation
from train.predict import Predictor
from train.run import start_run
from train.run_folder.export import trained_model_folder
from train.settings import Settings

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
NAMES = ("O", "B-LOC", "B-PER", "I-PER")


def say(text: str) -> None:
    pass


def sentences() -> list[dict[str, list[str]]]:
    """60 sentences whose tags follow from the words; some have none."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        words = random.choice(WORDS, random.integers(0, 20)).tolist()
        numbers = [int(word[4:]) % 8 for word in words]
        tags = ["B-LOC" if number == 0 else "B-PER" if number == 1 else "O" for number in numbers]
        for place, (before, number) in enumerate(zip(tags, numbers[1:], strict=False), 1):
            tags[place] = "I-PER" if number > 4 and before != "O" else tags[place]
        rows.append({"tokens": [f"{word} {word}" if word.endswith("3") else word for word in words], "tags": tags})
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cache, Path]:
    """A cache, and a finished run of two epochs with dropout and accumulation."""
    place = tmp_path_factory.mktemp("tokens")
    source = place / "words.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in sentences()))
    cache = build_toy(source, place, holdout=0.3, max_length=24).cache
    return cache, start_run(settings(cache, place / "run"), say, say, quiet=True)


def settings(cache: Cache, out: Path, **more: Any) -> Settings:
    model = cache.folder.parent.parent / "model"
    if not model.exists():
        write_model(model)
    common = {
        "epochs": 2,
        "gradient_accumulation_steps": 2,
        "precision": "fp32",
        "batch_size": 8,
        "lr": 2e-2,
        "strategy": "tight",
    }
    return Settings(cache=str(cache.folder), model=str(model), out=str(out), **{**common, **more})


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Type, first and last word of the entities in a sentence, word by word as seqeval's `get_entities` does it."""
    found, begin = set(), 0
    parts = [(tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_") for tag in ["O", *tags, "O"]]
    for place, ((before, kind_before), (letter, kind)) in enumerate(pairwise(parts)):
        changed = kind != kind_before
        ends = before in "ES" or (before in "BI" and letter in "BSO") or (before not in "O." and changed)
        starts = letter in "BS" or (before in "ESO" and letter in "EI")
        if ends:
            found.add((kind_before, begin, place - 1))
        if starts or (letter not in "O." and changed):
            begin = place
    return found


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
        metric, counted = TokenMetric(names, CPU), {name: Counter[str]() for name in ("correct", "predicted", "actual")}
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


def test_entity_scores_by_hand() -> None:
    """seqeval's own example: one of two entities found by type, first and last word; precision, recall and F1 0.5."""
    names = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER"]
    actual = ["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"]
    found = ["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"]
    metric = TokenMetric(names, CPU)
    for one, other in zip(actual, found, strict=True):
        labels, given = ([names.index(tag) for tag in tags.split()] for tags in (one, other))
        metric.update(torch.nn.functional.one_hot(torch.tensor([given]), 5).float(), torch.tensor([labels]))
    summary = metric.compute(2, 5.0).summary()
    assert [summary[f"entity_{name}"] for name in ("precision", "recall", "f1")] == [0.5, 0.5, 0.5]
    assert summary["token_accuracy"] == 0.8
    assert summary["loss"] == 0.5
    assert dict(metric.compute(2, 5.0).lines(names))["F1"].startswith("0.5000 (of entities: precision 0.5000")
    assert list(metric.compute(2, 5.0).to_json()["types"]) == ["MISC", "PER"]


def test_scores_and_losses_are_those_of_one_row_at_a_time(trained: tuple[Cache, Path]) -> None:
    """The stock model on unpadded rows, its own loss; entities word by word."""
    cache, run = trained
    model = AutoModelForTokenClassification.from_pretrained(run / "model").eval()
    loss, right, tokens, groups = 0.0, 0, 0, [0, 0, 0]
    for row in cache["test"]:
        labels = torch.tensor([row.label])
        own = int((labels != -100).sum())
        if not own:
            continue
        with torch.inference_mode():
            output = model(input_ids=torch.tensor(row.input_ids.astype(np.int64))[None], labels=labels)
        found = output.logits.argmax(-1)
        loss, tokens = loss + float(output.loss) * own, tokens + own
        right += int((found == labels).sum())
        pair = zip(labels[0].tolist(), found[0].tolist(), strict=True)
        words = [(NAMES[one], NAMES[other]) for one, other in pair if one != -100]
        actual, predicted = (entities([word[side] for word in words]) for side in (0, 1))
        groups = [
            count + len(group) for count, group in zip(groups, (actual & predicted, predicted, actual), strict=True)
        ]
    needs = CacheRequirements(cache.manifest, cache.folder, cache["test"].info.longest)
    scores = evaluate(
        load_classifier(trained_model_folder(str(run)), CPU, needs), cache["test"], CPU, "fp32", batch_size=3
    )
    assert scores is not None
    summary = scores.summary()
    assert summary["loss"] == pytest.approx(loss / tokens, rel=1e-4)
    assert summary["token_accuracy"] == right / tokens
    assert summary["entity_f1"] == pytest.approx(2 * groups[0] / (groups[1] + groups[2]))
    assert groups[0]
    recorded = json.loads((run / "summary.json").read_text())["scores"]
    assert recorded["loss"] == pytest.approx(summary["loss"], rel=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_do_not_depend_on_accumulation(trained: tuple[Cache, Path], ranks: int) -> None:
    """Mean losses weighed by their share add up to the gradient of transformers' mean over the whole batch."""
    cache, run = trained
    model = AutoModelForTokenClassification.from_pretrained(run / "model").eval()
    spec, gradients = PlanSpec("dynamic", 12), []
    for accumulation, world in ((1, 1), (3, ranks), (12, ranks)):
        model.zero_grad()
        for rank in range(world):
            batches = cache["train"].batches(
                0, spec, gradient_accumulation_steps=accumulation, rank=rank, world_size=world
            )
            for batch in batches.step(1):
                if batch.targets:
                    loss = model(**model_inputs(batch, model.config)).loss
                    (loss if accumulation == 1 else loss * batch.loss_weight).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, rtol=1e-4, atol=1e-6)


def test_the_loss_on_record_is_per_labelled_token(trained: tuple[Cache, Path]) -> None:
    """Of the whole epoch, whatever the batches; computed by an untrained copy of a run that learns nothing."""
    cache, _ = trained
    out = cache.folder.parent / "still"
    start_run(settings(cache, out, lr=1e-30, epochs=1, eval_split="none", max_steps=None), say, say, quiet=True)
    model = AutoModelForTokenClassification.from_pretrained(out / "model")
    record = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][-1]
    assert record["kind"] == "epoch"
    scores = evaluate(model, cache["train"], CPU, "fp32")
    assert scores is not None
    assert record["loss"] == pytest.approx(scores.mean_loss, rel=0.05)  # dropout
    assert record["rows"] == len(cache["train"])


def test_a_stopped_run_goes_on_exactly(trained: tuple[Cache, Path], tmp_path: Path) -> None:
    """Weights and metrics equal those of the run that was not stopped, dropout and accumulation included."""
    cache, run = trained
    out = tmp_path / "again"
    start_run(settings(cache, out, save_steps=3), say, say, quiet=True)
    resume_from_first_checkpoint(out)
    check_same_run(out, run)


def test_steps_without_a_label_change_nothing_and_stop_nothing(tmp_path: Path) -> None:
    """A corpus in which most sentences have no words, in batches of one."""
    rows = [{"tokens": ["word1", "word2"], "tags": ["O", "B-X"]}] * 3 + [{"tokens": [], "tags": []}] * 9
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cache = build_toy(source, tmp_path).cache
    options: dict[str, Any] = {
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "eval_split": "train",
        "epochs": 1,
    }
    run = start_run(settings(cache, tmp_path / "run", **options), say, say, quiet=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "step"]
    assert len(losses) == 12
    assert sum(loss is not None for loss in losses) == 3
    assert not any("skipped_updates" in record for record in records)
    assert records[-1]["kind"] == "eval"
    assert np.isfinite(records[-1]["loss"])


def test_predictions_are_those_of_transformers(trained: tuple[Cache, Path]) -> None:
    """A tag for each word, at its first token; none for words behind the max length or without a token."""
    _, run = trained
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForTokenClassification.from_pretrained(run / "model").eval()
    assert tuple(model.config.id2label.values()) == NAMES
    texts = [" ".join(row["tokens"]) for row in sentences()[:20]]
    texts += ["", "word1 \u200b word2", " ".join(WORDS[:40])]
    for text, result in zip(texts, Predictor(str(run), batch_size=7)(texts), strict=True):
        words = text.split()
        given = tokenizer([words], is_split_into_words=True, truncation=True, max_length=24, return_tensors="pt")
        with torch.inference_mode():
            chances = model(**given).logits[0].softmax(-1)
        content, places = result.to_json(), given.word_ids(0)
        assert (content["text"], content["words"]) == (text, tuple(words))
        for number, (tag, chance) in enumerate(zip(content["tags"], content["probabilities"], strict=True)):
            if number not in places:
                assert (tag, chance) == (None, None)
                continue
            own = chances[places.index(number)]
            assert tag == NAMES[int(own.argmax())]
            assert chance == pytest.approx(float(own.max()), abs=1e-5)
        line, _, rest = result.to_line().partition("\t")
        assert (len(line.split()), rest) == (len(words), text)


def test_the_commands_tell_scores_tags_and_why_the_last_layer_is_whole(trained: tuple[Cache, Path]) -> None:
    """`train eval`, `train predict`, `train compare` and the report of a run."""
    cache, run = trained

    def train(*arguments: str) -> str:
        done = CliRunner().invoke(cli, [*arguments])
        assert done.exit_code == 0, done.output
        return done.output

    told = train("eval", str(run), "--cache", str(cache.folder))
    assert "of entities: precision" in told
    assert "PER: F1" in told
    facts = json.loads(train("eval", str(run), "--cache", str(cache.folder), "--json"))
    assert set(facts["types"]) == {"LOC", "PER"}
    assert train("predict", str(run), "word1 word7").rstrip().endswith("\tword1 word7")
    assert json.loads(train("predict", str(run), "--json", "word1 word7"))["words"] == ["word1", "word7"]
    assert "entity F1 0." in comparison([read_result(run)])
    heard: list[str] = []
    start_run(settings(cache, run.parent / "loud", max_steps=1), heard.append, say)
    assert any("for every token: BertForTokenClassification reads more than one token" in line for line in heard)
    assert any("labels O, B-LOC, B-PER, I-PER" in line for line in heard)
    assert any("eval loss" in line and "entity F1" in line for line in heard)
    card = (run / "model" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "name: entity F1" in card


def test_models_and_caches_of_other_tasks_are_refused(trained: tuple[Cache, Path], tmp_path: Path) -> None:
    """Both tasks are named, in either direction."""
    cache, run = trained
    with pytest.raises(MismatchError, match="its head was trained for classification, the cache is for token-cl"):
        load_classifier(
            write_model(tmp_path / "model", classes=4), CPU, CacheRequirements(cache.manifest, cache.folder, 24)
        )
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "word1", "label": "x"}\n{"text": "word2", "label": "y"}\n')
    other = open_cache(build_toy(source, tmp_path).cache.folder)
    with pytest.raises(MismatchError, match="its head was trained for token-classification, the cache is for class"):
        load_classifier(run / "model", CPU, CacheRequirements(other.manifest, other.folder, 24))


def test_words_with_tags_serve_masked_language_modelling_too(trained: tuple[Cache, Path], tmp_path: Path) -> None:
    """Rows without a tag count as well, the tags do not, and the tagger goes on from the adapted model. Words without
    tags are refused, with the way there is."""
    cache, _ = trained
    run = start_run(settings(cache, tmp_path / "adapted", task="mlm", epochs=1, lr=1e-3), say, say, quiet=True)
    record = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-2]
    masked = sum(
        int((Masking.of(cache["train"], CPU, 321).mask(batch).labels != IGNORED).sum())  # type: ignore[operator]
        for batch in cache["train"].batches(0, PlanSpec("tight", 8))
    )
    assert (record["kind"], record["rows"], record["masked_tokens"]) == ("epoch", len(cache["train"]), masked)
    model = load_for_evaluation(run / "model", CPU, CacheRequirements(cache.manifest, cache.folder, 24))
    scores = evaluate(model, cache["train"], CPU, "fp32")
    assert scores is not None
    assert scores.to_json()["masked_tokens"] > 0
    heard: list[str] = []
    tagger = replace(settings(cache, tmp_path / "tagger", max_steps=2), model=str(run / "model"))
    assert (start_run(tagger, heard.append, say) / "model").is_dir()
    assert any("new, from seed 321: the model has none for token-classification" in line for line in heard)
    with pytest.raises(InputError, match=r"lists of words.*train run --task mlm"):
        build_toy(cache.folder.parent.parent / "words.jsonl", tmp_path, task="mlm")
