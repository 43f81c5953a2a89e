"""`train run --config`: settings from a file, flags on top, and a run's own settings give the run again."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache import InputError
from prep.cli import cli as prep
from tests.helpers.caches import write_cache
from tests.helpers.models import write_model
from train.cli import cli
from train.declarations import flag
from train.settings_file import TRAINER_NAMES, read_settings


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    """Names may be spelled as flags are."""
    (tmp_path / "a.toml").write_text('cache = "cache/imdb"\nbatch-size = 8\nlr = 1e-4\n')
    (tmp_path / "a.json").write_text('{"cache": "cache/imdb", "batch_size": 8, "lr": 1e-4}')
    assert read_settings(tmp_path / "a.toml") == read_settings(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "lr = ", "does not parse as TOML"),
        ("a.yaml", "lr: 1", r"does not parse as JSON: .*; expected a \.toml or \.json file"),
        ("a.json", "[1]", "holds a list, expected names and values"),
        ("a.json", "{" * 5000, "does not parse"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    """With its name and the reason."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_settings(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_settings(tmp_path / "missing.toml")


@pytest.mark.slow
def test_a_runs_settings_reproduce_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same metrics to the byte, in a run folder of its own; a flag on top changes what it says."""
    cache = write_cache(tmp_path / "toy", {"train": 48, "test": 16})
    model = write_model(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    first = ["run", "--cache", str(cache.folder), "--model", str(model), "--max-steps", "4", "--logging-steps", "2"]
    runner = CliRunner()
    for arguments in (first, ["run", "--config", "runs/toy-1/settings.json"]):
        assert runner.invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    metrics = [(tmp_path / f"runs/toy-{number}/metrics.jsonl").read_bytes() for number in (1, 2)]
    assert metrics[0] == metrics[1]
    runner.invoke(cli, ["run", "--config", "runs/toy-1/settings.json", "--seed", "7"], catch_exceptions=False)
    assert (tmp_path / "runs/toy-3/metrics.jsonl").read_bytes() != metrics[0]
    settings = [json.loads((tmp_path / f"runs/toy-{n}/settings.json").read_text())["settings"] for n in (1, 3)]
    assert {key for key in settings[0] if settings[0][key] != settings[1][key]} <= {"seed", "out"}


@pytest.mark.parametrize(
    ("given", "name"),
    [("--learning-rate", "--lr"), ("--per_device_train_batch_size=8", "--batch-size"), ("--fp16", "--precision fp16")],
)
def test_an_option_by_the_trainer_s_name_is_answered_with_ours(given: str, name: str) -> None:
    done = CliRunner().invoke(cli, ["run", "--cache", "x", given])
    assert done.exit_code == 2
    assert f"No such option '{given.partition('=')[0]}', which is {name} here." in done.stderr


def test_what_the_trainer_s_names_stand_for_is_there() -> None:
    ours = {"run": cli.commands["run"], "build": prep.commands["build"]}
    flags = {name: {flag for param in command.params for flag in param.opts} for name, command in ours.items()}
    for given, text in TRAINER_NAMES.items():
        assert flag(given) not in flags["run"]
        command = "build" if "of `prep build`" in text else "run"
        assert set(re.findall(r"--[\w-]+", text)) <= flags[command]


def test_an_unknown_setting_lists_the_known_ones(tmp_path: Path) -> None:
    """Misspelled names do not pass in silence."""
    (tmp_path / "a.toml").write_text('cache = "x"\nlearning_rate = 1\nrate = 1\n')
    with pytest.raises(
        InputError, match=r"is called 'learning_rate' \(here --lr\), 'rate'; the settings are cache, model"
    ):
        CliRunner().invoke(cli, ["run", "--config", str(tmp_path / "a.toml")], catch_exceptions=False)
