"""The files that users bring: several, globs, standard input, packed ones, other separators, lists of JSON."""

import bz2
import csv
import gzip
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cache import open_cache
from cache.common.table_files import Cells
from prep import build_cache
from prep.columns import Columns, Stream, parts
from prep.parsing import json_files
from prep.parsing.csv_quotes import QuotePairs
from prep.sources.opening import open_source

from ..helpers.commands import GOOD, Prep, build, write, write_parquet, zipped
from ..helpers.tokenizers import write_tokenizer

ROWS = [([2, 6, 3], "x"), ([2, 7, 3], "y")]
"""Those of GOOD."""
OBJECTS = [{"text": "word1", "label": "x"}, {"text": "word2", "label": "y"}]
LINES = "".join(json.dumps(row) + "\n" for row in OBJECTS)


# --- one file


READ = {
    "tab": ("a.tab", GOOD.replace(",", "\t"), ()),
    "zst": ("a.csv.zst", pa.compress(GOOD.encode(), "zstd", asbytes=True), ()),
    "jsonl in zst": ("a.jsonl.zst", pa.compress(LINES.encode(), "zstd", asbytes=True), ()),
    "zst in two frames": (
        "a.csv.zst",
        b"".join(pa.compress(part.encode(), "zstd", asbytes=True) for part in (GOOD[:15], GOOD[15:])),
        (),
    ),
    "bz2": ("a.csv.bz2", bz2.compress(GOOD.encode()), ()),
    "semicolons": ("a.csv", GOOD.replace(",", ";"), ("--delimiter", ";")),
    "txt with bars": ("a.txt", GOOD.replace(",", "|"), ("--delimiter", "|")),
    "txt with tabs": ("a.txt", GOOD.replace(",", "\t"), ("--delimiter", "\\t")),
    "txt in gz": ("a.txt.gz", gzip.compress(GOOD.replace(",", "|").encode()), ("--delimiter", "|")),
    "a JSON list": ("a.json", json.dumps(OBJECTS), ()),
    "a JSON list over lines": ("a.json", "\ufeff\n " + json.dumps(OBJECTS, indent=2) + "\n\n", ()),
    "a JSON list called jsonl": ("a.jsonl", json.dumps(OBJECTS), ()),
    "a JSON list in gz": ("a.json.gz", gzip.compress(json.dumps(OBJECTS).encode()), ()),
    "a JSON list with other fields": (
        "a.json",
        json.dumps([{"id": 1.5, "more": [{"a": "]},"}], **OBJECTS[0]}, {"id": 10**30, "more": None, **OBJECTS[1]}]),
        (),
    ),
}


@pytest.mark.parametrize("case", READ)
def test_a_file_is_read(prep: Prep, case: str) -> None:
    name, data, options = READ[case]
    done = build(prep, write(name, data), *options)
    assert (done.code, done.err) == (0, "")
    assert done.rows() == ROWS


ZIPS = {
    "a.zip": {"reviews.csv": GOOD},
    "a.csv.zip": {"reviews.tsv": GOOD.replace(",", "\t")},
    "b.zip": {"reviews/": "", "reviews/a.jsonl": LINES, "__MACOSX/reviews/._a.jsonl": "junk", ".DS_Store": "junk"},
    "c.zip": {"rows.json": json.dumps(OBJECTS)},
}


@pytest.mark.parametrize("name", ZIPS)
def test_the_one_file_of_a_zip_archive_is_read(prep: Prep, name: str) -> None:
    done = build(prep, zipped(name, ZIPS[name]))
    assert (done.code, done.err) == (0, "")
    assert done.rows() == ROWS


def test_an_archive_in_a_folder_is_read_where_its_name_says_what_it_holds(prep: Prep) -> None:
    write("d/train.csv", GOOD)
    zipped("d/test.csv.zip", {"rows.csv": GOOD})
    zipped("d/download.zip", {"train.csv": GOOD})
    done = build(prep, "d")
    assert [done.rows("train"), done.rows("test")] == [ROWS, ROWS]
    assert "not read: download.zip; if it holds rows, call it something like rows.csv.zip" in done.err


