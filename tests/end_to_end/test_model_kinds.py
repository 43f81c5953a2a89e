"""Each kind of encoder with a tokenizer of its kind, from text to predictions, against transformers itself."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from cache import Cache, MismatchError, Split, open_cache
from cache.plans.spec import PlanSpec
from prep.cli import cli as prep_cli
from tests.helpers.corpora import sentences
from tests.helpers.files import edit_json, write_jsonl
from tests.helpers.models import KINDS, Kind, write_encoder
from tests.helpers.runs import command, stop_after
from train.cli import cli as train_cli
from train.forward.inputs import model_inputs
from train.metrics.evaluation import evaluate
from train.models.fit import CacheRequirements
from train.models.loading import load_model
from train.runtime.signals import Stopped

pytestmark = pytest.mark.slow

LENGTH = 38
"""Tokens of the longest rows: what RoBERTa's 40 positions leave."""

ROWS = 34
"""Real sentences of a cache: with the odd texts, four steps an epoch."""

ODD = [
    " a film",
    "a  film\nof two\tlines ",
    "naïve … ½ ＡＢＣ ﬁne",
    "<s> </s> [SEP] x <mask> y <pad> [PAD] z",
    "中文 émigré",
    "\u00a0no\u00a0break",
]
"""Texts that tokenizers of different kinds read differently."""

FLAGS = [
    *(
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--gradient-accumulation-steps",
        "2",
        "--strategy",
        "tight",
        "--lr",
        "1e-3",
    ),
    *("--precision", "fp32", "--device", "cpu", "--save-steps", "3", "--logging-steps", "2"),
]


@dataclass(frozen=True)
class Made:
    """A kind, the folder it is in (`model`, the caches `one` and `two`, the run `run`), and what the run said."""

    kind: Kind
    folder: Path
    said: str

    @property
    def cache(self) -> Cache:
        """Of single texts."""
        return open_cache(self.folder / "one")


def prep_build(folder: Path, name: str, rows: list[dict[str, str]], *flags: object) -> Cache:
    """A cache of rows, made by the command with the tokenizer beside the model."""
    source = write_jsonl(folder / f"{name}.jsonl", rows)
    common = ("--out", folder, "--name", name, "--tokenizer", folder / "model", "--holdout", 0.25)
    command(prep_cli, "build", source, *common, "--max-length", LENGTH, "--epochs", 1, "--quiet", *flags)
    return open_cache(folder / name)


def rows_of(count: int) -> list[dict[str, str]]:
    """Real sentences, the odd texts, and as second texts those of another order."""
    texts = [*(text for text, _ in sentences()[:count]), *ODD]
    names = [str(label) for _, label in sentences()[: len(texts)]]
    return [{"text": t, "other": o, "label": n} for t, o, n in zip(texts, texts[::-1], names, strict=True)]


SAME = {"minilm": pytest.mark.faults}
"""Kinds that differ from another in sizes alone."""

