"""Masked language modelling from text to an adapted model, and on to a classifier."""

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForMaskedLM, BertConfig

from cache import InputError, LengthwiseError, MismatchError, open_cache
from cache.console.progress import ConsoleProgress
from prep.build import build
from prep.inspect.samples import format_sample, random_samples
from prep.inspect.summary import cache_facts, format_splits
from prep.settings import BuildSettings
from tests.helpers import runs
from tests.helpers.builds import build_toy
from tests.helpers.corpora import toy_rows, write_rows
from tests.helpers.models import without_tensors, write_model
from tests.helpers.runs import check_same_run, records, resume, stopped_after
from tests.helpers.tokenizers import write_tokenizer
from train.cli import cli
from train.models.heads import quiet_transformers

pytestmark = pytest.mark.slow

ROWS = toy_rows(120)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of texts alone, one of the same texts with labels, an encoder, and an adapted model."""
    folder = tmp_path_factory.mktemp("mlm")
    plain = write_rows(folder / "plain.jsonl", ROWS, ("text", "note"))
    labelled = write_rows(folder / "labelled.csv", ROWS)
    build_toy(plain, folder, task="mlm", holdout=0.25)
    build_toy(labelled, folder, holdout=0.25)
    write_model(folder / "model")
    begin(folder, "adapted")
    return folder


def begin(folder: Path, out: str, cache: str = "plain", model: str = "model", **flags: object) -> Path:
    """A run of two epochs with dropout, micro-batches and checkpoints in between; everything it depends on given."""
    common: dict[str, Any] = {"epochs": 2, "gradient_accumulation_steps": 2, "lr": 3e-3, "save_steps": 5}
    common |= {"precision": "fp32", "device": "cpu", "keep_checkpoints": 99, "logging_steps": 3}
    return runs.begin(folder / "caches" / cache, folder / model, folder / out, **{**common, **flags})


command = partial(runs.command, cli)


# --- caches without labels


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "jsonl.gz"])
def test_files_with_and_without_labels_are_taken(tmp_path: Path, ending: str) -> None:
    """The ids are those of the labelled cache; a column of labels is passed over, and said so."""
    labelled = build_toy(write_rows(tmp_path / f"a.{ending}", ROWS), tmp_path, name="a").cache
    said: list[str] = []
    plain = write_rows(tmp_path / f"b.{ending}", ROWS, ("text", "note"))
    for source, number in ((tmp_path / f"a.{ending}", 1), (plain, 0)):
        cache = build_saying(source, tmp_path, said)
        assert len([line for line in said if "the column 'label' is not read" in line]) == number
        assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("mlm", ())
        assert "label" not in cache.manifest.source
        for row, same in zip(cache["train"], labelled["train"], strict=True):
            assert (row.input_ids.tolist(), row.label) == (same.input_ids.tolist(), None)
        assert list(cache.verify())
        said.clear()


def build_saying(source: Path, out: Path, said: list[str]):  # type: ignore[no-untyped-def]
    class Noting(ConsoleProgress):
        def log(self, text: str) -> None:
            said.append(text)

    settings = BuildSettings(
        str(source), out=out / "caches", name="b", task="mlm", force=True, tokenizer=str(out / "tokenizer"), epochs=1
    )
    return build(settings, Noting(quiet=True)).cache


def test_data_in_memory_needs_no_labels(tmp_path: Path) -> None:
    """Lists, pairs, tables; and what a cache without labels gives back has none."""
    from prep import build_cache
    from prep.export import to_dataset

    texts = [text for text, _ in ROWS]
    common = {"out": tmp_path, "task": "mlm", "tokenizer": str(write_tokenizer(tmp_path / "t")), "quiet": True}
    lists = build_cache(texts, name="lists", **common)
    table = build_cache(pa.table({"text": texts, "label": range(len(texts))}), name="table", **common)
    assert [row.input_ids.tolist() for row in lists["train"]] == [row.input_ids.tolist() for row in table["train"]]
    pairs = build_cache(texts, text_pairs=texts[::-1], name="pairs", **common)
    assert pairs.manifest.task.pair
    data = to_dataset(lists["train"])
    assert data.column_names == ["input_ids", "source_row"]
    assert data[3]["input_ids"] == lists["train"][3].input_ids.tolist()
    for labels, task, complaint in (([1], "mlm", "takes no labels"), (None, "auto", "need a label each")):
        with pytest.raises(InputError, match=complaint):
            build_cache(["word1"], labels, name="wrong", **{**common, "task": task})


def test_folders_of_texts_need_no_classes(tmp_path: Path) -> None:
    """split/*.txt and split/anything/*.txt; a holdout takes a share of all rows."""
    for name in ("train/1.txt", "train/x/2.txt", "train/y/3.txt", "train/y/4.txt"):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"word{path.stem}")
    cache = build_toy(tmp_path / "texts", tmp_path, task="mlm", holdout=0.5).cache
    assert (len(cache["train"]), len(cache["test"])) == (2, 2)


def test_pairs_keep_their_token_types(tmp_path: Path) -> None:
    """Rows of two texts can be adapted to as well."""
    rows = [(f"word{n} word{n + 1}", "word1 " * (n % 5)) for n in range(60)]
    source = write_rows(tmp_path / "pairs.jsonl", rows, ("text", "second"))
    cache = build_toy(source, tmp_path, task="mlm", text_pair="second", holdout=0.2).cache
    assert {row.first_length for row in cache["train"]} == {4}
    write_model(tmp_path / "model")
    run = begin(tmp_path, "run", "pairs", max_steps=3)
    assert records(run)[-1]["perplexity"] > 1


def test_a_label_asked_for_and_a_tokenizer_without_a_mask_token_are_refused(tmp_path: Path) -> None:
    """Before anything is built."""
    source = write_rows(tmp_path / "a.csv", ROWS)
    with pytest.raises(InputError, match="--task mlm takes no labels"):
        build_toy(source, tmp_path, task="mlm", label="label")
    without_mask(write_tokenizer(tmp_path / "tokenizer"))
    with pytest.raises(InputError, match="has no mask token"):
        build_toy(source, tmp_path, task="mlm")
    assert not (tmp_path / "caches").exists()


def without_mask(tokenizer: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tokenizer / name
        text = path.read_text().replace('"mask_token": "[MASK]", ', "")
        path.write_text(text.replace("[MASK]", "[FOO]"))


def test_another_task_of_the_same_name_is_another_cache(place: Path) -> None:
    """The differences are named, and the way to keep both."""
    with pytest.raises(MismatchError, match=r"task 'mlm' there, None asked for.*--name OTHER"):
        build_toy(place / "labelled.csv", place, name="plain")


def test_a_cache_without_labels_is_shown_without_any(place: Path) -> None:
    """By info, show and its machine-readable form."""
    cache = open_cache(place / "caches" / "plain")
    assert format_splits(cache).splitlines()[0].endswith("truncated at")
    (sample,) = random_samples(cache["train"], 1, seed=0)
    assert format_sample(sample, 80).startswith("(row ")
    assert cache_facts(cache)["splits"]["train"]["classes"] == {}


# --- training


def test_the_model_learns_and_says_so(place: Path) -> None:
    """Records hold what the loss is a mean over; perplexity is that of the loss; the model predicts tokens."""
    epochs = records(place / "adapted", "epoch")
    assert epochs[1]["loss"] < epochs[0]["loss"]
    for epoch in (1, 2):
        parts = [record for record in records(place / "adapted", "step") if record["epoch"] == epoch]
        tokens = sum(record["masked_tokens"] for record in parts)
        assert tokens == epochs[epoch - 1]["masked_tokens"]
        mean = sum(record["loss"] * record["masked_tokens"] for record in parts) / tokens
        assert mean == pytest.approx(epochs[epoch - 1]["loss"])
    assert epochs[0]["masked_tokens"] != epochs[1]["masked_tokens"]
    (*_, last) = records(place / "adapted", "eval")
    assert last["perplexity"] == pytest.approx(torch.tensor(last["loss"]).exp().item(), rel=1e-5)
    with quiet_transformers():
        model = AutoModelForMaskedLM.from_pretrained(place / "adapted" / "model")
    assert torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)
    card = json.loads((place / "adapted" / "model" / "lengthwise.json").read_text())
    assert (card["task"], card["pair"]) == ("mlm", False)


@pytest.mark.parametrize("step", [1, 7, *(pytest.param(step, marks=pytest.mark.faults) for step in (6, 11))])
def test_a_stopped_run_goes_on_exactly(place: Path, step: int) -> None:
    """Within the first epoch and in the next; where it is stopped otherwise, tests of resuming show."""
    with stopped_after(step):
        begin(place, f"stopped-{step}")
    check_same_run(resume(place / f"stopped-{step}"), place / "adapted")


def test_a_cache_with_labels_serves_both(place: Path) -> None:
    """Adapted to its texts, then classified: the encoder is the adapted one, the head is new and said to be."""
    adapted = command(*flags(place, "labelled", "model", "both-1"), "--task", "mlm", "--mlm-probability", "0.3")
    assert "head       new, from seed 321: the model has none for mlm" in adapted
    assert "30% of the tokens masked" in adapted
    assert "logits     for the masked tokens alone" in adapted
    model = place / "both-1" / "model"
    assert f"train run --cache {place / 'caches' / 'labelled'} --model {model}" in adapted
    done = command(*flags(place, "labelled", "both-1/model", "both-2"), "--lr", "1e-30")
    assert "head       new, from seed 321: the model has none for classification" in done
    assert "accuracy" in done
    before, after = (
        safetensors.torch.load_file(place / run / "model/model.safetensors") for run in ("both-1", "both-2")
    )
    encoder = [name for name in before if name.startswith("bert.")]
    assert len(encoder) > 20
    assert all(torch.equal(before[name], after[name]) for name in encoder)
    again = command(*flags(place, "labelled", "both-1/model", "both-3"), "--task", "mlm")
    assert "head       the model's own" in again


def flags(place: Path, cache: str, model: str, out: str) -> list[object]:
    common = ["--epochs", 1, "--max-steps", 2, "--precision", "fp32", "--device", "cpu"]
    return ["run", "--cache", place / "caches" / cache, "--model", place / model, "--out", place / out, *common]


def test_a_model_s_own_head_is_kept(place: Path) -> None:
    """Evaluated before any step, the saved head gives the saved model's perplexity."""
    first = records(place / "adapted")[-1]["loss"]
    run = begin(place, "kept", model="adapted/model", lr=1e-30, max_steps=1)
    assert records(run)[-1]["loss"] == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("cache", ["plain", "labelled"])
def test_eval_gives_the_perplexity_on_any_cache(place: Path, cache: str) -> None:
    """On the run's own it is the run's, whatever the batch size."""
    path = place / "caches" / cache
    arguments = ("eval", place / "adapted", "--cache", path, "--precision", "fp32")
    scores = json.loads(command(*arguments, "--batch-size", 5, "--json"))
    assert scores["rows"] == 30
    shown = re.search(r"^perplexity (\d+\.\d{4})$", command(*arguments), re.MULTILINE)
    assert shown
    assert float(shown[1]) == pytest.approx(scores["perplexity"], rel=1e-5)
    if cache == "plain":
        recorded = records(place / "adapted")[-1]
        assert scores["perplexity"] == pytest.approx(recorded["perplexity"], rel=1e-5)


def test_compare_shows_perplexity(place: Path) -> None:
    """What a page shows of it, tests of pages do."""
    perplexity = records(place / "adapted")[-1]["perplexity"]
    assert f"perplexity {perplexity:.4f}" in command("compare", place / "adapted")


# --- what is refused


def refusals(place: Path) -> dict[str, tuple[list[object], str]]:
    plain, adapted, model = place / "caches" / "plain", place / "adapted", place / "model"
    out = ["--out", place / "refused"]
    return {
        "predict": (["predict", adapted, "word1"], r"gives no labels; train a classifier from it: train run --cache"),
        "classify without labels": (
            ["run", "--cache", plain, "--model", model, "--task", "classification", *out],
            r"holds no labels, for it was built with --task mlm; build one.*prep build SOURCE --task classification",
        ),
        "another task": (
            ["run", "--cache", place / "caches" / "labelled", "--model", model, "--task", "regression", *out],
            r"--task regression: the cache .* is for classification",
        ),
        "probability without use": (
            ["run", "--cache", place / "caches" / "labelled", "--model", model, "--mlm-probability", "0.2", *out],
            r"--mlm-probability is for --task mlm, but this run is for classification",
        ),
        "probability out of range": (
            ["run", "--cache", plain, "--mlm-probability", "1", *out],
            r"--mlm-probability is 1.0, expected a number above 0 and below 1",
        ),
        "evaluate a classifier without labels": (
            ["eval", place / "classifier", "--cache", plain],
            r"is a classifier, but the cache .* holds no labels",
        ),
    }


@pytest.mark.parametrize("case", refusals(Path()))
def test_what_makes_no_sense_is_refused_with_the_way_out(place: Path, case: str) -> None:
    if not (place / "classifier").exists():
        write_model(place / "classifier", classes=2)
    arguments, complaint = refusals(place)[case]
    with pytest.raises(LengthwiseError, match=complaint):
        command(*arguments)
    assert not (place / "refused").exists()


def test_a_model_without_weights_of_its_head_is_not_evaluated(place: Path) -> None:
    """Though its configuration says that it has one."""
    folder = shutil.copytree(place / "adapted" / "model", place / "headless")
    without_tensors(folder, "cls.")
    (folder / "lengthwise.json").unlink()  # it holds the checksum
    with pytest.raises(InputError, match="have no head for mlm, though its configuration says so; train one"):
        command("eval", folder, "--cache", place / "caches" / "plain")


def test_a_cache_whose_tokenizer_has_no_mask_token_is_refused(tmp_path: Path) -> None:
    """Where a labelled cache, for which it needs none, is to be adapted to."""
    without_mask(write_tokenizer(tmp_path / "tokenizer"))
    build_toy(write_rows(tmp_path / "a.csv", ROWS), tmp_path)
    write_model(tmp_path / "model")
    with pytest.raises(InputError, match="has no mask token"):
        begin(tmp_path, "run", "a", task="mlm")
    assert not (tmp_path / "run").exists()


def test_a_type_of_model_without_a_masked_form_is_refused(place: Path, tmp_path: Path) -> None:
    """GPT-2 predicts the next token only."""
    write_model(tmp_path / "gpt", kind="gpt2", n_embd=32, n_layer=1, n_head=2)
    with pytest.raises(InputError, match="'gpt2' has no masked language model in transformers"):
        begin(place, "gpt", model=str(tmp_path / "gpt"))


def test_bert_s_pretrained_head_is_found(place: Path, tmp_path: Path) -> None:
    """Saved with the next-sentence head beside it, as the first BERTs were."""
    from transformers import BertForPreTraining

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=205, max_position_embeddings=128, pad_token_id=0, **sizes)
    with quiet_transformers():
        BertForPreTraining(config).save_pretrained(tmp_path / "first")
    lines = command(*flags(place, "plain", str(tmp_path / "first"), "first"))
    assert "head       the model's own" in lines
