"""Where files can be cut, so that several processes read one file.

jsonl, lines of text, csv without quotes    at the ends of lines; all of a csv file is read to see whether it has any,
                                            unless they are part of the text
parquet                                     between row groups
all others                                  nowhere: a quote may hold the end of a line, what is compressed is read
                                            from its beginning
"""

from codecs import BOM_UTF8
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cache.common.table_files import Cells
from cache.remote.base import CHUNK_BYTES
from cache.remote.transfer import WORKERS

from .diagnose import reading
from .formats import ARCHIVE, COMPRESSIONS, LINES, Span, TableFile, table_file
from .json_files import JSON_LINES, form_of
from .remote_path import RemotePath, SourcePath, each, open_bytes

BLOCK_BYTES = 1 << 20

FilePart = tuple[SourcePath, Span | None]
"""A file, and which rows of it are meant; None = all."""


def cut_tables(paths: Sequence[SourcePath], cells: Cells, part_bytes: int) -> list[list[FilePart]]:
    """Table files in parts of about `part_bytes`: of a large file, or several small ones. Runs in a forked process.

    Raises:
        InputError: a file cannot be read as what its ending says.
    """
    found = each(_spans, paths, cells, part_bytes)
    parts = [((path, span), size) for path, spans in zip(paths, found, strict=True) for span, size in spans]
    return [[part for part, _ in parts[group]] for group in neighbours([size for _, size in parts], part_bytes)]


def neighbours(sizes: Sequence[int], most: int) -> list[slice]:
    """Groups of things that follow each other, of at most `most` in all; what is larger is alone."""
    groups, begin, held = [], 0, 0
    for number, size in enumerate(sizes):
        if held and held + size > most:
            groups.append(slice(begin, number))
            begin, held = number, 0
        held += size
    return [*groups, slice(begin, len(sizes))]


def _spans(path: SourcePath, cells: Cells, part_bytes: int) -> list[tuple[Span | None, int]]:
    """A file, or its parts in order where it is larger than one, and the size of each."""
    with reading(path, cells):
        size = path.stat().st_size
        if size > part_bytes:
            table = table_file(path, cells)
            if table.kind == "parquet":
                return [(span, part_bytes) for span in _row_groups(path, part_bytes)]
            if path.suffix.lower() not in (*COMPRESSIONS, ARCHIVE) and _ends_rows_with_lines(table):
                ends = _line_ends(path, size, part_bytes)
                return [(Span(begin, end), part_bytes) for begin, end in zip([0, *ends], [*ends, size], strict=True)]
        return [(None, size)]


def _row_groups(path: SourcePath, part_bytes: int) -> list[Span]:
    import pyarrow.parquet

    with open_bytes(path) as data, pyarrow.parquet.ParquetFile(data) as file:
        sizes = [file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups)]
    return [Span(part.start, part.stop) for part in neighbours(sizes, part_bytes)]


def _ends_rows_with_lines(table: TableFile) -> bool:
    """Whether the end of a line is always that of a row."""
    if table.kind == "json":
        return form_of(table.path) == JSON_LINES
    if table.kind == "csv":
        return table.quotes is False or not _holds_quote(table.path)
    return table.kind == LINES


def _holds_quote(path: SourcePath) -> bool:
    """Whether there is a quote in a file; one at a URL is read in several pieces at once, until a quote is found."""
    if isinstance(path, RemotePath):
        remote = path.remote()

        def found(position: int) -> bool:
            return b'"' in remote.read(position, min(CHUNK_BYTES, remote.size - position))

        with ThreadPoolExecutor(WORKERS) as threads:
            return any(threads.map(found, range(0, remote.size, CHUNK_BYTES)))
    with open_bytes(path) as file:
        return any(b'"' in block for block in iter(partial(file.read, BLOCK_BYTES), b""))


def _line_ends(path: SourcePath, size: int, part_bytes: int) -> list[int]:
    """Positions behind the first line that ends after each multiple of `part_bytes`, but for the last of the file."""
    ends: list[int] = []
    with open_bytes(path) as file:
        for start in range(part_bytes, size, part_bytes):
            if ends and start <= ends[-1]:
                continue
            file.seek(start)
            file.readline()
            position = file.tell()
            # Before a mark of byte order there is no cut: a reader would take it for a file's beginning.
            if position < size and file.read(len(BOM_UTF8)) != BOM_UTF8:
                ends.append(position)
    return ends
