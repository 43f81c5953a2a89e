"""Hostile labels, texts, column names, paths and arguments: no command writes their control characters to a terminal.

A terminal obeys what it is sent: an escape sequence in a label can move the cursor, change the window's title, or hide
what comes after it.
"""

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from train.compare.table import COLUMNS

from ..helpers.children import ended, spawn
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.models import write_model
from ..helpers.tokenizers import write_tokenizer

pytestmark = pytest.mark.slow

HOSTILE = "\x1b[31m\x1b]0;owned\x07\x9b2J\x7f\x08\u202e\u2028\x85\r|``<blink>$\\frac{ß€"
FOLDER = f"in{HOSTILE}"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

CACHE, MODEL, RUN = f"{FOLDER}/toy", f"{FOLDER}/model{HOSTILE}", f"{FOLDER}/run{HOSTILE}"
BUILD = ("build", "rows.csv", "--tokenizer", f"{FOLDER}/tokenizer", "--engine", "tokenizers", "--holdout", "0.2")
TEXT = ("--text", f"text{HOSTILE}", "--label", f"label{HOSTILE}", "--out", FOLDER)
TRAIN = ("run", "--cache", CACHE, "--model", MODEL, "--epochs", "1", "--max-steps", "4", "--device", "cpu")

COMMANDS = {
    "build": ("prep", *BUILD, *TEXT, "--name", "again"),
    "build, up to date": ("prep", *BUILD, *TEXT, "--name", "toy"),
    "info": ("prep", "info", CACHE),
    "info as JSON": ("prep", "info", CACHE, "--json"),
    "show": ("prep", "show", CACHE, "--special-tokens"),
    "plan": ("prep", "plan", CACHE, "--strategy", "tight"),
    "verify": ("prep", "verify", CACHE),
    "report": ("prep", "report", CACHE, "--out", f"{FOLDER}/report.html"),
    "list": ("prep", "list", FOLDER),
    "train": ("train", *TRAIN, "--out", f"{FOLDER}/other"),
    "resume": ("train", "run", "--resume", RUN),
    "eval": ("train", "eval", RUN, "--cache", CACHE),
    "eval as JSON": ("train", "eval", RUN, "--cache", CACHE, "--json"),
    "predict": ("train", "predict", RUN, f"word1 {HOSTILE}"),
    "predict as JSON": ("train", "predict", RUN, f"word1 {HOSTILE}", "--json"),
    "compare": ("train", "compare", RUN),
    "compare, drawn": ("train", "compare", RUN, "--html", f"{FOLDER}/runs.html"),
}
"""Each of these succeeds."""

REFUSED = {
    "source": ("prep", "build", HOSTILE),
    "name": ("prep", *BUILD, *TEXT, "--name", HOSTILE),
    "column": ("prep", *BUILD, "--text", HOSTILE),
    "tokenizer": ("prep", "build", "rows.csv", "--tokenizer", HOSTILE),
    "engine": ("prep", "build", "rows.csv", "--engine", HOSTILE),
    "option": ("prep", "build", f"--{HOSTILE}"),
    "command": ("prep", HOSTILE),
    "cache": ("prep", "info", HOSTILE),
    "split": ("prep", "plan", CACHE, "--split", HOSTILE),
    "folder": ("prep", "verify", FOLDER),
    "cache of a run": ("train", "run", "--cache", HOSTILE),
    "model of a run": ("train", *TRAIN, "--model", HOSTILE),
    "settings": ("train", "run", "--config", HOSTILE),
    "run to resume": ("train", "run", "--resume", HOSTILE),
    "run": ("train", "compare", CACHE),
    "model": ("train", "predict", CACHE, "text"),
    "split of an evaluation": ("train", "eval", RUN, "--cache", CACHE, "--split", HOSTILE),
    "device": ("train", "eval", RUN, "--cache", CACHE, "--device", HOSTILE),
}
"""Each of these is refused, with a message that names what was given."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache and a run of hostile names in a folder of such a name."""
    folder = tmp_path_factory.mktemp("hostile")
    write_tokenizer(folder / FOLDER / "tokenizer")
    write_model(folder / MODEL)
    rows = [(f"{text} {HOSTILE}", f"{label}{HOSTILE}") for text, label in toy_rows(120)]
    write_rows(folder / "rows.csv", rows, (f"text{HOSTILE}", f"label{HOSTILE}"))
    run(folder, "prep", *BUILD, *TEXT, "--name", "toy")
    run(folder, "train", *TRAIN, "--out", RUN)
    return folder


