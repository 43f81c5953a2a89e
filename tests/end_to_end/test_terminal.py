"""What the commands show: a bar on a terminal, plain lines elsewhere, nothing when quiet, one object with --json."""

import json
import os
import pty
import re
import select
import sys
import termios
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cache.console import progress
from cache.console.progress import Progress
from train.libraries import load_libraries
from train.run_folder.console import TrainingProgress

from ..helpers import ROOT
from ..helpers.children import ended, spawn
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.models import write_model
from ..helpers.tokenizers import write_tokenizer

pytestmark = pytest.mark.slow

COMMANDS = (ROOT / "docs" / "commands.md").read_text()

BEGIN = Progress.__init__


def show_at_once(terminal: str | None = None, **variables: str) -> None:
    """Make this process show work that takes no time too, each update of it, on a terminal if one is given."""
    progress.LINE_EVERY_S = progress.BAR_EVERY_S = 0
    Progress.__init__ = lambda self, *given, **named: BEGIN(self, *given, **{**named, "delay_s": 0})  # type: ignore[method-assign]
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        os.environ.pop(name, None)
    os.environ.update({"TERM": "xterm", **variables})
    if terminal is not None:
        for number in range(3):
            os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), number)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a tokenizer and a model."""
    folder = tmp_path_factory.mktemp("terminal")
    write_tokenizer(folder / "tokenizer")
    write_model(folder / "model")
    write_rows(folder / "reviews.csv", toy_rows(300))
    in_files(folder, "prep", *BUILD, "--name", "toy")
    in_files(folder, "train", *RUN, "--out", "done")
    return folder


BUILD = ("build", "reviews.csv", "--tokenizer", "tokenizer", "--engine", "tokenizers", "--holdout", "0.2")
RUN = ("run", "--cache", "cache/toy", "--model", "model", "--epochs", "2", "--device", "cpu", "--logging-steps", "5")


def start(folder: Path, command: str, *arguments: str, terminal: str | None = None, **variables: str) -> Any:
    """Start a command whose output goes to a terminal, or to out.txt and err.txt."""
    prepare = partial(show_at_once, terminal, **variables)
    return spawn(folder, *arguments, prepare=prepare, command=command)


def in_files(folder: Path, command: str, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command; what it wrote to stdout and to stderr, neither of them a terminal."""
    found = ended(start(folder, command, *arguments))
    written = tuple((folder / name).read_text() for name in ("out.txt", "err.txt"))
    assert found == code, written
    return written[0], written[1]


