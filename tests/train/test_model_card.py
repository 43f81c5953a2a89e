"""The model card of a trained model: the Hub's libraries read it, its numbers are the records', its code runs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cache import open_cache
from cache.common.folder import Folder
from cache.format.manifest import Manifest
from train.models.configuration import read_config
from train.models.folder import ModelFolder
from train.models.heads import quiet_transformers
from train.run_folder import model_card as card
from train.run_folder.folder import Json, RunInfo, read_run
from train.run_folder.model_card import METRICS, _code, _plain, _table, model_card
from train.run_folder.records import joined_records, read_records

from ..helpers import runs
from ..helpers.builds import build_toy
from ..helpers.caches import write_cache
from ..helpers.files import write_jsonl
from ..helpers.models import write_model
from ..helpers.tasks import rows_of

pytestmark = pytest.mark.slow

WORDS_OF = [[f"word{number % 7}", f"word{number % 5}"] for number in range(40)]
KINDS = ("classification", "pairs", "regression", "multi-label")


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The kind, and a finished run of two epochs."""
    place, kind = tmp_path_factory.mktemp("cards"), request.param
    source = write_jsonl(place / "rows.jsonl", rows_of("pairs" if kind == "classification" else kind))
    pair = {"text_pair": "second"} if kind == "pairs" else {}
    cache = build_toy(source, place, holdout=0.3, **pair).cache
    return kind, begin(place, cache.folder, place / "run-1")


ONE_KIND = pytest.mark.parametrize("trained", ["classification"], indirect=True)
"""For what does not depend on the kind."""


def begin(place: Path, cache: Path, out: Path, **more: Any) -> Path:
    return runs.begin(cache, write_model(place / "model"), out, epochs=2, precision="fp32", lr=1e-3, **more)


def parts_of(run: Path) -> tuple[RunInfo, Any, Manifest, list[Json]]:
    info = read_run(Folder.open(run))
    with ModelFolder(run / "model") as folder:
        config = read_config(folder)
    return info, config, open_cache(info.settings.cache).manifest, records_of(run)


def records_of(run: Path) -> list[Json]:
    folder = Folder.open(run)
    return joined_records(read_records(folder, "metrics.jsonl"), read_records(folder, "timing.jsonl"))


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines()] for part in found]


