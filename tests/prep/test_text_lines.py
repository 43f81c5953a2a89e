"""Files of plain text, a text per line, for masked language modelling."""

import gzip
import random
from pathlib import Path

import pyarrow as pa
import pytest

from cache import InputError, open_cache
from prep.parsing import cutting, text_lines
from prep.parsing.formats import LINES, TableFile
from prep.parsing.text_lines import read_lines

from ..helpers.commands import Done, Prep, build, write, write_parquet, zipped

TEXTS = "word1\n\nword2 word3\r\n \t \nword4"
ROWS = [[2, 6, 3], [2, 7, 8, 3], [2, 9, 3]]
"""The ids of TEXTS."""


def ids(done: Done, split: str = "train") -> list[list[int]]:
    """Ids of each row, in source order."""
    rows = sorted(open_cache(done.folder / "cache" / "a", verify=True)[split], key=lambda row: row.source_row)
    assert [row.source_row for row in rows] == list(range(len(rows)))
    return [row.input_ids.tolist() for row in rows]


def naive(text: str) -> list[str]:
    """As run_mlm.py has it with --line_by_line, of the lines that Python's own reading gives."""
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    return [line for line in lines if len(line) > 0 and not line.isspace()]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64, 1 << 20])
def test_lines_are_those_of_a_naive_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    """Wherever the blocks of bytes end: within a character, within a line end, in white space of any kind."""
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", block_bytes)
    generator = random.Random(block_bytes)
    pieces = ["\n", "\n", "\r\n", "\r", *" \t\x00\x0b\x85\u2028\ufeff", "a", "word", "é", "漢", "😀"]
    for number in range(60):
        text = "".join(generator.choices(pieces, k=generator.randrange(40)))
        path = tmp_path / f"{number}.txt"
        path.write_bytes(text.encode())
        batches = read_lines(TableFile(path, LINES, ","), 1 << 20)
        assert [line for batch in batches for line in batch.column("text").to_pylist()] == naive(text), repr(text)


@pytest.mark.parametrize("part_bytes", [1, 5, 30, 100, 200])
def test_a_file_is_cut_behind_the_line_in_which_a_part_ends(tmp_path: Path, part_bytes: int) -> None:
    data = b"".join(b"x" * length + b"\n" for length in (0, 3, 40, 1, 100, 2, 9))
    (tmp_path / "a.txt").write_bytes(data)
    expected = [0]
    for start in range(part_bytes, len(data), part_bytes):
        if start > expected[-1]:
            expected.append(data.index(b"\n", start) + 1)
    found = cutting._line_ends(tmp_path / "a.txt", len(data), part_bytes)
    assert found == [end for end in expected if 0 < end < len(data)]


READ = {
    "plain": ("notes.txt", TEXTS.encode()),
    "with a byte order mark": ("notes.txt", ("\ufeff" + TEXTS).encode()),
    "upper case": ("NOTES.TXT", TEXTS.encode()),
    "gz": ("notes.txt.gz", gzip.compress(TEXTS.encode())),
    "zst": ("notes.txt.zst", pa.compress(TEXTS.encode(), "zstd", asbytes=True)),
}


@pytest.mark.parametrize("case", READ)
def test_a_line_is_a_row(prep: Prep, case: str) -> None:
    name, data = READ[case]
    done = build(prep, write(name, data), "--task", "mlm")
    assert (done.code, done.err) == (0, "")
    assert ids(done) == ROWS
    assert build(prep, name, "--task", "mlm").out.startswith(f"{Path('cache', 'a')} is up to date")