def on_terminal(folder: Path, command: str, *arguments: str, **variables: str) -> str:
    """Run a command on a terminal of its own; what it wrote there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    child = start(folder, command, *arguments, terminal=os.ttyname(theirs), **variables)
    written = b""
    while child.is_alive() or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.05)[0]:
            written += os.read(ours, 1 << 16)
    os.close(ours)
    os.close(theirs)
    assert ended(child) == 0, written
    return written.decode().replace("\r\n", "\n")


def screen(text: str) -> list[str]:
    """The lines that are left on a terminal when all was written, without those that were written over."""
    return [line.split("\r")[-1] for line in text.split("\n")]


BAR = r"\r{what}: +\d+%\|.{{4,}}\| [\d.]+[kM]?/[\d.]+[kM]? \[\d\d:\d\d<\d\d:\d\d, +[\d.]+[kMG]? ?{unit}/s"


def test_on_a_terminal_train_run_draws_a_bar_that_leaves_only_the_report(place: Path) -> None:
    shown = on_terminal(place, "train", *RUN, "--out", "terminal")
    assert re.search(BAR.format(what="training", unit="steps") + r", loss \d\.\d{4}, [\d,]+ tokens/s\]", shown)
    assert re.search(BAR.format(what="evaluating test", unit="rows"), shown)
    assert "trying the largest batch ..." in shown
    left = screen(shown)
    assert not any("%|" in line or "..." in line for line in left)
    assert [line.split()[0] for line in left if re.match(r" +[12]/2 ", line)] == ["1/2", "2/2"]
    assert sum("train loss" in line for line in left) == 1


def test_elsewhere_train_run_writes_plain_lines(place: Path) -> None:
    out, err = in_files(place, "train", *RUN, "--out", "plain")
    assert "\r" not in out + err
    assert "\x1b" not in out + err
    assert "..." not in out + err
    steps = r"^training +\d+%  \d+/\d+ steps  .* elapsed  .* left  loss \d\.\d{4}, [\d,]+ tokens/s$"
    assert len(re.findall(steps, err, re.MULTILINE)) > 4
    assert re.search(r"^evaluating test +100%  60/60 rows", err, re.MULTILINE)
    assert "train loss" in out
    assert not re.search("^training ", out, re.MULTILINE)


def test_prep_build_and_verify_show_how_far_they_are(place: Path) -> None:
    shown = on_terminal(place, "prep", *BUILD, "--name", "terminal")
    assert re.search(BAR.format(what="tokenizing", unit="B") + r", [\d,]+ tokens/s\]", shown)
    assert shown.startswith("opening reviews.csv ...\r")
    assert "opening the tokenizer ...\r" in shown
    assert not any("%|" in line or "..." in line for line in screen(shown))
    out, err = in_files(place, "prep", *BUILD, "--name", "plain")
    assert re.search(r"^tokenizing +\d+%  [\d.]+/[\d.]+ MB  .* elapsed  .* left  [\d,]+ tokens/s$", err, re.MULTILINE)
    assert re.search(r"^planning +100%  3/3 epochs", err, re.MULTILINE)
    assert "tokenizing" not in out
    out, err = in_files(place, "prep", "verify", "cache/plain")
    assert re.search(r"^verifying +\d+%  ", err, re.MULTILINE)
    assert "\x1b" not in out + err


@pytest.mark.parametrize("variable", ["NO_COLOR", "FORCE_COLOR"])
def test_no_colours_are_used_whatever_is_asked_for(place: Path, variable: str) -> None:
    for arguments in (("prep", "info", "cache/toy"), ("train", "compare", "done"), ("prep", "verify", "cache/toy")):
        shown = on_terminal(place, *arguments, **{variable: "1"})
        assert not re.search(r"\x1b\[[\d;]*m", shown)


def test_a_terminal_that_cannot_erase_gets_plain_lines(place: Path) -> None:
    shown = on_terminal(place, "prep", "verify", "cache/toy", TERM="dumb")
    assert "verifying" in shown
    assert "\x1b" not in shown


QUIET = (
    ("prep", *BUILD, "--name", "quiet"),
    ("prep", "plan", "cache/toy", "--epochs", "4"),
    ("prep", "verify", "cache/toy"),
    ("prep", "report", "cache/toy"),
    ("train", *RUN, "--out", "quiet"),
    ("train", "eval", "done", "--cache", "cache/toy"),
)


@pytest.mark.parametrize("arguments", QUIET, ids=lambda arguments: " ".join(arguments[:2]))
def test_quiet_commands_write_nothing(place: Path, arguments: tuple[str, ...]) -> None:
    assert in_files(place, *arguments, "--quiet") == ("", "")


JSON = {
    "prep build": BUILD,
    "prep plan": ("plan", "cache/toy", "--strategy", "tight"),
    "prep info": ("info", "cache/toy"),
    "prep list": ("list",),
    "prep verify": ("verify", "cache/toy"),
    "train run": RUN,
    "train eval": ("eval", "done", "--cache", "cache/toy"),
    "train compare": ("compare", "done"),
}


@pytest.mark.parametrize("command", JSON)
def test_json_is_one_object_on_stdout_with_the_documented_keys(place: Path, command: str) -> None:
    """The report of a run goes to stderr then."""
    out, _ = in_files(place, command.split()[0], *JSON[command], "--json")
    assert out.count("\n") == 1
    content = json.loads(out)
    row = next(line for line in COMMANDS.splitlines() if line.startswith(f"| `{command} --json` |"))
    assert sorted(content) == sorted(re.findall(r"`(\w+)`", re.split("; with|; where", row.split("|")[2])[0]))


def test_json_says_what_was_done(place: Path) -> None:
    def told(command: str, *arguments: str) -> dict[str, Any]:
        return json.loads(in_files(place, command, *arguments, "--json", "--quiet")[0])

    built = told("prep", *BUILD, "--name", "told")
    assert (built["up_to_date"], built["planned_epochs"], built["folder"]) == (False, 3, "cache/told")
    assert told("prep", *BUILD, "--name", "told")["up_to_date"] is True
    planned = told("prep", "plan", "cache/told", "--strategy", "fixed", "--epochs", "2")
    assert (planned["planned_epochs"], planned["stored_epochs"], planned["saving"]) == (2, 2, 0.0)
    run = told("train", *RUN, "--out", "told")
    summary = json.loads((place / "told" / "summary.json").read_text())
    del summary["format"], summary["version"], summary["records"], summary["checksum"]
    assert {name: run[name] for name in summary} == summary
    assert (run["run"], run["model"]) == ("told", "told/model")
    assert told("train", "run", "--resume", "told") == run


def test_an_error_leaves_stdout_empty(place: Path) -> None:
    out, err = in_files(place, "train", "run", "--cache", "nowhere", "--json", code=2)
    assert out == ""
    assert "nowhere does not exist" in err


def test_plain_lines_come_every_15_seconds_and_short_work_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress("counting", 100, "rows", delay_s=2) as counting:
        for second in range(1, 51):
            now[0] = float(second)
            counting.update(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"counting  {share}%  {done}/100 rows  0:00:{done // 2:02d} elapsed  0:00:{50 - done // 2:02d} left  2 rows/s"
        for share, done in ((" 30", 30), (" 60", 60), (" 90", 90))
    ]


def test_a_warning_takes_the_place_of_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also that of an evaluation; after it the bar comes back at once."""
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    window = TrainingProgress(True, print, print)
    window.begin(100)
    window.warn("quiet, but this matters")
    assert capsys.readouterr() == ("quiet, but this matters\n", "")
    window = TrainingProgress(False, print, lambda text: print(text, file=sys.stderr))
    window.begin(100)
    window.warn("first")
    window.update(10, 0.5, 7.0)
    with window.evaluating("test", 50) as evaluation:
        evaluation.update(50)
        window.warn("second")
    left = screen(capsys.readouterr().err)
    assert left == ["first", "second", ""]


def test_what_is_loaded_is_named_on_a_terminal_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But where quiet, or by a rank beside the first."""
    monkeypatch.delitem(sys.modules, "train.models.heads")
    load_libraries()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    load_libraries()
    shown = capsys.readouterr().err
    assert shown.startswith("loading torch and transformers ...\r")
    assert screen(shown) == [""]
    load_libraries(quiet=True)
    monkeypatch.setenv("RANK", "1")
    load_libraries()
    assert capsys.readouterr().err == ""


def test_what_was_done_before_does_not_count_as_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    resumed = Progress("training", 1000, "steps", done=900)
    now[0] = 10.0
    resumed.update(50, "loss 0.5")
    assert capsys.readouterr().err == "training   95%  950/1,000 steps  0:00:10 elapsed  0:00:10 left  loss 0.5\n"