def test_folders_of_tables_beside_tables_are_named(prep: Prep) -> None:
    for name in ("d/train.csv", "d/test/0.csv", "d/.git/a.csv", "d/notes/a.txt"):
        write(name, GOOD)
    done = build(prep, "d")
    assert done.code == 0
    assert list(open_cache("cache/a")) == ["train"]
    assert done.err == "not read: the table files in test; name files and folders to build from both\n"
    assert build(prep, "train=d/train.csv", "test=d/test", "--force").err == ""


def test_a_long_list_of_json_is_read_in_parts(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.parsing.json_files.PART_CHARACTERS", 7)
    labels = ("x", "a\nb", "y")
    rows = [{"text": f'word{row} "[{{,é\\' * (row % 5), "label": labels[row % 3]} for row in range(50)]
    write("a.json", json.dumps(rows, ensure_ascii=False, indent=1))
    write("b.jsonl", rows)
    done = build(prep, "a.json")
    assert (done.code, done.err.partition(",")[0]) == (0, "warning: 10 rows without text")
    assert len(done.rows()) == 50
    assert build(prep, "b.jsonl", "--out", "lines").code == 0
    shard = "a/train/shard-00000.safetensors"
    assert Path("cache", shard).read_bytes() == Path("lines", shard).read_bytes()


def test_a_list_of_json_is_read_wherever_its_parts_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x" * (7 * number % 41)} for number in range(30)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    for characters in range(5, 60):
        monkeypatch.setattr(json_files, "PART_CHARACTERS", characters)
        lines = b"".join(json_files._list_lines(path, 1 << 20)).splitlines()
        assert list(map(json.loads, lines)) == rows, characters


@pytest.mark.parametrize("between", ["", "\n"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_objects_are_read_wherever_blocks_end(
    prep: Prep, monkeypatch: pytest.MonkeyPatch, indent: int | None, between: str, mark: str
) -> None:
    """Each on a line or on several, or all on one."""
    monkeypatch.setattr("prep.parsing.readers.BLOCK_BYTES", 50)
    write("a.json", mark + between.join(json.dumps(row, indent=indent) for row in OBJECTS * 9))
    assert build(prep, "a.json").rows() == ROWS * 9


@pytest.mark.parametrize(
    ("first", "task", "labels"),
    [(4, "regression", [4.5, 4.0]), (None, "classification", [1, 0]), (None, "classification", [True, False])],
)
def test_labels_in_json_may_look_different_at_first(
    prep: Prep, monkeypatch: pytest.MonkeyPatch, first: int | None, task: str, labels: list[float]
) -> None:
    """Whole numbers, or nulls, in the part of a file by which the types of its columns are chosen."""
    monkeypatch.setattr("prep.parsing.json_files.HEAD_BYTES", 100)
    late = [{"text": "word1", "label": label} for label in labels]
    write("a.jsonl", [*({"text": "word2", "label": first} for _ in range(9)), *late])
    assert build(prep, "a.jsonl", "--missing", "drop").code == 0
    cache = open_cache("cache/a")
    assert cache.manifest.task.kind == task
    found = {row.source_row: row.label for row in cache["train"]}
    assert [found[9], found[10]] == labels
    assert len(found) == (11 if first else 2)


def test_a_first_object_may_be_longer_than_the_part_that_is_looked_at(
    prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prep.parsing.json_files.HEAD_BYTES", 100)
    write("a.jsonl", [{"text": "word1 " * 100, "labels": ["x"]}, {"text": "word2", "labels": ["x", "y"]}])
    assert build(prep, "a.jsonl").code == 0
    assert {row.source_row: row.label for row in open_cache("cache/a")["train"]} == {0: [1, 0], 1: [1, 1]}


def refused(prep: Prep, *arguments: str) -> str:
    done = build(prep, *arguments)
    assert (done.code, done.out) == (2, ""), done
    assert "Traceback" not in done.err
    assert len(done.err) < 2000
    assert not Path("cache").exists() or not list(Path("cache").iterdir())
    return done.err


WRONG_LISTS = {
    '[{"text": "word1", "label": "x"}, 5]': "row 1 of its list (counted from 0): 5 is not an object",
    '[["word1", "x"]]': 'row 0 of its list (counted from 0): ["word1", "x"] is not an object',
    '[{"text": "word1", "label": "x"}': "row 1 of its list (counted from 0): a comma or the end of the list is missing",
    '[{"text": "word1", "label": "x"},': "row 1 of its list (counted from 0): Expecting value",
    '[{"text": "word1" "label": "x"}]': "row 0 of its list (counted from 0): Expecting ',' delimiter",
    '[{"text": "word1", "label": "x"}]\n[]': "'[]' comes after its list",
    "[" * 5000: "row 0 of its list (counted from 0): maximum recursion depth",
    "[]": "Empty JSON",
    '[{"text": "word1", "label": "x"}, {"text": "word1", "label": 1}]': "from string to number, at row 1 of the file",
}


@pytest.mark.parametrize("data", WRONG_LISTS)
def test_a_list_of_json_that_is_wrong_is_refused(prep: Prep, data: str) -> None:
    message = refused(prep, write("a.json", data))
    assert "cannot read a.json" in message
    assert WRONG_LISTS[data] in message


def test_what_is_wrong_with_an_archive_is_said(prep: Prep) -> None:
    both = refused(prep, zipped("a.zip", {"train.csv": GOOD, "test.csv": GOOD}))
    assert "a.zip holds 2 files (train.csv, test.csv), expected one; unzip it and build from the folder" in both
    assert "a.zip holds 0 files, expected one" in refused(prep, zipped("a.zip", {}))
    assert "a.zip holds photo.jpg: of no known kind" in refused(prep, zipped("a.zip", {"photo.jpg": "x"}))
    assert "parquet is not read from archives; unzip it" in refused(prep, zipped("a.zip", {"a.parquet": "x"}))
    assert "cannot read b.zip: File is not a zip file" in refused(prep, write("b.zip", GOOD))
    data = Path(zipped("c.zip", {"a.csv": GOOD * 1000})).read_bytes()
    assert "cannot read c.zip" in refused(prep, write("c.zip", data[:60] + bytes(20) + data[80:]))
    locked = bytearray(Path(zipped("d.zip", {"a.csv": GOOD})).read_bytes())
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert "cannot read d.zip: it is encrypted" in refused(prep, write("d.zip", bytes(locked)))


def test_what_is_wrong_with_packed_files_is_said(prep: Prep) -> None:
    assert "cannot read a.csv.zst" in refused(prep, write("a.csv.zst", GOOD))
    latin = pa.compress("text,label\ncafé,x\n".encode("latin1"), "zstd", asbytes=True)
    assert "a.csv.zst: not UTF-8 text at byte 14" in refused(prep, write("a.csv.zst", latin))
    ragged = pa.compress(b"text,label\nword1\n", "zstd", asbytes=True)
    assert "has 1 cells, the header has 2" in refused(prep, write("a.csv.zst", ragged))
    assert "a.parquet.zst: of no known kind" in refused(prep, write("a.parquet.zst", ragged))


def test_a_delimiter_is_asked_for_and_only_where_it_counts(prep: Prep) -> None:
    bars = GOOD.replace(",", "|")
    assert "say what separates its cells: --delimiter ';'" in refused(prep, write("a.txt", bars))
    assert "Pass --delimiter '|'" in refused(prep, write("a.csv", bars))
    assert "Pass --delimiter '\\t'" in refused(prep, write("a.csv", GOOD.replace(",", "\t")))
    assert "--delimiter is for csv and text files, but a.jsonl is neither" in refused(
        prep, write("a.jsonl", OBJECTS), "--delimiter", "|"
    )
    assert "--delimiter is for csv and text files, but imdb is neither" in refused(prep, "imdb", "--delimiter", "|")
    for mark in ("||", "é", '"', "\n", ""):
        assert "is not one character such as ';'" in refused(prep, "a.csv", "--delimiter", mark)


def test_another_delimiter_is_another_cache(prep: Prep) -> None:
    write("a.csv", "text,label;text,label\nword1,x;word2,y\n")
    assert build(prep, "a.csv", "--delimiter", ";", "--text", "text,label", "--label", "x").code == 2
    write("a.csv", "text,label\nword1,x\nword2,y\n")
    assert build(prep, "a.csv").code == 0
    again = build(prep, "a.csv", "--delimiter", ",")
    assert again.code == 2
    assert "delimiter None there, ',' asked for" in again.err


# --- quotes

STRAY = ['"word1', 'word2 "word3"', 'word4"', 'word5 "', "word6", '""word7""', '"word8"']


def csv_rows(path: str, quoting: Any) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=quoting))


def stream_of(path: str, quotes: bool | None) -> Stream:
    return open_source(path, Columns(cells=Cells(quotes=quotes)), 1 << 28).splits["train"]


def rows_of(stream: Stream) -> list[dict[str, str]]:
    return [row for batch in stream() for row in batch.to_pylist()]


def test_quotes_that_are_text_are_read_as_such(prep: Prep) -> None:
    """As by Python's csv module without quoting, whole and in parts."""
    drawn = random.Random(0)
    rows = [f"{drawn.choice(STRAY)} word9\t{drawn.choice('xy')}" for _ in range(60)]
    path = write("a.tsv", "text\tlabel\n" + "\n".join(rows) + "\n")
    expected = csv_rows(path, csv.QUOTE_NONE)
    assert len(expected) == 60
    stream = stream_of(path, False)
    assert rows_of(stream) == expected
    cut = parts(stream, 100)
    assert len(cut) == 10
    assert [row for part in cut for row in rows_of(part)] == expected
    assert build(prep, path, "--no-quotes").code == 0
    assert "quotes False there, None asked for" in build(prep, write("a.tsv", GOOD.replace(",", "\t"))).err


def test_two_quotes_that_would_make_one_cell_of_several_rows_are_refused(prep: Prep) -> None:
    """In a column that is not read, too; unless the cell is meant to be so."""
    lines = ["id\ttext\tlabel", '1\t"word1\tx', '2\tword2"\ty', "3\tword3\tx"]
    for name, order in (("a.tsv", (0, 1, 2)), ("b.tsv", (1, 0, 2))):
        cells = [line.split("\t") for line in lines]
        path = write(name, "".join("\t".join(row[i] for i in order) + "\n" for row in cells))
        error = refused(prep, path, *(("--text", "id") if name == "b.tsv" else ()))
        assert f"{name}: row 0 (counted from 0) holds tabs and 1 line break in 'text', 'word1\\t" in error
        assert "pass --no-quotes" in error
        assert "pass --quotes" in error
        assert rows_of(stream_of(path, True)) == [
            {"text": row["text"], "label": row["label"]} for row in csv_rows(path, csv.QUOTE_MINIMAL)
        ]
    assert build(prep, "a.tsv", "--no-quotes", "--out", "first").code == 0
    write("c.tsv", 'text\tlabel\n"word1\nword2"\tx\n"word1\tword2"\ty\n')
    assert build(prep, "c.tsv", "--out", "other").code == 0
    assert "--no-quotes is for csv and text files, but d.jsonl" in refused(
        prep, write("d.jsonl", OBJECTS), "--no-quotes"
    )
    assert "--quotes is for csv and text files, but imdb" in refused(prep, "imdb", "--quotes")


def test_a_quote_that_text_follows_does_not_end_a_cell_of_several_rows(prep: Prep) -> None:
    """Other quotes in the middle of texts are read as by Python's csv module."""
    path = write("a.csv", 'text,label\nword1,x\n"word2,y\nword3,x\nword4" word5,y\n')
    error = refused(prep, path)
    assert "a.csv: lines 3 to 5 are one row" in error
    assert "pass --no-quotes; where the row is right so, pass --quotes" in error
    assert [len(rows_of(stream_of(path, quotes))) for quotes in (True, False)] == [2, 4]
    path = write("b.csv", 'text,label\n"word1" word2,x\nword3 5" word4,y\n"word1\nword2",x\n7" word5,x\n')
    with Path(path).open(newline="") as file:
        assert rows_of(stream_of(path, None)) == list(csv.DictReader(file))


def test_quotes_that_are_written_with_backslashes_are_refused_with_the_way_out(prep: Prep) -> None:
    path = write("a.csv", 'text,label\nword1,x\n"word2 \\"word3\\" word4",x\n"word5\\\\",y\n')
    error = refused(prep, path)
    assert 'the row that begins on line 3 are written as \\", expected ""' in error
    command = error.partition("throughout: ")[2].partition(" FILE")[0]
    assert command == """sed 's/\\\\"/""/g'"""
    assert len(rows_of(stream_of(path, True))) == 3
    write("a.csv", 'text,label\nword1,x\n"word2 \\"word3\\", word4",x\n')
    assert 'line 3 are written as \\"' in refused(prep, path), "also where it makes a cell too many"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 100])
