"""Bad inputs, each through the real command: refused with what, where and the way out."""

import gzip
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ..helpers.commands import GOOD, Prep, build, write, write_parquet

ROW = '{"text": "word1", "label": 1}\n'
LATIN1 = "text,label\ncafé,x\n".encode("latin1")
IN_TRAIN = "row {} of split 'train' (counted from 0)"

Case = tuple[Any, ...]
"""A file or several of the same content; the content: bytes, text, rows of JSON, columns of parquet; what stands behind
`prep build`, where it is not the file itself followed by these options; parts of the message."""

SOURCES: dict[str, Case] = {
    "nothing of that name": ("other.csv", GOOD, "rewiews.csv", "no source 'rewiews.csv'", "a preset"),
    "a near name": ("reviews.csv", GOOD, "rewiews.csv", "did you mean reviews.csv?"),
    "a near preset": ((), "", "imbd", "did you mean imdb"),
    "a preset in capitals": ((), "", "IMDB", "did you mean imdb"),
    "an empty name": ((), "", "''", "'' is not a source"),
    "an unknown kind": ("a.xlsx", b"PK", "", "a.xlsx: of no known kind", ".csv", ".parquet"),
    "two files of one split": (
        ("d/train.csv", "d/train.jsonl"), GOOD, "d",
        "d/train.csv and d/train.jsonl would both be the split 'train'",
    ),
    "a split with a space": (
        ("d/train set.csv", "d/train more.csv"), GOOD, "d",
        "the split 'train more', which is not a valid name for a split", "rename it",
    ),
    "a folder without files": (
        "d/README.md", "", "d", "d holds neither table files", "split/label/*.txt", "d/train/pos/1.txt",
    ),
    "columns for text files": ("d/train/x/1.txt", "word1", "d --text t", "leave out --text and --label"),
    "a folder that is a file in the way": (("a.csv", "cache"), GOOD, "a.csv", "cannot write cache"),
}  # fmt: skip

ENCODINGS: dict[str, Case] = {
    "latin-1 csv": ("a.csv", LATIN1, "", "a.csv: not UTF-8 text at byte 14", "iconv -f cp1252"),
    "latin-1 jsonl": ("a.jsonl", ROW.replace("word1", "é").encode("latin1"), "", "a.jsonl: not UTF-8 text at byte 10"),
    "latin-1 gz": ("a.csv.gz", gzip.compress(LATIN1), "", "a.csv.gz: not UTF-8 text at byte 14"),
    "latin-1 text file": ("d/train/x/1.txt", "café".encode("latin1"), "d", "1.txt: not UTF-8 text at byte 3"),
    "utf-16": ("a.csv", GOOD.encode("utf-16"), "", "a.csv: not UTF-8 text at byte 0", "iconv -f utf-16"),
    "a lone surrogate": (
        "a.jsonl", ROW + '{"text": "word\\ud800", "label": 1}\n', "", "cannot read a.jsonl", "surrogate", "line 2",
    ),
    "text in parquet that is not UTF-8": (
        "a.parquet", {"text": pa.array([b"word1", b"caf\xe9"]).view(pa.string()), "label": [0, 1]}, "",
        "cannot read a.parquet", "UTF8",
    ),
}  # fmt: skip

