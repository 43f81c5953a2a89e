"""A run from end to end through the command line, and what can be done with its result."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cache import open_cache
from cache.common.folder import Folder
from cache.console.progress import clock
from cache.errors import InputError, LengthwiseError
from tests.helpers import runs
from tests.helpers.caches import write_cache
from tests.helpers.corpora import WORDS
from tests.helpers.models import write_model
from tests.helpers.python import run_python
from train.cli import cli, main
from train.declarations import declarations
from train.models.trained import load_text_classifier
from train.predict import Predictor
from train.run_folder.records import read_records
from train.runtime import device
from train.settings import Settings
from train.tables.reading import read_texts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a cache, a model and two runs, made by the command."""
    folder = tmp_path_factory.mktemp("use")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_cache(folder / "cache" / "toy", {"train": 300, "test": 50})
        write_cache(folder / "cache" / "swapped", {"test": 50}, classes=("pos", "neg"))
        write_model(folder / "model")
        flags = ["--cache", "cache/toy", "--model", "model", "--lr", "3e-3", "--precision", "fp32", "--device", "cpu"]
        first = CliRunner().invoke(cli, ["run", *flags, "--epochs", "3"])
        assert first.exception is None, first.output
        (folder / "first.txt").write_text(first.stdout)
        second = CliRunner().invoke(cli, ["run", *flags, "--max-steps", "5", "--strategy", "fixed", "--quiet"])
        assert second.exception is None
        assert second.output == ""
    return folder


@pytest.fixture
def command(place, monkeypatch):
    """Runs a command in the folder; returns what it printed."""
    monkeypatch.chdir(place)

    return partial(runs.command, cli)


def test_the_report_names_accuracy_times_and_the_next_commands(place):
    text = (place / "first.txt").read_text()
    head = re.search(
        r"^ *epoch  train loss  eval loss  accuracy +F1 +Matthews +tokens/s +padding +time  eval time$", text, re.M
    )
    assert head
    number, time = r" +-?\d\.\d{4}", r" +\d:\d\d:\d\d"
    rows = re.findall(rf"^ *[123]/3{number}{number}{number}{number}{number} +[\d,]+ +\d+\.\d%{time}{time}$", text, re.M)
    assert len(rows) == 3
    assert {len(row) for row in rows} == {len(head[0])}
    assert re.search(
        r"^time +\d:\d\d:\d\d, [\d.e-]+ model TFLOP/s while training, peak memory [\d,]+ MiB$", text, re.MULTILINE
    )
    assert "the heaviest batch, 8 rows x 48 tokens, fits" in text
    assert "train eval runs/toy-1 --cache" in text
    assert "train predict runs/toy-1" in text


def test_a_run_folder_holds_these_files_and_no_others(place):
    files = {str(path.relative_to(place / "runs")) for path in (place / "runs" / "toy-1").rglob("*") if path.is_file()}
    checkpoint = ["model.safetensors", "optimizer.safetensors", "random.safetensors", "config.json", "state.json"]
    model = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "lengthwise.json"]
    model.append("README.md")
    expected = ["settings.json", "metrics.jsonl", "timing.jsonl", "summary.json"]
    expected += [f"checkpoints/step-{step:06d}/{name}" for step in (76, 114) for name in checkpoint]
    expected += [f"model/{name}" for name in model]
    assert files == {f"toy-1/{name}" for name in expected}


def test_the_metrics_hold_every_row_and_token_and_no_time(place):
    records = read_records(Folder.open(place / "runs" / "toy-1"), "metrics.jsonl")
    epochs = [record for record in records if record["kind"] == "epoch"]
    manifest = json.loads((place / "cache" / "toy" / "manifest.json").read_text())
    assert [record["rows"] for record in epochs] == [300] * 3
    assert [record["real_tokens"] for record in epochs] == [manifest["splits"]["train"]["tokens"]] * 3
    steps = [record for record in records if record["kind"] == "step"]
    for epoch in (1, 2, 3):
        parts = [record for record in steps if record["epoch"] == epoch]
        loss = sum(record["loss"] * record["rows"] for record in parts) / sum(record["rows"] for record in parts)
        assert loss == pytest.approx(epochs[epoch - 1]["loss"])
    assert epochs[2]["loss"] < epochs[0]["loss"]
    assert not any("second" in name for record in records for name in record)