LEFT = {"bert", "roberta", "deberta-v3", "modernbert-cls"}
"""Kinds of different layers and tokenizers, for what hardly depends on the kind."""


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=SAME.get(kind, ())) for kind in KINDS])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Model, cache and an uninterrupted run of two epochs with dropout and accumulation, all by the commands."""
    folder = tmp_path_factory.mktemp(request.param)
    write_encoder(folder / "model", KINDS[request.param])
    prep_build(folder, "one", rows_of(ROWS))
    return Made(KINDS[request.param], folder, command(train_cli, *train_arguments(folder)))


def train_arguments(folder: Path) -> list[object]:
    """Of `train`, for a run in a folder that holds cache and model."""
    return ["run", "--cache", folder / "one", "--model", folder / "model", "--out", folder / "run", *FLAGS]


def alone(split: Split, model: Any) -> torch.Tensor:
    """(rows, classes) what the stock model says of each row by itself, as transformers would feed it."""
    logits = []
    for row in split:
        with torch.inference_mode():
            logits.append(model(input_ids=torch.tensor(row.input_ids.astype(np.int64))[None]).logits[0])
    return torch.stack(logits)


def test_ids_are_those_of_transformers(made: Made) -> None:
    """By AutoTokenizer on the model's folder, and on what the run exported, truncated alike, odd texts too."""
    texts = [row["text"] for row in rows_of(ROWS)]
    rows = {row.source_row: row.input_ids.tolist() for split in ("train", "test") for row in made.cache[split]}
    for folder in (made.folder / "model", made.folder / "run" / "model"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.pad_token_id == made.kind.pad_id == made.cache.manifest.tokenizer.pad_id
        assert tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"] == [rows[i] for i in range(len(texts))]


def test_scores_are_those_of_single_rows_through_the_stock_model(made: Made) -> None:
    """`train eval`, whose batches are padded, against unpadded rows one at a time."""
    split = made.cache["test"]
    model = AutoModelForSequenceClassification.from_pretrained(made.folder / "run" / "model").eval()
    logits, labels = alone(split, model), torch.tensor(split.labels)
    flags = ("--device", "cpu", "--precision", "fp32", "--json")
    found = json.loads(command(train_cli, "eval", made.folder / "run", "--cache", made.cache.folder, *flags))
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert found["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-4)


def test_predictions_are_those_of_the_pipeline(made: Made) -> None:
    """`train predict` against transformers.pipeline on the exported folder, padded together and one by one."""
    texts = [" ".join(row["text"].split()) for row in rows_of(20)]
    lines = command(train_cli, "predict", made.folder / "run", *texts, "--batch-size", 5, "--json", "--device", "cpu")
    found = [json.loads(line) for line in lines.splitlines()]
    classify = pipeline("text-classification", str(made.folder / "run" / "model"), device="cpu")
    for batch_size in (1, 4):
        given = classify(texts, batch_size=batch_size, truncation=True, max_length=LENGTH)
        assert [row["label"] for row in found] == [row["label"] for row in given]
        assert [row["probability"] for row in found] == pytest.approx([row["score"] for row in given], abs=2e-6)


def test_neither_padding_nor_a_mask_left_out_changes_logits(made: Made) -> None:
    """Every batch of a plan, with and without padding, as the loop feeds it, against its rows alone."""
    split, seen = made.cache["train"], set()
    needs = CacheRequirements(made.cache, LENGTH)
    model = load_model(made.folder / "model", needs, 0).eval().double()
    expected = alone(split, model)
    for batch in split.batches(0, PlanSpec("tight", 4)):
        with torch.inference_mode():
            logits = model(**model_inputs(batch, model.config)).logits
        torch.testing.assert_close(logits, expected[batch.rows], rtol=0, atol=1e-9)
        seen.add(batch.attention_mask is None)
        if batch.attention_mask is not None:
            assert set(batch.input_ids[batch.attention_mask == 0].tolist()) == {made.kind.pad_id}
    assert seen == {True, False}


def test_the_longest_row_a_model_takes_works_and_one_more_token_is_refused(made: Made) -> None:
    """RoBERTa numbers positions from its pad id + 1, so it takes two tokens less than its table has entries."""
    longest = made.kind.longest
    ids = torch.full((2, longest or 200), 7)
    model = load_model(made.folder / "model", CacheRequirements(made.cache, longest or 200), 0).eval()
    with torch.inference_mode():
        assert model(input_ids=ids).logits.isfinite().all()
    if longest:
        with pytest.raises(MismatchError, match=f"it takes rows of at most {longest} tokens.*--max-length {longest}"):
            load_model(made.folder / "model", CacheRequirements(made.cache, longest + 1), 0)
        with torch.inference_mode(), pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.cat([ids, ids[:, :1]], dim=1))


def test_the_report_says_what_becomes_of_the_last_layer(made: Made) -> None:
    """For the pooled token alone where the model has such a form; else for every token, in one line with the reason."""
    [line] = [line for line in made.said.splitlines() if line.startswith("last layer")]
    expected = "pooled token alone" if made.kind.pooled else "for every token: layers of "
    assert expected in line


@pytest.mark.parametrize(
    "made",
    [pytest.param(kind, marks=() if kind in LEFT else pytest.mark.faults) for kind in KINDS],
    indirect=True,
    scope="module",
)
def test_padding_asked_for_on_the_left_and_a_stop_change_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """These models need padding on the right: a run says so where the tokenizer asks for the left. Stopped and resumed,
    it has the metrics and weights of `made`'s bit by bit, and gives the same predictions."""
    shutil.copytree(made.folder / "model", made.folder / "left" / "model")
    padded_left(made.folder / "left" / "model")
    cache = prep_build(made.folder / "left", "one", rows_of(ROWS))
    assert cache.manifest.tokenizer.padding_side == "left"
    runs = [made.folder / "run", made.folder / "left" / "run"]
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        stopped = CliRunner().invoke(train_cli, [str(word) for word in train_arguments(made.folder / "left")])
    assert isinstance(stopped.exception, Stopped)
    assert "padding    on the right, which the model needs" in stopped.stdout
    command(train_cli, "run", "--resume", runs[1])
    for file in ("metrics.jsonl", "model/model.safetensors", "model/config.json"):
        assert runs[0].joinpath(file).read_bytes() == runs[1].joinpath(file).read_bytes()
    assert AutoTokenizer.from_pretrained(runs[1] / "model").padding_side == "right"
    texts = [" ".join(row["text"].split()) for row in rows_of(8)]
    found = [command(train_cli, "predict", run, *texts) for run in runs]
    padded_left(runs[1] / "model")  # as in any folder that comes from elsewhere, which lists no checksums
    edit_json(runs[1] / "model" / "lengthwise.json", files=[])
    found.append(command(train_cli, "predict", runs[1], *texts))
    assert found[0] == found[1] == found[2]


def padded_left(folder: Path) -> None:
    """Let a tokenizer's configuration ask for padding on the left."""
    edit_json(folder / "tokenizer_config.json", padding_side="left")


def test_pairs_are_read_as_transformers_reads_them(made: Made) -> None:
    """Two texts through AutoTokenizer and the stock model, against the cache's rows in padded batches: token types
    go only to models that have them."""
    rows = rows_of(20)
    cache = prep_build(made.folder, "two", rows, "--text", "text", "--text-pair", "other")
    tokenizer = AutoTokenizer.from_pretrained(made.folder / "model")
    model = load_model(made.folder / "model", CacheRequirements(cache, LENGTH), 0).eval().double()
    for split in (cache["train"], cache["test"]):
        for batch in split.batches(0, PlanSpec("tight", 4)):
            inputs = model_inputs(batch, model.config)
            assert ("token_type_ids" in inputs) == made.kind.typed
            with torch.inference_mode():
                logits = model(**inputs).logits
            for row, found in zip(batch.rows.tolist(), logits, strict=True):
                source = rows[split[row].source_row]
                given = tokenizer(
                    source["text"], source["other"], truncation=True, max_length=LENGTH, return_tensors="pt"
                )
                assert given["input_ids"][0].tolist() == split[row].input_ids.tolist()
                if not made.kind.typed:
                    given.pop("token_type_ids", None)
                with torch.inference_mode():
                    torch.testing.assert_close(found, model(**given).logits[0], rtol=0, atol=1e-9)


def test_bf16_autocast_follows_fp32(made: Made) -> None:
    """On the CPU, in padded batches: scores differ by rounding only."""
    needs = CacheRequirements(made.cache, LENGTH)
    model = load_model(made.folder / "model", needs, 0)
    losses = []
    for precision in ("fp32", "bf16"):
        scores = evaluate(model, made.cache["train"], torch.device("cpu"), precision, batch_size=8)
        assert scores is not None
        losses.append(scores.mean_loss)
    assert losses[1] == pytest.approx(losses[0], abs=5e-3)
    for batch in made.cache["train"].batches(0, PlanSpec("dynamic", 8)).step(0):
        with torch.autocast("cpu", torch.bfloat16):
            model(**model_inputs(batch, model.config)).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
