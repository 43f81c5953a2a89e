"""Standard input as a source."""

import contextlib
import shutil
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa

from cache.common.files import storage_errors
from cache.common.forked import Forked
from cache.errors import InputError

from ..columns import Columns
from ..corpus.source import STDIN, Source
from .local import open_file


def open_stdin(asked: Columns, forked: Forked) -> Source:
    """JSON lines from standard input, or csv where the user says what separates the cells. They are kept in a temporary
    file until the source is forgotten, for they may be read more than once.

    Raises:
        InputError: it is a terminal; or as `open_file`.
        StorageError: the temporary file cannot be written.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError("standard input is a terminal, expected JSON lines: prep build - --name NAME < FILE")
    folder = Path(mkdtemp(prefix="prep-stdin-"))
    path = folder / ("stdin.jsonl" if asked.cells.delimiter is None else "stdin.csv")
    try:
        with storage_errors(path), path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        with _named_stdin(path):
            source = open_file(STDIN, path, asked, forked)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def stream() -> Iterator[pa.RecordBatch]:
        with _named_stdin(path):
            yield from source.splits["train"]()

    weakref.finalize(stream, shutil.rmtree, folder, ignore_errors=True)
    return replace(source, splits={"train": stream})


@contextlib.contextmanager
def _named_stdin(path: Path) -> Iterator[None]:
    """Let messages name standard input, not the temporary file."""
    try:
        yield
    except InputError as error:
        of_file = f" {path.name} > utf8-{path.name}"  # what `utf8_remedy` ends with
        json = "expected one JSON object per line"
        message = str(error).replace(of_file, "").replace(json, f"{json}, or csv with --delimiter ','")
        raise InputError(message.replace(str(path), "standard input")) from error
