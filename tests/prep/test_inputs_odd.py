"""Odd but sound inputs, each through the real command: built, with the ids that transformers gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import open_cache

from ..helpers.builds import ids_by_transformers
from ..helpers.commands import GOOD, Prep, build, csv_of, write, write_parquet

ODD_TEXTS = {
    "empty": "",
    "spaces": "   ",
    "white space": " \t\n\u3000\u2028 ",
    "special tokens typed by a user": "[CLS] word1 [SEP] word2 [PAD] [PAD] [MASK]",
    "special tokens alone": "[CLS] [SEP] [PAD]",
    "special tokens in parts": "[CLS [ SEP] [cls] [PAD][PAD]",
    "a NUL byte": "word1\0word2 \0 word3",
    "control characters": "word1\x01\x02\x7f\x9f word2\x1b[31m",
    "quotes": 'word1 "word2" \'word3\' "" word4',
    "commas": "word1, word2,,word3",
    "line breaks": "word1\nword2\n\nword3",
    "carriage returns": "word1\r\nword2\rword3",
    "a byte order mark": "\ufeffword1",
    "right to left": "word1 שלום عالم \u202eword2\u202c",
    "combining characters": "wo\u0301rd1 e\u0301\u0327 word2",
    "emoji": "word1 🙂👩‍🚀🏳️‍🌈 word2",
    "Chinese": "word1中文word2",
    "letters beyond the basic plane": "𝐰𝐨𝐫𝐝𝟏 \U00020000 word1",
    "numbers as text": "12345",
    "not a number": "NaN",
    "null in letters": "null",
    "a very long word": "word1" * 5000,
    "HTML": "word1<br /><br />&amp;word2",
    "a formula": "=1+1",
    "noncharacters": "word1 \ufffe\uffff word2",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_odd_texts_get_the_ids_that_transformers_gives_them(prep: Prep, ending: str) -> None:
    texts, labels = (
        [*ODD_TEXTS.values(), "word2", "word3"],
        [f"class {number % 2}" for number in range(len(ODD_TEXTS) + 2)],
    )
    rows = list(zip(texts, labels, strict=True))
    if ending == "csv":
        write("a.csv", csv_of(rows))
    elif ending == "jsonl":
        write("a.jsonl", [{"text": text, "label": label} for text, label in rows])
    else:
        write_parquet("a.parquet", text=texts, label=labels)
    done = build(prep, f"a.{ending}")
    assert done.code == 0
    assert done.err.startswith("warning: 3 rows without text")
    found = dict(zip([*ODD_TEXTS, "word2", "word3"], done.rows(), strict=True))
    expected = ids_by_transformers(texts, Path("tok"))
    assert found == dict(zip(found, zip(expected, labels, strict=True), strict=True))


FIRST, SECOND, DAY = {"text": "word1", "label": "x"}, {"text": "word2", "label": "y"}, "2020-01-01"
"""Rows as in GOOD."""
EXCHANGED = ("--text", "label", "--label", "text")
TAKEN: dict[str, tuple[str, bytes | str | list[Any], tuple[str, ...], str]] = {
    "a byte order mark before the header": ("a.csv", b"\xef\xbb\xbf" + GOOD.encode(), (), "x|y"),
    "a byte order mark in jsonl": ("a.jsonl", b'\xef\xbb\xbf{"text": "word1", "label": "x"}\n', (), "x"),
    "CRLF": ("a.csv", GOOD.replace("\n", "\r\n"), (), "x|y"),
    "no newline at the end": ("a.csv", GOOD.rstrip(), (), "x|y"),
    "blank lines": ("a.csv", GOOD.replace("\n", "\n\n"), (), "x|y"),
    "quoted headers": ("a.csv", GOOD.replace("text,label", '"text","label"'), (), "x|y"),
    "upper-case ending": ("a.CSV", GOOD, (), "x|y"),
    "columns of other types": ("a.csv", "id,text,score,label\n1,word1,,x\n2,word2,0.5,y\n", (), "x|y"),
    "other columns twice": ("a.csv", "id,text,id,label\n1,word1,1,x\n2,word2,1,y\n", (), "x|y"),
    "columns named like ours": ("a.csv", "input_ids,text,offsets,label\n1,word1,1,x\n2,word2,2,y\n", (), "x|y"),
    "label and text exchanged": ("a.csv", GOOD.replace("text,label", "label,text"), EXCHANGED, "x|y"),
    "fields that change type": ("a.jsonl", [{**FIRST, "z": 1}, {**SECOND, "z": [1]}], (), "x|y"),
    "text that looks like dates": ("a.jsonl", [{**FIRST, "text": DAY}, {**SECOND, "text": "2020-01-02"}], (), "x|y"),
    "labels that look like dates": ("a.jsonl", [{**FIRST, "label": DAY}, SECOND], (), f"{DAY}|y"),
    "whole floats and integers": ("a.jsonl", [{**FIRST, "label": 1}, {**SECOND, "label": 2.0}], (), "1|2"),
    "escapes in JSON": ("a.jsonl", '{"text": "\\ud83d\\ude42 word1", "label": "\\u0078"}\n', (), "x"),
    "numbers with leading zeros": ("a.csv", "text,label\nword1,007\nword2,7\n", (), "007|7"),
    "labels with spaces and signs": ("a.csv", 'text,label\nword1,"a, b"\nword2,--5\n', (), "a, b|--5"),
    "more letters than ASCII in labels": ("a.csv", "text,label\nword1,très bien 🙂\nword2,y\n", (), "très bien 🙂|y"),
    "no epochs": ("a.csv", GOOD, ("--epochs", "0"), "x|y"),
    "a limit beyond the rows": ("a.csv", GOOD, ("--limit", "99"), "x|y"),
    "half held out": ("a.csv", GOOD + "word3,x\nword4,y\n", ("--holdout", "0.5", "--limit", "4"), "|"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_an_odd_but_sound_input_is_built(prep: Prep, case: str) -> None:
    name, data, options, labels = TAKEN[case]
    done = build(prep, write(name, data), *options)
    assert (done.code, done.err.replace(ONE_CLASS, "")) == (0, "")
    found = [label for _, label in done.rows()]
    assert found == labels.split("|") or (case == "half held out" and sorted(found) == ["x", "y"])
    assert done.out.endswith("next: train run --cache cache/a\n")


ONE_CLASS = "warning: all rows have the label 'x': there is nothing to learn\n"


def test_max_length_3_keeps_a_single_token_of_the_text(prep: Prep) -> None:
    done = build(prep, write("a.csv", "text,label\nword1 word2 word3,x\nword2,y\n"), "--max-length", "3")
    assert done.rows() == [([2, 6, 3], "x"), ([2, 7, 3], "y")]


def test_one_row_and_one_class_are_built_with_a_warning(prep: Prep) -> None:
    done = build(prep, write("a.csv", "text,label\nword1,x\n"))
    assert (done.code, done.err) == (0, ONE_CLASS)
    assert done.rows() == [([2, 6, 3], "x")]


def test_a_label_seen_in_test_only_is_a_class_and_is_pointed_out(prep: Prep) -> None:
    write("d/test.csv", "text,label\nword1,z\n")
    write("d/train.csv", GOOD)
    done = build(prep, "d")
    assert (done.code, done.err) == (0, "warning: no row of 'train' has the label 'z'\n")
    assert open_cache("cache/a").manifest.task.label_names == ("x", "y", "z")
    assert done.rows("test") == [([2, 6, 3], "z")]


def test_a_split_without_rows_is_kept(prep: Prep) -> None:
    write("d/test.csv", "text,label\n")
    write("d/train.csv", GOOD)
    done = build(prep, "d")
    assert (done.code, done.err) == (0, "")
    assert done.rows("test") == []
    assert prep("info", "cache/a").code == prep("show", "cache/a", "--split", "test").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.faults)])
def test_a_class_for_every_row_is_built_and_wondered_at(prep: Prep, count: int) -> None:
    write("a.csv", "text,label\n" + "".join(f"word{number % 200},id{number:06}\n" for number in range(count)))
    done = build(prep, "a.csv")
    assert done.code == 0
    notes = [line for line in done.err.splitlines() if not line.startswith("tokenizing ")]  # on a slow machine
    assert notes == [
        f"warning: {count:,} classes in {count:,} rows; if that is not the label column, name it with --label"
    ]
    cache = open_cache("cache/a")
    assert len(cache.manifest.task.label_names) == count
    split = cache["train"]
    assert np.array_equal(np.sort(split.labels), np.arange(count))
    assert np.array_equal(split.labels, split.source_rows)