def test_the_model_loads_in_a_pipeline_with_its_labels_named(place):
    from transformers import pipeline

    from train.models.heads import quiet_transformers

    with quiet_transformers():
        classify = pipeline("text-classification", model=str(place / "runs" / "toy-1" / "model"), device="cpu")
    even, odd = " ".join(WORDS[0:40:2]), " ".join(WORDS[1:40:2])
    results = classify([even, odd])
    assert [result["label"] for result in results] == ["neg", "pos"]
    ours = list(Predictor(str(place / "runs" / "toy-1"), device="cpu", precision="fp32")([even, odd]))
    assert [p.facts["label"] for p in ours] == ["neg", "pos"]
    assert [p.facts["probability"] for p in ours] == pytest.approx([r["score"] for r in results], abs=1e-6)


def test_eval_equals_a_plain_count_row_by_row(place, command):
    arguments = ("eval", "runs/toy-1", "--cache", "cache/toy", "--precision", "fp32", "--batch-size", "7", "--json")
    scores, text = json.loads(command(*arguments)), command(*arguments[:4])
    assert re.search(r"^accuracy +[01]\.\d{4} \(\d+ right\)$", text, re.MULTILINE)
    assert re.search(r"^F1 .*class pos", text, re.MULTILINE)
    assert re.search(r"^  neg: \d+ rows, found as ", text, re.MULTILINE)
    model = load_text_classifier(place / "runs" / "toy-1" / "model", torch.device("cpu"))[0]
    confusion, loss = np.zeros((2, 2), int), 0.0
    for row in open_cache(place / "cache" / "toy")["test"]:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.input_ids.tolist()])).logits[0].double()
        confusion[row.label, logits.argmax()] += 1
        loss -= torch.log_softmax(logits, 0)[row.label].item()
    assert scores["confusion"] == confusion.tolist()
    assert scores["accuracy"] == confusion.trace() / 50
    assert scores["f1"] == 2 * confusion[1, 1] / (confusion[1].sum() + confusion[:, 1].sum())
    assert scores["loss"] == pytest.approx(loss / 50, abs=1e-5)
    assert scores["rows"] == 50
    last = [r for r in read_records(Folder.open(place / "runs" / "toy-1"), "metrics.jsonl") if r["kind"] == "eval"][-1]
    assert (last["accuracy"], last["f1"]) == (scores["accuracy"], scores["f1"])


def test_a_run_in_fp32_is_evaluated_in_fp32_where_bf16_is_native(place, command, monkeypatch):
    """So that its scores come out again; a model's folder does not say how it was trained."""
    monkeypatch.setattr(device, "native_bf16", lambda on: True)
    used, autocast = [], device.autocast
    monkeypatch.setattr(device, "autocast", lambda on, name: used.append(name) or autocast(on, name))
    for model, flags in (("runs/toy-1", ()), ("runs/toy-1/model", ()), ("runs/toy-1", ("--precision", "bf16"))):
        command("eval", model, "--cache", "cache/toy", *flags)
    assert used == ["fp32", "bf16", "bf16"]


def test_eval_warns_of_outputs_that_are_no_numbers(place, monkeypatch):
    monkeypatch.chdir(place)
    weights = write_model(place / "nan", classes=("neg", "pos")) / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.bias"] = torch.tensor([3e38, -3e38])  # their difference is no float32
    save_file(tensors, weights, {"format": "pt"})
    result = CliRunner().invoke(cli, ["eval", "nan", "--cache", "cache/toy"])
    assert result.exception is None
    assert "warning: the loss is not finite" in result.stderr
    assert "loss       inf" in result.stdout


def test_a_model_that_was_never_trained_to_classify_is_refused(command):
    with pytest.raises(InputError, match="is not a trained classifier"):
        command("eval", "model", "--cache", "cache/toy")