def test_the_hub_reads_its_front_matter_and_finds_the_held_out_scores(trained: tuple[str, Path]) -> None:
    kind, run = trained
    data = ModelCard.load(run / "model" / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("transformers", "text-classification", "run-1")
    assert data.tags == ["lengthwise", "classification" if kind == "pairs" else kind]
    last = [record for record in records_of(run) if record["kind"] == "eval"][-1]
    expected = {name: value for name, value in last.items() if name not in ("kind", "step", "epoch", "split", "rows")}
    assert len(expected) > 2
    assert data.eval_results is not None
    assert [result.metric_value for result in data.eval_results] == list(expected.values())
    assert [result.metric_type for result in data.eval_results] == [METRICS.get(name, name) for name in expected]
    assert {(result.dataset_name, result.dataset_split) for result in data.eval_results} == {("rows", "test")}


def test_its_table_has_the_records_of_every_epoch(trained: tuple[str, Path]) -> None:
    _, run = trained
    head, _, *rows = tables((run / "model" / "README.md").read_text())[0]
    records = records_of(run)
    assert head[:4] == ["epoch", "step", "train loss", "eval loss"]
    for number, row in enumerate(rows, 1):
        epoch, scores = (next(r for r in records if (r["kind"], r["epoch"]) == (k, number)) for k in ("epoch", "eval"))
        assert row[:4] == [str(number), str(epoch["step"]), f"{epoch['loss']:.4f}", f"{scores['loss']:.4f}"]
        names = [name for name in scores if name not in ("kind", "step", "epoch", "split", "rows", "loss")]
        assert row[4:-2] == [f"{scores[name]:.4f}" for name in names]
    assert len(rows) == 2


def test_it_says_what_the_model_was_made_from_and_names_no_folder_of_this_machine(trained: tuple[str, Path]) -> None:
    _, run = trained
    info, config, manifest, records = parts_of(run)
    text = (run / "model" / "README.md").read_text()
    facts, settings = (dict(table) for table in tables(text)[1:])
    assert facts["cache"] == f"`rows`, fingerprint {manifest.fingerprint}"
    assert facts["base model"] == f"`model`, sha256 {info.model_digest}"
    assert facts["data"] == "rows.jsonl"
    assert facts["plan"] == "strategy smart, 16 rows a step, seed 0"
    epochs = [record for record in records if record["kind"] == "epoch"]
    rows, real, padded = (sum(record[name] for record in epochs) for name in ("rows", "real_tokens", "padded_tokens"))
    assert facts["padding"].startswith(f"{real:,} real tokens, {padded:,} computed: {padded / real - 1:.1%} padding")
    assert facts["padding"].endswith(f"{1 - padded / (rows * 128):.1%} less than with every row padded to 128")
    assert f"torch {torch.__version__}" in facts["versions"]
    assert (settings["lr"], settings["epochs"], settings["strategy"]) == ("0.001", "2", "smart")
    assert str(run.parent) not in text
    assert facts["steps"] == str(info.total_steps)
    stopped = model_card("run-1", info, config, manifest, [r for r in records if r["epoch"] == 1])
    assert f"| steps | {info.total_steps // 2} |" in stopped


def test_its_code_loads_the_model_in_a_pipeline_with_its_labels(
    trained: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kind, run = trained
    (code,) = re.findall(r"```python\n(.*?)```", (run / "model" / "README.md").read_text(), re.DOTALL)
    assert "path/to/this/folder" in code
    with quiet_transformers():
        exec(code.replace("path/to/this/folder", str(run / "model")), {})
    said = capsys.readouterr().out
    labels = re.findall(r"'label': '(\w+)'", said)
    if kind == "multi-label":
        assert sorted(labels) == ["x", "y", "z"]
    elif kind != "regression":
        assert set(labels) <= {"no", "yes"}
    assert re.search(r"'score': -?\d", said)


@ONE_KIND
def test_models_and_data_of_the_hub_are_linked(trained: tuple[str, Path]) -> None:
    info, config, manifest, records = parts_of(trained[1])
    info = replace(info, settings=replace(info.settings, model="google-bert/bert-base-uncased"))
    source = {"kind": "hub", "argument": "x", "dataset": "nyu-mll/glue", "config": "sst2", "revision": "0a1b"}
    text = model_card("run-1", info, config, replace(manifest, source=source), records)
    data = ModelCard(text).data
    assert (data.base_model, data.datasets) == ("google-bert/bert-base-uncased", ["nyu-mll/glue"])
    assert "Hub dataset nyu-mll/glue, configuration sst2, revision 0a1b" in text
    given = model_card("run-1", info, config, replace(manifest, source={"argument": ""}), records)
    assert "| data | given from Python |" in given
    several = {"argument": ["train=/home/me/a.csv", "/home/me/b.csv"]}
    assert "| data | a.csv, b.csv |" in model_card("run-1", info, config, replace(manifest, source=several), records)


@ONE_KIND
@pytest.mark.parametrize(
    ("name", "pipeline"), [("BertForTokenClassification", "token-classification"), ("BertForMaskedLM", "fill-mask")]
)
def test_the_pipeline_follows_from_the_models_class(trained: tuple[str, Path], name: str, pipeline: str) -> None:
    info, config, manifest, records = parts_of(trained[1])
    config.architectures = [name]
    text = model_card("run-1", info, config, manifest, records)
    assert ModelCard(text).data.pipeline_tag == pipeline
    assert f'pipeline("{pipeline}"' in text


@pytest.mark.parametrize("kind", ["mlm", "token-classification"])
def test_cards_of_tokens_tell_their_own_task_scores_and_use(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masked tokens in a cache with labels of several classes a row, and tags of words; the code of both runs."""
    rows = rows_of("multi-label")
    if kind != "mlm":
        rows = [{"text": words, "label": ["O" if word < "word3" else "B-X" for word in words]} for words in WORDS_OF]
    cache = build_toy(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path, holdout=0.3).cache
    run = begin(tmp_path, cache.folder, tmp_path / "run-1", task=kind)
    read = ModelCard.load(run / "model" / "README.md")
    pipeline, score, told = {
        "mlm": ("fill-mask", "perplexity", ": masked language modelling.\n"),
        "token-classification": ("token-classification", "entity F1", "token-classification, labels `O`, `B-X`"),
    }[kind]
    assert (read.data.pipeline_tag, read.data.tags) == (pipeline, ["lengthwise", kind])
    assert read.data.eval_results is not None
    assert score in [result.metric_name for result in read.data.eval_results]
    assert {result.task_type for result in read.data.eval_results} == {pipeline}
    assert told in read.text
    (code,) = re.findall(r"```python\n(.*?)```", read.text, re.DOTALL)
    with quiet_transformers():
        exec(code.replace("path/to/this/folder", str(run / "model")), {})
    said = capsys.readouterr().out
    assert said.count("'token_str'") == 5 if kind == "mlm" else "'entity_group': 'X'" in said  # of words, not of tokens


def test_odd_names_and_a_run_without_evaluation_give_a_sound_card(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "toy", {"train": 40}, classes=("a|b", "`c`: [d]\n---"))
    run = begin(tmp_path, cache.folder, tmp_path / 'it\'s: "run"')
    read = ModelCard.load(run / "model" / "README.md")
    assert read.data.eval_results is None
    assert read.data.tags == ["lengthwise", "classification"]
    assert "labels `a|b`, `` `c`: [d] --- ``" in read.text
    assert tables(read.text)[0][0][:3] == ["epoch", "step", "train loss"]


def test_without_its_card_there_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written into the same hidden folder as the weights, which is renamed when all is there."""
    cache = write_cache(tmp_path / "toy", {"train": 40})
    monkeypatch.setattr(card, "_results", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        begin(tmp_path, cache.folder, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run").glob(".model*"))


FOREIGN = [
    "plain",
    "one`tick",
    "``a``<img src=x>``",
    "```",
    "`",
    "a\n\n<b>b",
    "a|b",
    "a\\|b",
    "a\\",
    "\\<img src=x>",
    "x\\`y`",
    "\\[x](http://y)",
    "![x](http://y) & &lt;",
    "*b* _c_ **d**",
    "# h #",
]


def inlines(text: str) -> list[list[Token]]:
    """What CommonMark, with GitHub's tables, reads in each heading, paragraph and cell."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    assert "html_block" not in {token.type for token in tokens}
    return [token.children or [] for token in tokens if token.type == "inline"]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_text_is_shown_as_it_is_and_read_as_nothing_else(name: str) -> None:
    """As code and as text, in a heading and in a table; white space counts as one space."""
    shown = " ".join(name.split())
    for quote, kind in ((_plain, "text"), (_code, "code_inline")):
        heading, *cells = inlines(f"# {quote(name)}\n\n" + _table([("a", "b"), (quote(name), quote(name)), ("c", "d")]))
        assert len(cells) == 6, "no cell more or less"
        for found in (heading, *cells[2:4]):
            assert [(token.type, token.content) for token in found if token.content] == [(kind, shown)]


def test_an_empty_label_is_a_span_of_its_own() -> None:
    (found,) = inlines(f"{_code('')} and {_code('b')}")
    assert [token.type for token in found] == ["code_inline", "text", "code_inline"]


@ONE_KIND
@pytest.mark.parametrize("name", FOREIGN)
def test_nothing_foreign_brings_html_links_or_emphasis_into_a_card(trained: tuple[str, Path], name: str) -> None:
    info, config, manifest, records = parts_of(trained[1])
    labels = replace(manifest.task, kind="classification", label_names=(name, "other"))
    foreign = replace(manifest, task=labels, tokenizer=replace(manifest.tokenizer, name=name))
    info = replace(
        info,
        cache_name=name,
        settings=replace(info.settings, model=name, eval_split=name),
        environment={**info.environment, "device": name},
    )
    for source in (
        {"kind": "hub", "argument": "x", "dataset": name, "config": name, "revision": name},
        {"kind": "package", "argument": name, "package": name},
        {"argument": name},
    ):
        text = model_card(name, info, config, replace(foreign, source=source), records)
        body = text.split("\n---\n", 1)[1]
        parts = inlines(body)
        assert {token.type for part in parts for token in part} <= {"text", "code_inline", "softbreak"}
        assert "".join(token.content for token in parts[0]) == " ".join(name.split())


@ONE_KIND
@pytest.mark.parametrize("classes", [None, ["XLMWithLMHeadModel"]])
def test_a_model_of_no_known_pipeline_is_not_shown_in_one(trained: tuple[str, Path], classes: list[str] | None) -> None:
    info, config, manifest, records = parts_of(trained[1])
    config.architectures = classes
    text = model_card("run-1", info, config, manifest, records)
    assert "pipeline(" not in text
    assert f"of its class ({'`XLMWithLMHeadModel`' if classes else 'not recorded'})" in text
    assert ModelCard(text).data.pipeline_tag is None
