"""Files that are unlike others, through the real command: huge rows, files that change, names that are no text."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from ..helpers.commands import GOOD, Prep, build, csv_of, write


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl"])
def test_a_row_of_twenty_megabytes_is_read(prep: Prep, ending: str) -> None:
    """It is longer than any block that files are read in, and lies between others."""
    text = "word1 word2 " * (20_000_000 // 12)
    rows = [("word5", "x"), (text, "y"), ("word6", "x")]
    if "csv" in ending:
        data = csv_of(rows).encode()
        write(f"a.{ending}", gzip.compress(data, 1) if "gz" in ending else data)
    else:
        write("a.jsonl", [{"text": text, "label": label} for text, label in rows])
    done = build(prep, f"a.{ending}", "--max-length", "10")
    assert (done.code, done.err) == (0, "")
    assert done.rows() == [([2, 10, 3], "x"), ([2, *[6, 7] * 4, 3], "y"), ([2, 11, 3], "x")]


def test_rows_before_a_long_one_are_not_read_twice(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.parsing.readers.BLOCK_BYTES", 256)
    monkeypatch.setattr("prep.parsing.readers.HEAD_BYTES", 16)
    sizes = [1, 2, 1, 50, 2, 1, 300, 1, 2, 40, 1]
    rows = [(" ".join([f"word{number}"] * size), "x" if size > 1 else "y") for number, size in enumerate(sizes)]
    write("a.csv", csv_of(rows))
    done = build(prep, "a.csv", "--max-length", "400")
    assert done.code == 0
    assert done.err.startswith("warning: --max-length 400, but tok is the tokenizer of a model")
    assert [len(ids) - 2 for ids, _ in done.rows()] == sizes


@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    prep: Prep, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from prep.rows import encoding as encode

    name = write("a.csv", GOOD) if kind == "csv" else write("d/train/x/1.txt", "word1")

    def slow(*arguments: Any) -> Any:
        with Path(name).open("a") as file:
            file.write("word4,x\n")
        return real(*arguments)

    real = encode.code_batch
    monkeypatch.setattr(encode, "code_batch", slow)
    done = build(prep, "a.csv" if kind == "csv" else "d")
    assert done.code == 2
    assert f"{name} changed while it was being read; build again" in done.err
    assert not list(Path("cache").iterdir())


def test_a_file_that_goes_away_is_refused(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.csv", GOOD)
    from prep.sources import local as sources

    def hashed(path: Path) -> str:
        digest = real(path)
        path.unlink()
        return digest

    real = sources.sha256_file
    monkeypatch.setattr(sources, "sha256_file", hashed)
    done = build(prep, "a.csv")
    assert done.code == 2
    assert "cannot read a.csv: No such file or directory" in done.err


def test_a_file_name_that_is_no_text_is_shown_as_such(prep: Prep) -> None:
    folder = os.fsdecode(b"d/train/caf\xe9")
    try:
        Path(folder).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    Path(folder, os.fsdecode(b"\xff.txt")).write_text("word1")
    done = build(prep, "d")
    assert done.code == 0
    assert done.rows() == [([2, 6, 3], "caf\\xe9")]
