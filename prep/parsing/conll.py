"""Files of tagged words as CoNLL's shared tasks have them: a word per line, its tag last, a blank line after each
sentence.

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

Cells are separated by tabs or by spaces, as in the file's first line of a word. The columns are called tokens, 2, 3, …
and tags. Lines that begin with -DOCSTART- are passed over, and so are comments: lines before a sentence that begin with
# and have another number of cells.

A .conllu file has the columns of CoNLL-U (https://universaldependencies.org/format.html), called as in the Hub's
dataset universal_dependencies. Ranges of words such as 2-3 and empty nodes such as 4.1 are no words, and passed over.
"""

import io
import re
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from cache.errors import InputError

from .diagnose import row_too_long
from .formats import open_unpacked
from .remote_path import SourcePath

BATCH_SENTENCES = 1 << 14
DOCUMENT = "-DOCSTART-"
CONLL, CONLLU = "conll", "conllu"
"""The two kinds of such files."""
CONLLU_NAMES = ("idx", "tokens", "lemmas", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of CoNLL-U."""
NO_WORD = re.compile("[0-9]+[-.][0-9]+")
"""The number of a range of words or an empty node in CoNLL-U."""


def conll_names(path: SourcePath, kind: str, row_bytes: int) -> list[str]:
    """The columns of a file of one of the two kinds, by its first word; a line may be `row_bytes` long.

    Raises:
        InputError: it has no word, or its first one no tag.
    """
    first = next(_sentences(path, kind, row_bytes), None)
    if first is None:
        raise InputError(
            f"{path}: holds no words; expected a word per line, its tag last, a blank line after a sentence"
        )
    return list(CONLLU_NAMES) if kind == CONLLU else ["tokens", *map(str, range(2, len(first[0]))), "tags"]


def read_conll(path: SourcePath, kind: str, columns: list[str], row_bytes: int) -> Iterator[pa.RecordBatch]:
    """Some columns of a file: a row per sentence, each column a list of text."""
    names = conll_names(path, kind, row_bytes)
    positions = [names.index(name) for name in columns]
    sentences = _sentences(path, kind, row_bytes)
    while part := list(islice(sentences, BATCH_SENTENCES)):
        lists = [[[cells[position] for cells in words] for words in part] for position in positions]
        arrays = [pa.array(values, pa.list_(pa.string())) for values in lists]
        yield pa.RecordBatch.from_arrays(arrays, columns)


def _sentences(path: SourcePath, kind: str, row_bytes: int) -> Iterator[list[list[str]]]:
    """Sentences as lists of words, words as lists of cells, the same number throughout."""
    tabs, count = (True, len(CONLLU_NAMES)) if kind == CONLLU else (False, 0)
    words: list[list[str]] = []
    first: list[str] = []  # lines that may be comments or words: it shows in the first line that is a word
    for number, line in _lines(path, row_bytes):
        text = line.strip(" \t\r\n")
        if not text and words:
            yield words
            words = []
        if not text:
            first = []
        if not text or text.startswith(DOCUMENT):
            continue
        if text.startswith("#") and not count:
            first.append(line)
            continue
        if not count:
            tabs = "\t" in text
            count = max(len(_cells(line, tabs)), 2)
            words = [cells for cells in (_cells(line, tabs) for line in first) if len(cells) == count]
        cells = _cells(line, tabs)
        comment = text.startswith("#") and not words and (len(cells) != count or kind == CONLLU)
        if comment or (kind == CONLLU and NO_WORD.fullmatch(cells[0])):
            continue
        if len(cells) != count:
            raise InputError(
                f"{path}, line {number}: {len(cells)} cells in {text[:60]!r}, expected {count}: a word and its tag, "
                "columns between them allowed, as many in every line"
            )
        words.append(cells)
    if words:
        yield words


def _cells(line: str, tabs: bool) -> list[str]:
    return [cell for cell in (line.rstrip("\r\n").split("\t") if tabs else line.strip(" \t\r\n").split(" ")) if cell]


def _lines(path: SourcePath, row_bytes: int) -> Iterator[tuple[int, str]]:
    with io.TextIOWrapper(open_unpacked(path), encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(iter(lambda: file.readline(row_bytes), ""), 1):
            if len(line) == row_bytes:
                raise row_too_long(path, row_bytes)
            yield number, line