def run(folder: Path, command: str, *arguments: str, code: int = 0, encoding: str = "utf-8", full: str = "") -> str:
    """Run a command; what it wrote to stdout and stderr, which holds no control character."""
    prepare = partial(set_streams, encoding, full)
    found = ended(spawn(folder, *arguments, command=command, prepare=prepare))
    written = "".join((folder / name).read_bytes().decode(encoding) for name in ("out.txt", "err.txt"))
    assert "Traceback" not in written, written
    assert found == code, written
    assert not CONTROL.findall(written), written
    return written


def set_streams(encoding: str, full: str) -> None:
    """Give this process streams of another encoding, as PYTHONIOENCODING does, or one that is a full disk."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        if name == full:
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)
        setattr(sys, name, open(number, "w", encoding=encoding, closefd=False))  # noqa: SIM115


@pytest.fixture(scope="module")
def in_utf8(place: Path) -> Callable[[str], str]:
    """What a command writes, run once."""
    return functools.cache(lambda case: run(place, *COMMANDS[case]))


@pytest.mark.parametrize("case", COMMANDS)
def test_no_control_character_of_a_label_a_text_or_a_path_is_written(in_utf8: Callable[[str], str], case: str) -> None:
    written = in_utf8(case)
    if "JSON" in case:
        assert "owned" in json.dumps(json.loads(written))
    elif case != "resume":
        assert r"\u009b2J\u007f" in written or r"\x9b2J\x7f" in written, written


@pytest.mark.parametrize("case", REFUSED)
def test_no_control_character_of_an_argument_is_written(place: Path, case: str) -> None:
    assert "owned" in run(place, *REFUSED[case], code=2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("case", ["info", "show", "info as JSON", "predict as JSON"])
def test_what_the_encoding_lacks_is_escaped(place: Path, case: str, encoding: str) -> None:
    written = run(place, *COMMANDS[case], encoding=encoding)
    assert "JSON" not in case or json.loads(written) == json.loads(run(place, *COMMANDS[case]))


@pytest.mark.parametrize("case", ["info", "list", "predict"])
def test_output_that_cannot_be_written_is_an_error(place: Path, case: str) -> None:
    assert "stdout cannot be written: No space left" in run(place, *COMMANDS[case], code=1, full="stdout")
    run(place, *COMMANDS[case], full="stderr")


def test_hostile_text_is_text_in_pages_and_in_markdown(place: Path, in_utf8: Callable[[str], str]) -> None:
    """The pages hold no such element; the model card and the table have no HTML, and as many cells as columns."""
    for page, case in (("report.html", "report"), ("runs.html", "compare, drawn")):
        if not (place / FOLDER / page).exists():
            in_utf8(case)
        text = (place / FOLDER / page).read_text()
        assert "<blink>" not in text
        assert "&lt;blink&gt;" in text
    card = (place / RUN / "model" / "README.md").read_text().split("\n---\n")[1]
    table = in_utf8("compare")
    assert not CONTROL.findall(card)
    for text in (card, table):
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        tokens += [child for token in tokens for child in token.children or []]
        assert not [token for token in tokens if token.type.startswith("html")]
        assert any("owned" in token.content for token in tokens)
    assert [token.type for token in tokens].count("td_open") == len(COLUMNS)