def test_quotes_are_found_to_be_in_pairs_wherever_pieces_end(size: int) -> None:
    def fit(data: str) -> bool:
        pairs, content = QuotePairs(","), data.encode()
        return all(pairs.fit(content[begin : begin + size]) for begin in range(0, len(content), size))

    assert fit('"text","label"\r\n"a,\r\nb","x"\r\n"c ""d"" e",""\r\n"""f""",x\n')
    assert not any(map(fit, ['text\n"a\nb" c\n', 'text\n5" c\n', 'text\n"a" b\n', 'text\n"a"b"\n', 'text\n""a""\n']))


def test_a_row_that_is_cut_wrongly_names_both_ways_out(prep: Prep) -> None:
    path = write("a.csv", 'text,label\n"word1,x\nword2" word3,y,z\n')
    assert "where quotes are part of the text, pass --no-quotes" in refused(prep, path)
    assert "quote such texts and leave out --no-quotes" in refused(prep, path, "--no-quotes")


# --- several files


def test_files_without_splits_are_parts_of_train_in_their_order(prep: Prep) -> None:
    write("b.csv", "text,label\nword1,x\n")
    write("a.jsonl", [{"text": "word2", "label": "y"}])
    done = build(prep, "b.csv", "a.jsonl")
    assert (done.code, done.err, done.rows()) == (0, "", ROWS)
    assert open_cache("cache/a").manifest.source["argument"] == ["b.csv", "a.jsonl"]
    assert "b.csv a.jsonl, tokenizer tok" in done.out
    assert build(prep, "b.csv", "a.jsonl").out.startswith("cache/a is up to date")
    other = build(prep, "a.jsonl", "b.csv")
    assert "the content of the source's files" in other.err, "their order counts"


