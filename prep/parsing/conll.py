"""Files of tagged words as CoNLL's shared tasks have them: a word per line, its tag last, a blank line after each
sentence.

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

Cells are separated by a tab or by spaces. The columns are called tokens, 2, 3, … and tags. Lines that begin with
-DOCSTART- are passed over.
"""

import io
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from cache.errors import InputError

from .diagnose import row_too_long
from .formats import open_unpacked
from .remote_path import SourcePath

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_SENTENCES = 1 << 14
DOCUMENT = "-DOCSTART-"


def conll_names(path: SourcePath, row_bytes: int) -> list[str]:
    """The columns of a file, by its first word; a line may be `row_bytes` long.

    Raises:
        InputError: it has no word, or its first one no tag.
    """
    first = next(_sentences(path, row_bytes), None)
    if first is None:
        raise InputError(
            f"{path}: holds no words; expected a word per line, its tag last, a blank line after a sentence"
        )
    return ["tokens", *map(str, range(2, len(first[0]))), "tags"]


def read_conll(path: SourcePath, columns: list[str], row_bytes: int) -> Iterator["pa.RecordBatch"]:
    """Some columns of a file: a row per sentence, each column a list of text."""
    import pyarrow as pa

    positions = [conll_names(path, row_bytes).index(name) for name in columns]
    kind = pa.list_(pa.string())
    sentences = _sentences(path, row_bytes)
    while part := list(islice(sentences, BATCH_SENTENCES)):
        lists = [pa.array([[cells[position] for cells in words] for words in part], kind) for position in positions]
        yield pa.RecordBatch.from_arrays(lists, columns)


def _sentences(path: SourcePath, row_bytes: int) -> Iterator[list[list[str]]]:
    """Sentences as lists of words, words as lists of cells, the same number throughout."""
    words: list[list[str]] = []
    count = 0
    with io.TextIOWrapper(open_unpacked(path), encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(iter(lambda: file.readline(row_bytes), ""), 1):
            if len(line) == row_bytes:
                raise row_too_long(path, row_bytes)
            text = line.strip(" \t\r\n")
            if not text and words:
                yield words
                words = []
            if not text or text.startswith(DOCUMENT):
                continue
            cells = line.rstrip("\r\n").split("\t") if "\t" in text else text.split(" ")
            cells = [cell for cell in cells if cell]
            count = count or len(cells)
            if len(cells) != count or count < 2:
                raise InputError(
                    f"{path}, line {number}: {len(cells)} cells in {text[:60]!r}, expected {max(count, 2)}: a word and "
                    "its tag, columns between them allowed, as many in every line"
                )
            words.append(cells)
    if words:
        yield words