TABLES: dict[str, Case] = {
    "a cell too many": (
        "a.csv", "text,label\nword1,x\nword1, word2,y\n", "",
        "a.csv", "row 1, counted from 0", "line 3", "has 3 cells, the header has 2", "quotes",
    ),
    "semicolons, and commas in texts": (
        "a.csv", "text;label\nword1, word2;x\nword1;x\n", "",
        "row 0, counted from 0, which ends on line 2, has 2 cells, the header has 1; are its cells separated by",
        "Pass --delimiter ';'",
    ),
    "a cell too few": ("a.csv", GOOD + "word2\n", "", "row 2, counted from 0", "has 1 cells"),
    "a quote that does not end": (
        "a.csv", 'text,label\nword1,x\n"word2,y\nword3,x\n', "", "row 1, counted from 0", "line 4",
    ),
    "an open quote before the last column": (
        "a.csv", 'label,text,more\nx,word1,word1\ny,word1,"word2\nx,word3,word1\n', "",
        "cannot read a.csv: nothing closes the quote before 'word2\\nx,word3",
        "close it; where quotes are part of the text, pass --no-quotes",
    ),
    "an open quote": (
        "a.csv", 'label,text\nx,word1\ny,"word2\nx,word3\n', "",
        "cannot read a.csv: nothing closes the quote before 'word2\\nx,word3",
        "close it; where quotes are part of the text, pass --no-quotes",
    ),
    "an empty csv": ("a.csv", "", "", "cannot read a.csv: Empty CSV file"),
    "blank lines only": ("a.csv", "\n\n\n", "", "cannot read a.csv", "Empty CSV file"),
    "a header only": ("a.csv", "text,label\n", "", "a.csv holds no rows"),
    "an empty jsonl": ("a.jsonl", "", "", "cannot read a.jsonl", "Empty JSON"),
    "a list among objects": ("a.jsonl", ROW + "[1]\n", "", "cannot read a.jsonl", "line 2: [1] is not an object"),
    "a line that is no JSON": (
        "a.jsonl", ROW + '{"text": "word1" "label": 1}\n', "",
        "cannot read a.jsonl", "line 2", "one JSON object per line",
    ),
    "a line cut short": ("a.jsonl", ROW + '{"text": "wor', "", "cannot read a.jsonl", "line 2"),
    "a key twice": (
        "a.jsonl", '{"text": "word1", "text": "word2", "label": 1}\n', "",
        "cannot read a.jsonl", "specified twice (line 1: a key stands twice in one object",
    ),
    "a broken parquet": ("a.parquet", b"PAR1" + b"\0" * 50, "", "cannot read a.parquet", "Parquet"),
    "a csv that is called parquet": ("a.parquet", GOOD, "", "cannot read a.parquet", "Parquet"),
    "a csv that is called gz": ("a.csv.gz", GOOD, "", "cannot read a.csv.gz"),
    "a gz cut short": ("a.csv.gz", gzip.compress(GOOD.encode() * 99)[:-20], "", "cannot read a.csv.gz", "runcated"),
}  # fmt: skip

COLUMNS: dict[str, Case] = {
    "no header": (
        "a.csv", "word1 word2,x\nword3,y\n", "",
        "which column is the text? It has 'word1 word2', 'x'", "--text COLUMN",
    ),
    "semicolons": (
        "a.csv", "text;label\nword1;x\n", "",
        "which column is the text? It has 'text;label'", "separated by something else than commas",
    ),
    "no such text column": (
        "a.csv", GOOD, "--text body", "a.csv has no column 'body' for --text; it has 'text', 'label'",
    ),
    "no such label column": ("a.csv", GOOD, "--label stars", "a.csv has no column 'stars' for --label"),
    "one column for both": ("a.csv", GOOD, "--label text", "the column 'text' cannot be text and label at once"),
    "two columns of the name": (
        "a.csv", "text,label,text\nword1,x,word2\n", "", "a.csv has 2 columns 'text'; rename all but one",
    ),
    "numbers as text in jsonl": ("a.jsonl", '{"text": 5, "label": 1}\n', "", "cannot read a.jsonl", "Column(/text)"),
    "numbers as text in parquet": (
        "a.parquet", {"text": [1, 2], "label": [0, 1]}, "",
        "split 'train': the text column holds int64, expected text; see --text",
    ),
    "lists as text": (
        "a.parquet", {"text": [["word1"], ["word2"]], "label": [0, 1]}, "", "split 'train': the text column holds list",
    ),
    "a null text": ("a.jsonl", ROW + '{"text": null, "label": 1}\n', "", f"{IN_TRAIN.format(1)} has no text"),
    "a text left out": ("a.jsonl", ROW + '{"label": 1}\n', "", f"{IN_TRAIN.format(1)} has no text"),
}  # fmt: skip