def test_a_run_that_is_not_finished_has_no_model_to_use(place, command, tmp_path):
    (tmp_path / "settings.json").write_bytes((place / "runs" / "toy-1" / "settings.json").read_bytes())
    with pytest.raises(InputError, match="is not finished, so it has no model yet; go on with `train run --resume"):
        command("predict", str(tmp_path), "a text")


def test_predict_takes_arguments_a_file_or_standard_input(place, command):
    from_arguments = command("predict", "runs/toy-1", "word0 word2", "word1 word3")
    (place / "texts.txt").write_bytes("\ufeffword0 word2\r\nword1 word3".encode())
    assert command("predict", "runs/toy-1", "--file", "texts.txt") == from_arguments
    assert command("predict", "runs/toy-1", typed="word0 word2\nword1 word3\n") == from_arguments
    assert re.fullmatch(r"(neg|pos)\t[01]\.\d{4}\tword0 word2\n(neg|pos)\t[01]\.\d{4}\tword1 word3\n", from_arguments)
    lines = [json.loads(line) for line in command("predict", "runs/toy-1", "wörd", "", "--json").splitlines()]
    assert [line["text"] for line in lines] == ["wörd", ""]
    assert all(set(line) == {"text", "label", "probability"} and 0.5 <= line["probability"] <= 1 for line in lines)


def test_texts_that_cannot_be_read_are_refused_with_the_place(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"ab\nc\xff")
    with pytest.raises(InputError, match=r"x: line 2 is not UTF-8 \(byte 0xff at position 1 of it\)"):
        read_texts(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="x holds no text"):
        read_texts(path)


def test_compare_prints_the_tutorials_table(place, command):
    lines = command("compare", "runs/toy-1", "runs/toy-2").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        "run", "padding", "model", "batch size", "max length", "accuracy", "device", "time per epoch", "steps",
        "padded tokens",
    ]  # fmt: skip
    assert re.fullmatch(r"[| -]+", lines[1])
    assert cells[2][:5] == ["runs/toy-1", "smart", "model", "8", "48"]
    assert cells[3][:5] == ["runs/toy-2", "fixed", "model", "8", "48"]
    assert cells[2][8:] != cells[3][8:] == ["5", f"{5 * 8 * 48:,}"]
    assert re.fullmatch(r"\d:\d\d:\d\d", cells[2][7])
    runs = json.loads(command("compare", "runs/toy-1", "runs/toy-2", "--json"))["runs"]
    assert [run["steps"] for run in runs] == [114, 5]
    assert command("compare", "model", "runs/toy-1", "runs/toy-2").splitlines() == lines


def test_the_same_run_with_a_plan_that_is_not_stored_works_on_a_read_only_cache(place, command, monkeypatch):
    from cache import Split

    monkeypatch.setattr(Split, "keep_plan", _refuse)
    flags = ("--cache", "cache/toy", "--model", "model", "--max-steps", "3", "--strategy", "tight", "--batch-size", "5")
    command("run", *flags, "--eval-split", "none", "--out", "read-only")
    assert read_records(Folder.open(place / "read-only"), "metrics.jsonl")[0]["rows"] == 15


def _refuse(self, spec, epochs, progress=None):
    from cache.errors import StorageError

    raise StorageError("read-only file system")


