"""The command `train` with little memory, odd streams and odd names: messages and exit codes, no traceback."""

import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.caches import write_cache
from tests.helpers.models import write_model
from tests.helpers.python import run_python
from tests.helpers.tokenizers import write_tokenizer
from train.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache and a trained classifier."""
    folder = tmp_path_factory.mktemp("odd")
    write_cache(folder / "toy", {"train": 12, "test": 12})
    write_tokenizer(write_model(folder / "model", classes=2))
    return folder


def train(place: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "from train.cli import main; main()"
    done = run_python(code, *arguments, folder=place, **{"stdin": subprocess.DEVNULL, **options})
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    ("mebibytes", "arguments"),
    [
        (200, ["run", "--cache", "toy", "--model", "model"]),
        (400, ["eval", "model", "--cache", "toy"]),
        (600, ["predict", "model", "a text"]),
    ],
)
def test_a_limit_that_torch_cannot_load_in_is_named(place: Path, arguments: list[str], mebibytes: int) -> None:
    """Between 400 and 600 MB torch itself would end the process by a signal."""
    limit = mebibytes << 20
    done = train(place, *arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert done.returncode == 2
    assert "memory is limited to" in done.stderr
    assert "ulimit -v unlimited" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "~nosuchuser/model", "a text"], "MODEL '~nosuchuser/model': no such folder here"),
        (["eval", "runs/gone", "--cache", "toy"], "pass the folder of a run, such as runs/imdb-1, or one that holds"),
        (["run", "--cache", "~nosuchuser/toy"], "~nosuchuser/toy does not exist"),
        (["run", "--cache", "toy", "--model", "~nosuchuser/model"], "--model '~nosuchuser/model': no such folder"),
        (["run", "--cache", "toy", "--model", "model", "--class-weights", "~nosuchuser/x"], "No such file"),
        (["predict", "a" * 5000, "a text"], "File name too long"),
        (["predict", "model", "a \udcff text"], "cannot encode these texts, expected UTF-8"),
        (["predict", "model", "--file", "toy"], "--file toy cannot be read"),
    ],
)
def test_odd_names_and_texts_are_messages(
    place: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (1, 2)
    assert said in capsys.readouterr().err


def test_a_closed_stdin_is_a_message(place: Path) -> None:
    done = train(place, "predict", "model", stdin=None, preexec_fn=lambda: os.close(0))
    assert done.returncode == 2
    assert "no text" in done.stderr