def test_lines_come_from_archives_globs_several_files_and_folders(prep: Prep) -> None:
    """In a folder they count where it holds no other tables and no folders of texts."""
    assert ids(build(prep, zipped("a.zip", {"notes.txt": TEXTS}), "--task", "mlm")) == ROWS
    write("data/train.txt", TEXTS)
    write("data/test.txt", "word5\n")
    for sources in (["data/*.txt"], ["data"], ["data/train.txt", "data/test.txt"]):
        done = build(prep, *sources, "--task", "mlm", "--force")
        assert (ids(done), ids(done, "test")) == (ROWS, [[2, 10, 3]])
    done = build(prep, "train=data/train.txt", "train=data/test.txt", "--task", "mlm", "--force")
    assert ids(done) == [*ROWS, [2, 10, 3]]
    write_parquet("data/train.parquet", text=["word1"])
    assert ids(build(prep, "data", "--task", "mlm", "--force")) == [[2, 6, 3]]
    write("films/train/a.txt", "word1\nword2\n")
    write("films/notes.txt", "word5\n")
    done = build(prep, "films", "--task", "mlm", "--force")
    assert ids(done) == [[2, 6, 7, 3]]
    assert "is not read" not in done.err
    write("films/valid/label/a.txt", "word5")
    done = build(prep, "films", "--task", "mlm", "--force")
    assert ids(done, "validation") == [[2, 10, 3]]
    assert "each folder's name is not read: --task mlm takes no labels" in done.err


def test_lines_stand_beside_tables_with_a_column_text(prep: Prep) -> None:
    write("a.txt", TEXTS)
    write("b.jsonl", [{"text": "word5"}])
    assert ids(build(prep, "a.txt", "b.jsonl", "--task", "mlm")) == [*ROWS, [2, 10, 3]]
    write("b.jsonl", [{"body": "word5"}])
    assert "b.jsonl has no column 'text'" in build(prep, "a.txt", "b.jsonl", "--task", "mlm", "--force").err


WRONG = {
    "latin-1": ("a.txt", b"word1\ncaf\xe9\n", (), "a.txt: not UTF-8 text at byte 9; convert it first"),
    "latin-1 in gz": ("a.txt.gz", gzip.compress(b"word1\ncaf\xe9"), (), "a.txt.gz: not UTF-8 text at byte 9"),
    "utf-16": ("a.txt", "word1\n".encode("utf-16"), (), "iconv -f utf-16 -t utf-8 a.txt > utf8-a.txt"),
    "cut within a character": ("a.txt", "word1 é".encode()[:-1], (), "a.txt: not UTF-8 text at byte 6"),
    "cut gz": ("a.txt.gz", gzip.compress(TEXTS.encode())[:-12], (), "cannot read a.txt.gz"),
    "no text": ("a.txt", b"\n \n", (), "a.txt holds no rows"),
    "nothing": ("a.txt", b"", (), "a.txt holds no rows"),
    "another column": ("a.txt", b"word1\n", ("--text", "body"), "a.txt has no column 'body' for --text; it has 'text'"),
    "pairs": ("a.txt", b"word1\n", ("--text-pair", "b"), "a.txt has no column 'b' for --text-pair; it has 'text'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_lines_is_said(prep: Prep, case: str) -> None:
    name, data, options, message = WRONG[case]
    done = build(prep, write(name, data), "--task", "mlm", *options)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize("source", ["a.txt", "a.txt.gz", "*.txt", "notes"])
def test_without_labels_asked_for_the_ways_are_named(prep: Prep, source: str) -> None:
    write("a.txt", TEXTS)
    write("a.txt.gz", gzip.compress(TEXTS.encode()))
    write("notes/a.txt", TEXTS)
    done = build(prep, source)
    assert done.code == 2
    for way in ("--delimiter ';'", "rename it to .conll", "a text per line, pass --task mlm", "split/label/*.txt"):
        assert way in done.err


def test_a_delimiter_makes_a_table_of_it(prep: Prep) -> None:
    write("a.txt", "text|x\nword1|1\n\nword2|2\n")
    assert ids(build(prep, "a.txt", "--task", "mlm", "--delimiter", "|")) == [[2, 6, 3], [2, 7, 3]]


def test_a_line_longer_than_memory_allows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, whether it ends within a block or not."""
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 8)
    path = tmp_path / "a.txt"
    for text, longest in (("a" * 20 + "\nb", 20), ("b\n" + "a" * 20, 20), ("é" * 4 + "\n" + "a" * 3, 8)):
        path.write_bytes(text.encode())
        assert sum(batch.num_rows for batch in read_lines(TableFile(path, LINES, ","), longest)) == 2
        with pytest.raises(InputError, match=f"a row is longer than {longest - 1} bytes, the most for this --memory"):
            list(read_lines(TableFile(path, LINES, ","), longest - 1))