TOY = ("--cache", "cache/toy", "--model", "model")
NONFINITE = (*TOY, "--precision", "fp32", "--logging-steps", "1", "--save-steps", "2")


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the loss of the fourth step of a run infinite."""
    import train.run

    backward, calls = train.run.backward, []

    def infinite(job, batch):
        loss = backward(job, batch)
        calls.append(batch)
        if len(calls) == 4:
            next(p for p in job.model.parameters() if p.grad is not None).grad.fill_(float("inf"))
        return loss

    monkeypatch.setattr(train.run, "backward", infinite)
    return calls


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_rows_and_checkpoint(place, command, poisoned):
    with pytest.raises(LengthwiseError) as error:
        command("run", *NONFINITE, "--out", "infinite")
    rows = poisoned[3].rows
    text = str(error.value)
    assert "at step 4 (epoch 1)" in text
    assert f"rows {', '.join(map(str, rows))} of split 'train'" in text
    assert "source rows" in text
    assert "the last good checkpoint is infinite/checkpoints/step-000002" in text
    assert "--on-nonfinite skip" in text
    assert not (place / "infinite" / "model").exists()


def test_a_skipped_update_is_counted_in_the_summary(place, command, poisoned):
    text = command("run", *NONFINITE, "--out", "skipping", "--on-nonfinite", "skip", "--max-steps", "8")
    assert "skipped    1 update, whose" in text
    assert json.loads((place / "skipping" / "summary.json").read_text())["skipped_updates"] == 1
    records = read_records(Folder.open(place / "skipping"), "metrics.jsonl")
    assert records[3]["loss"] is None
    assert records[3]["grad_norm"] is None
    assert records[3]["skipped_updates"] == 1


MISUSES = {
    "no cache": (["run"], "--cache is missing"),
    "settings": (["run", "--cache", "cache/toy", "--epochs", "0", "--lr", "-1"], "--epochs is 0"),
    "cache without manifest": (["run", "--cache", "model"], "is a folder without a manifest"),
    "no such cache": (["run", "--cache", "nowhere"], "does not exist"),
    "no such split": (["run", "--cache", "cache/toy", "--model", "model", "--eval-split", "dev"], "has no split 'dev'"),
    "no training split": (["run", "--cache", "cache/swapped", "--model", "model"], "has no split 'train'"),
    "no such model": (["run", "--cache", "cache/toy", "--model", "nowhere/at-all"], "--model 'nowhere/at-all'"),
    "no such device": (["run", "--cache", "cache/toy", "--device", "abacus"], "--device 'abacus'"),
    "out in use": (["run", *TOY, "--out", "runs/toy-1"], "go on with `train run --resume runs/toy-1`"),
    "out in a cache": (
        ["run", *TOY, "--out", "cache/toy/runs/a"],
        "cache/toy, which holds no runs; pass another --out",
    ),
    "no run": (["run", "--resume", "model"], "is not a run"),
    "both inputs": (["predict", "runs/toy-1", "a", "--file", "b"], "are both given"),
    "no file": (["predict", "runs/toy-1", "--file", "nowhere.txt"], "cannot be read"),
    "compare no run": (["compare", "model"], "is not a run"),
    "budget": (["run", "--cache", "cache/toy", "--strategy", "budget"], "takes --max-tokens"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_what_is_wrong_is_said_on_stderr_with_exit_code_2_and_leaves_nothing(place, monkeypatch, capsys, case):
    arguments, message = MISUSES[case]
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    before = sorted(path for path in place.iterdir() if path.name != "texts.txt"), sorted((place / "runs").iterdir())
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert before == (
        sorted(path for path in place.iterdir() if path.name != "texts.txt"),
        sorted((place / "runs").iterdir()),
    )


@pytest.mark.parametrize("arguments", [
    ["predict", "model", "--file", "gone.csv", "--out", "out.csv"],
    ["predict", "model", "--file", "gone.txt"],
    ["eval", "model", "--cache", "gone"],
])  # fmt: skip
def test_what_is_wrong_with_files_shows_before_torch_is_loaded(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = {['train', *arguments]}\n"
        "from train.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 2, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run_python(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gone" in done.stderr


def test_ctrl_c_outside_a_run_exits_130(monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("train.cli.cli", interrupted)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_with_an_example(name):
    text = CliRunner().invoke(cli, [name, "--help"]).output
    assert f"train {name} " in text
    assert "Example" in text
    for option in cli.commands[name].params:
        if option.param_type_name == "option" and not option.is_eager:
            assert getattr(option, "help", None) or option.name in ("device", "precision"), option.name


def test_every_setting_has_a_flag_and_a_help_text():
    flags = {option.name: option for option in cli.commands["run"].params}
    names = [item.name for item in declarations(Settings)]
    assert set(flags) - {"resume", "quiet", "as_json", "config"} == set(names)
    for item in declarations(Settings):
        assert item.text.endswith((".", "…")), item.name
        assert flags[item.name].help == item.help
        assert item.flag in flags[item.name].opts


def test_clock_shows_hours_minutes_seconds():
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 36000)] == ["0:00:00", "0:01:00", "0:59:59", "10:00:00"]
