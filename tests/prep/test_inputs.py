"""Bad inputs, each through the real command: refused with what, where and the way out."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ..helpers.commands import GOOD, Prep, build, write, write_parquet

REFUSED: dict[str, tuple[Callable[[], str], list[str], list[str]]] = {}


def refused(name: str, options: list[str], *message: str) -> Callable[[Callable[[], str]], None]:
    def keep(make: Callable[[], str]) -> None:
        REFUSED[name] = (make, options, list(message))

    return keep


def refused_file(
    case: str, name: str, data: bytes | str | list[Any], *message: str, options: tuple[str, ...] = ()
) -> None:
    REFUSED[case] = (lambda: write(name, data), list(options), list(message))


refused_file("nothing of that name", "other.csv", GOOD, "no source 'rewiews.csv'", "a preset", options=("rewiews.csv",))
refused_file("a near name", "reviews.csv", GOOD, "did you mean reviews.csv?", options=("rewiews.csv",))
refused_file("a near preset", "x", "", "did you mean imdb", options=("imbd",))
refused_file("a preset in capitals", "x", "", "did you mean imdb", options=("IMDB",))
refused_file("an empty name", "x", "", "'' is not a source", options=("",))
refused_file("an unknown kind", "a.xlsx", b"PK", "a.xlsx: of no known kind", ".csv", ".parquet", options=("a.xlsx",))
LATIN1 = "text,label\nword1 café,x\n".encode("latin1")
refused_file("latin-1 csv", "a.csv", LATIN1, "a.csv: not UTF-8 text at byte 20", "iconv -f latin1")
refused_file(
    "latin-1 jsonl", "a.jsonl", '{"text": "café", "label": 1}\n'.encode("latin1"), "a.jsonl: not UTF-8 text at byte 13"
)
refused_file(
    "latin-1 gz",
    "a.csv.gz",
    gzip.compress("text,label\ncafé,x\n".encode("latin1")),
    "a.csv.gz: not UTF-8 text at byte 14",
)
refused_file(
    "latin-1 text file", "d/train/x/1.txt", "café".encode("latin1"), "1.txt: not UTF-8 text at byte 3", options=("d",)
)
refused_file("utf-16", "a.csv", GOOD.encode("utf-16"), "a.csv: not UTF-8 text at byte 0", "iconv -f utf-16")
refused_file(
    "a cell too many",
    "a.csv",
    "text,label\nword1,x\nword1, word2,y\n",
    "a.csv",
    "row 1, counted from 0",
    "line 3",
    "has 3 cells, the header has 2",
    "quotes",
)
refused_file("a cell too few", "a.csv", "text,label\nword1,x\nword2\n", "row 1, counted from 0", "has 1 cells")
refused_file(
    "a quote that does not end", "a.csv", 'text,label\nword1,x\n"word2,y\nword3,x\n', "row 1, counted from 0", "line 4"
)
refused_file("an empty csv", "a.csv", "", "cannot read a.csv: Empty CSV file")
refused_file("blank lines only", "a.csv", "\n\n\n", "cannot read a.csv", "Empty CSV file")
refused_file("a header only", "a.csv", "text,label\n", "a.csv holds no rows")
refused_file(
    "no header",
    "a.csv",
    "word1 word2,x\nword3,y\n",
    "which column is the text? It has 'word1 word2', 'x'",
    "--text COLUMN",
)
refused_file(
    "semicolons",
    "a.csv",
    "text;label\nword1;x\n",
    "which column is the text? It has 'text;label'",
    "separated by something else than commas",
)
refused_file(
    "no such text column",
    "a.csv",
    GOOD,
    "a.csv has no column 'body' for --text; it has 'text', 'label'",
    options=("a.csv", "--text", "body"),
)
refused_file(
    "no such label column",
    "a.csv",
    GOOD,
    "a.csv has no column 'stars' for --label",
    options=("a.csv", "--label", "stars"),
)
refused_file(
    "one column for both",
    "a.csv",
    GOOD,
    "the column 'text' cannot be text and label at once",
    options=("a.csv", "--label", "text"),
)
refused_file(
    "two columns of the name",
    "a.csv",
    "text,label,text\nword1,x,word2\n",
    "a.csv has 2 columns 'text'; rename all but one",
)
refused_file("no text", "a.csv", "text,label\nword1,x\n,y\n", "row 1 of split 'train' (counted from 0) has no text")
refused_file(
    "no label",
    "a.csv",
    "text,label\nword1,x\nword2,y\nword3,\n",
    "row 2 of split 'train' (counted from 0) has no label",
)
refused_file(
    "an empty label",
    "a.csv",
    'text,label\nword1,x\nword2,""\n',
    "row 1 of split 'train' (counted from 0) has the label '', which names no class",
)
refused_file(
    "a null text in jsonl",
    "a.jsonl",
    [{"text": "word1", "label": 1}, {"text": None, "label": 1}],
    "row 1 of split 'train' (counted from 0) has no text",
)
refused_file(
    "a text left out in jsonl",
    "a.jsonl",
    [{"text": "word1", "label": 1}, {"label": 1}],
    "row 1 of split 'train' (counted from 0) has no text",
)
refused_file(
    "fractions as labels",
    "a.jsonl",
    [{"text": "word1", "label": 1}, {"text": "word1", "label": 0.5}],
    "row 1 of split 'train' (counted from 0) has the label 0.5, which is not a class",
    options=("--task", "classification"),
)
refused_file(
    "fractions as labels in csv",
    "a.csv",
    "text,label\nword1,1\nword2,2.5\n",
    "row 1 of split 'train' (counted from 0) has the label '2.5', which is not a class",
    options=("--task", "classification"),
)
refused_file(
    "NaN as a label",
    "a.jsonl",
    '{"text": "word1", "label": 1.0}\n{"text": "word1", "label": NaN}\n',
    "row 1 of split 'train'",
    "nan, which is a missing value",
)
refused_file(
    "labels of two types",
    "a.jsonl",
    [{"text": "word1", "label": 1}, {"text": "word2", "label": "x"}],
    "cannot read a.jsonl",
    "Column(/label) changed from number to string, at row 1 of the file (counted from 0)",
)
refused_file(
    "lists as labels",
    "a.jsonl",
    [{"text": "word1", "label": [1, 2]}],
    "--task classification takes one label per row",
    "see --label and --task",
    options=("--task", "classification"),
)
refused_file(
    "objects as labels",
    "a.jsonl",
    [{"text": "word1", "label": {"a": 1}}],
    "split 'train': a label is struct",
)
refused_file("numbers as text in jsonl", "a.jsonl", [{"text": 5, "label": 1}], "cannot read a.jsonl", "Column(/text)")
refused_file(
    "a lone surrogate",
    "a.jsonl",
    '{"text": "word1", "label": 1}\n{"text": "word\\ud800", "label": 1}\n',
    "cannot read a.jsonl",
    "surrogate",
    "line 2",
)
refused_file(
    "a list among objects",
    "a.jsonl",
    '{"text": "word1", "label": 1}\n[1]\n',
    "cannot read a.jsonl",
    "line 2: [1] is not an object",
)
refused_file(
    "a line that is no JSON",
    "a.jsonl",
    '{"text": "word1", "label": 1}\n{"text": "word1" "label": 1}\n',
    "cannot read a.jsonl",
    "line 2",
    "one JSON object per line",
)
refused_file(
    "a line cut short", "a.jsonl", '{"text": "word1", "label": 1}\n{"text": "wor', "cannot read a.jsonl", "line 2"
)
for name, more in (("a.csv", ""), ("b.csv", ",word1")):
    refused_file(
        f"a quote that nothing closes in {name}",
        name,
        f'label,text{more}\nx,word1{more}\ny{more},"word2\nx,word3{more}\n',
        f"cannot read {name}: nothing closes the quote before 'word2\\nx,word3",
        "close it; where quotes are part of the text, pass --no-quotes",
        options=(name,),
    )
refused_file("an empty jsonl", "a.jsonl", "", "cannot read a.jsonl", "Empty JSON")
refused_file(
    "a key twice",
    "a.jsonl",
    '{"text": "word1", "text": "word2", "label": 1}\n',
    "cannot read a.jsonl",
    "specified twice (line 1: a key stands twice in one object",
)
refused_file("a broken parquet", "a.parquet", b"PAR1" + b"\0" * 50, "cannot read a.parquet", "Parquet")
refused_file("a csv that is called parquet", "a.parquet", GOOD, "cannot read a.parquet", "Parquet")
refused_file("a csv that is called gz", "a.csv.gz", GOOD, "cannot read a.csv.gz")
refused_file("a gz cut short", "a.csv.gz", gzip.compress(GOOD.encode() * 99)[:-20], "cannot read a.csv.gz", "runcated")
refused_file(
    "two files of one split",
    "d/train.csv",
    GOOD,
    "d/train.csv and d/train.jsonl would both be the split 'train'",
    options=("d",),
)
refused_file(
    "a split with a space",
    "d/train set.csv",
    GOOD,
    "the split 'train set', which is not a valid name for a split",
    "rename it",
    options=("d",),
)
refused_file(
    "a folder without files",
    "d/README.md",
    "",
    "d holds neither table files",
    "split/label/*.txt",
    "d/train/pos/1.txt",
    options=("d",),
)
refused_file(
    "columns for text files", "d/train/x/1.txt", "word1", "leave out --text and --label", options=("d", "--text", "t")
)
refused_file(
    "max length 1",
    "a.csv",
    GOOD,
    "--max-length 1 leaves no room for text",
    "pass at least 3",
    options=("a.csv", "--max-length", "1"),
)
refused_file(
    "max length 2",
    "a.csv",
    GOOD,
    "--max-length 2 leaves no room for text",
    "pass at least 3",
    options=("a.csv", "--max-length", "2"),
)
for length in (0, (1 << 20) + 1):
    refused_file(
        f"max length {length}",
        "a.csv",
        GOOD,
        f"--max-length {length} is not from 1 to 1048576",
        options=("a.csv", "--max-length", str(length)),
    )
refused_file(
    "settings that are all wrong",
    "a.csv",
    GOOD,
    "--holdout 1.5",
    "--limit 0",
    "--epochs -1",
    options=("a.csv", "--holdout", "1.5", "--limit", "0", "--epochs", "-1"),
)
refused_file(
    "a holdout of nothing",
    "a.csv",
    GOOD,
    "a holdout of 0.1 of 2 rows",
    "no row to test",
    "--holdout 0",
    options=("a.csv", "--holdout", "0.1"),
)
refused_file(
    "a holdout of all",
    "a.csv",
    GOOD,
    "a holdout of 0.9 of 2 rows",
    "no row to train",
    options=("a.csv", "--holdout", "0.9"),
)
refused_file(
    "a size that is none", "a.csv", GOOD, "--memory 'much' is not a size", options=("a.csv", "--memory", "much")
)
refused_file(
    "a name that is a path", "a.csv", GOOD, "--name '../a' is not a plain name", options=("a.csv", "--name", "../a")
)
refused_file(
    "a batch of nothing",
    "a.csv",
    GOOD,
    "--strategy smart takes --batch-size, 1 or more",
    options=("a.csv", "--batch-size", "0"),
)
refused_file(
    "a budget without tokens",
    "a.csv",
    GOOD,
    "--strategy budget takes --max-tokens",
    options=("a.csv", "--strategy", "budget"),
)


@refused(
    "a holdout beside a test split", ["--holdout", "0.5"], "--holdout takes part of a lone split 'train'", "test, train"
)
def _() -> str:
    write("d/test.csv", GOOD)
    write("d/train.csv", GOOD)
    return "d"


@refused("numbers as text in parquet", [], "split 'train': the text column holds int64, expected text; see --text")
def _() -> str:
    return write_parquet("a.parquet", text=[1, 2], label=[0, 1])


@refused("lists as text", [], "split 'train': the text column holds list")
def _() -> str:
    return write_parquet("a.parquet", text=[["word1"], ["word2"]], label=[0, 1])


@refused("text in parquet that is not UTF-8", [], "cannot read a.parquet", "UTF8")
def _() -> str:
    broken = pa.array([b"word1", b"caf\xe9"]).view(pa.string())
    return write_parquet("a.parquet", text=broken, label=[0, 1])


@refused("dates as labels", [], "row 0 of split 'train' (counted from 0) has the label", "not a class but a date")
def _() -> str:
    return write_parquet("a.parquet", text=["word1"], label=pa.array([5], pa.date32()))


@refused("a folder that is a file in the way", [], "cannot write cache")
def _() -> str:
    write("cache", "a file")
    return write("a.csv", GOOD)


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_input_is_refused_with_what_where_and_the_way_out(prep: Prep, case: str) -> None:
    """Exit code 2 (1 where the file system refuses), one message, nothing left behind."""
    make, options, message = REFUSED[case]
    source = make()
    if case == "two files of one split":
        write("d/train.jsonl", [])
    named, options = (options[0], options[1:]) if options and not options[0].startswith("--") else (source, options)
    done = build(prep, named, *options)
    assert done.code == (1 if "cannot write" in message[0] else 2), done
    for part in message:
        assert part in done.err
    assert done.err.lower().startswith(("error: ", "usage: "))
    assert "Traceback" not in done.err
    assert len(done.err) < 2000
    assert done.out == ""
    left = Path("cache")
    assert not left.is_dir() or not list(left.iterdir())