LABELS: dict[str, Case] = {
    "fractions as labels": (
        "a.csv", "text,label\nword1,1\nword2,2.5\n", "--task classification",
        f"{IN_TRAIN.format(1)} has the label '2.5', which is not a class",
    ),
    "NaN as a label": (
        "a.jsonl", '{"text": "word1", "label": 1.0}\n{"text": "word1", "label": NaN}\n', "",
        "row 1 of split 'train'", "nan, which is a missing value",
    ),
    "labels of two types": (
        "a.jsonl", ROW + '{"text": "word2", "label": "x"}\n', "",
        "cannot read a.jsonl", "Column(/label) changed from number to string, at row 1 of the file (counted from 0)",
    ),
    "objects as labels": ("a.jsonl", '{"text": "a", "label": {"a": 1}}\n', "", "split 'train': a label is struct"),
    "dates as labels": (
        "a.parquet", {"text": ["word1"], "label": pa.array([5], pa.date32())}, "",
        f"{IN_TRAIN.format(0)} has the label", "not a class but a date",
    ),
}  # fmt: skip

SETTINGS: dict[str, Case] = {
    "a max length without room": (
        "a.csv", GOOD, "--max-length 2", "--max-length 2 leaves no room for text", "pass at least 3",
    ),
    "a max length of nothing": ("a.csv", GOOD, "--max-length 0", "--max-length 0 is not from 1 to 1048576"),
    "a huge max length": ("a.csv", GOOD, "--max-length 1048577", "--max-length 1048577 is not from 1 to 1048576"),
    "settings that are all wrong": (
        "a.csv", GOOD, "--holdout 1.5 --limit 0 --epochs -1", "--holdout 1.5", "--limit 0", "--epochs -1",
    ),
    "a holdout of nothing": (
        "a.csv", GOOD, "--holdout 0.1", "a holdout of 0.1 of 2 rows", "no row to test", "--holdout 0",
    ),
    "a holdout of all": ("a.csv", GOOD, "--holdout 0.9", "a holdout of 0.9 of 2 rows", "no row to train"),
    "a holdout beside a test split": (
        ("d/test.csv", "d/train.csv"), GOOD, "d --holdout 0.5",
        "--holdout takes part of a lone split 'train'", "test, train",
    ),
    "a size that is none": ("a.csv", GOOD, "--memory much", "--memory 'much' is not a size"),
    "a name that is a path": ("a.csv", GOOD, "--name ../a", "--name '../a' is not a plain name"),
    "a batch of nothing": ("a.csv", GOOD, "--batch-size 0", "--strategy smart takes --batch-size, 1 or more"),
    "a budget without tokens": ("a.csv", GOOD, "--strategy budget", "--strategy budget takes --max-tokens"),
}  # fmt: skip

REFUSED = SOURCES | ENCODINGS | TABLES | COLUMNS | LABELS | SETTINGS


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_input_is_refused_with_what_where_and_the_way_out(prep: Prep, case: str) -> None:
    """Exit code 2 (1 where the file system refuses), one message, nothing left behind."""
    names, data, arguments, *message = REFUSED[case]
    names = (names,) if isinstance(names, str) else names
    for name in names:
        write_parquet(name, **data) if isinstance(data, dict) else write(name, data)
    given = shlex.split(arguments)
    done = build(prep, *([names[0], *given] if not given or given[0].startswith("--") else given))
    assert done.code == (1 if "cannot write" in message[0] else 2), done
    for part in message:
        assert part in done.err
    assert done.err.lower().startswith(("error: ", "usage: "))
    assert "Traceback" not in done.err
    assert len(done.err) < 2000
    assert done.out == ""
    left = Path("cache")
    assert not left.is_dir() or not list(left.iterdir())