def test_small_files_are_read_together_and_large_ones_alone(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, word in enumerate("12345"):
        write(f"{part}.csv", f"text,label\nword{word},x\n" + f"word{word},y\n" * (part == 2))
    expected = build(prep, "*.csv").rows()
    monkeypatch.setattr("prep.sources.files.BATCH_BYTES", 45)
    assert build(prep, "*.csv", "--force").rows() == expected
    assert [ids[1] - 5 for ids, _ in expected] == [1, 2, 3, 3, 4, 5]


def test_files_have_the_splits_that_are_named(prep: Prep) -> None:
    for name in ("one", "two", "three"):
        write(f"{name}.csv", GOOD)
    write("extra=1.csv", GOOD)
    done = build(prep, "train=one.csv", "test=two.csv", "train=three.csv", "extra=extra=1.csv")
    assert (done.code, done.err) == (0, "")
    assert list(open_cache("cache/a")) == ["train", "test", "extra"]
    assert done.rows() == ROWS * 2
    assert done.rows("test") == done.rows("extra") == ROWS
    assert build(prep, "extra=1.csv", "--out", "other").code == 0, "a file of that name"


def test_globs_are_files_and_their_names_say_the_splits(prep: Prep) -> None:
    for part in range(3):
        write(f"data/train-{part:05}-of-00003.csv", GOOD)
    write("data/test-00000-of-00001.csv", GOOD)
    write("data/.hidden.csv", "")
    done = build(prep, "data/*.csv")
    assert (done.code, done.err, len(done.rows())) == (0, "", 6)
    assert set(open_cache("cache/a")) == {"train", "test"}
    assert "cache/data" in prep("build", "data/*.csv", "--tokenizer", "tok").out, "named as the folder is"
    write("part[1].csv", GOOD)
    assert build(prep, "part[1].csv", "--out", "other").code == 0, "a file of that name"
    done = build(prep, "train=data/train-*.csv", "dev=data/test*", "--out", "third")
    assert list(open_cache("third/a")) == ["train", "dev"]


def test_several_files_that_leave_it_open_are_refused(prep: Prep) -> None:
    for name in ("a.csv", "b.csv", "train.csv"):
        write(name, GOOD)
    write_parquet("c.parquet", text=["word1"], other=["x"])
    Path("empty").mkdir()
    assert "some names say which split they are (a.csv) and some do not (b.csv)" in refused(
        prep, "train=a.csv", "b.csv"
    )
    assert "some names say which split they are (train.csv) and some do not (a.csv)" in refused(
        prep, "a.csv", "train.csv"
    )
    assert "a.csv is given twice; name each file once" in refused(prep, "a.csv", "*.csv")
    assert "there is no file 'data/*.csv'" in refused(prep, "data/*.csv")
    assert "there is no file 'imdb'" in refused(prep, "a.csv", "imdb")
    assert "would be the split 'my split', which is not a valid name for a split" in refused(prep, "my split=a.csv")
    assert "empty holds no table files" in refused(prep, "train=empty")
    assert "c.parquet has no column 'label' for --label" in refused(prep, "train=a.csv", "test=c.parquet")


def test_files_are_named_from_python_too(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tok")
    for name in ("a.csv", "b.csv"):
        write(str(tmp_path / name), GOOD)
    files = {"train": tmp_path / "a.csv", "test": str(tmp_path / "b.csv")}
    built = build_cache(files, out=tmp_path / "caches", tokenizer=str(tmp_path / "tok"), quiet=True, name="a")
    assert list(built) == ["train", "test"]


# --- standard input


def from_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_read_and_leaves_no_file(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", "temporary")
    from_stdin(monkeypatch, b'{"text": "caf\xe9", "label": 1}')
    assert refused(prep, "-").startswith(
        "error: standard input: not UTF-8 text at byte 13; convert it first, for example: iconv -f cp1252 -t utf-8\n"
    )
    from_stdin(monkeypatch, b"")
    assert "cannot read standard input: Empty JSON" in refused(prep, "-")
    from_stdin(monkeypatch, GOOD.encode())
    assert "expected one JSON object per line, or csv with --delimiter ','" in refused(prep, "-")
    for expected in ("built cache/a", "cache/a is up to date"):
        from_stdin(monkeypatch, LINES.encode())
        done = build(prep, "-", "--holdout", "0.5", "--task", "mlm")
        assert done.code == 0
        assert expected in done.out
    assert open_cache("cache/a").manifest.source["argument"] == "-"
    from_stdin(monkeypatch, GOOD.replace(",", ";").encode())
    assert build(prep, "-", "--delimiter", ";", "--out", "other").code == 0
    assert list(Path("temporary").iterdir()) == []


def test_standard_input_takes_a_name_and_is_no_terminal(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    done = prep("build", "-")
    assert (done.code, done.out) == (2, "")
    assert "--name is missing, for text from standard input has none; pass --name NAME" in done.err
    one, other = os.openpty()
    try:
        with open(other, encoding="utf-8", closefd=False) as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            assert "standard input is a terminal, expected JSON lines" in refused(prep, "-")
    finally:
        os.close(one)
        os.close(other)
