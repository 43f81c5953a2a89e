"""Files as streams of columns: tables of every format, and folders of text files.

A stream yields Arrow record batches with the columns `text`, `text_pair` where there are pairs, and `label`, so that a
corpus of any size passes through in pieces. Files are read in a forked process (`readers`, `cache.common.forked`).

A stream notes what its files look like when it is made, and refuses them if they look otherwise once they were read:
make it first, then hash the files.
"""

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from cache.common.forked import BATCH_BYTES, Forked
from cache.common.table_files import Cells

from ..columns import Columns, PartedStream, Stream
from ..parsing.cutting import FilePart, cut_tables, neighbours
from ..parsing.readers import columns_of, read_tables, read_texts
from ..parsing.remote_path import SourcePath, changed, each

ROW_SHARE = 8
"""A row, or the text of a file, may take an eighth of the memory."""
MAX_ROW_BYTES = 1 << 30
"""And no more than this, for pyarrow counts in 32 bits."""


def longest_row(forked: Forked) -> int:
    """Bytes of the longest row that is read."""
    return min(forked.memory_bytes // ROW_SHARE, MAX_ROW_BYTES)


def table_columns(paths: Sequence[SourcePath], cells: Cells, forked: Forked) -> list[tuple[list[str], set[str]]]:
    """The columns of each of some table files, and those of them that hold lists, such as the words of a text.

    Raises:
        InputError: a file cannot be read as what its ending says.
    """
    found: list[tuple[list[str], set[str]]]
    found = forked.call(_together(paths), each, columns_of, paths, cells, longest_row(forked))
    return found


def table_stream(
    paths: Sequence[SourcePath], columns: Columns, forked: Forked, where: tuple[str, str] | None = None
) -> Stream:
    """Some columns of table files, one file after the other; `where` = (column, value) keeps the rows that have it."""

    def cut(part_bytes: int) -> list[Stream]:
        found = forked.call(_together(paths), cut_tables, list(paths), columns.cells, part_bytes)
        return [_parts_stream(files, columns, forked, where) for files in found]

    return PartedStream(_parts_stream([(path, None) for path in paths], columns, forked, where), cut)


def _parts_stream(files: list[FilePart], columns: Columns, forked: Forked, where: tuple[str, str] | None) -> Stream:
    def batches() -> Iterator[pa.RecordBatch]:
        # Small files together, for a process takes longer to start than they to read.
        for group in neighbours(list(map(_size, paths)), BATCH_BYTES):
            called = _together(paths[group])
            yield from forked.stream(called, read_tables, files[group], columns, where, longest_row(forked))

    paths = [path for path, _ in files]
    return watch(paths)(batches)


def _together(paths: Sequence[SourcePath]) -> str:
    """What errors call files that are read in one process."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1]}"


def watch(paths: Sequence[SourcePath]) -> Callable[[Stream], Stream]:
    """Note what files look like now. Returns what makes of a stream that reads them one that raises an `InputError` at
    its end if a file looks otherwise by then."""
    before = [_look(path) for path in paths]

    def watched(stream: Stream) -> Stream:
        def batches() -> Iterator[pa.RecordBatch]:
            yield from stream()
            for path, look in zip(paths, before, strict=True):
                if _look(path) != look:
                    raise changed(path)

        return batches

    return watched


def _look(path: SourcePath) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _size(path: SourcePath) -> int:
    look = _look(path)
    return look[1] if look else 0


# --- folders of text files


def text_files_stream(
    folder: SourcePath, files: list[tuple[SourcePath, str]], forked: Forked, labelled: bool = True
) -> Stream:
    """One row per file of a folder: its text, and the label given with it where labels are wanted."""

    def stream(files: list[tuple[SourcePath, str]]) -> Stream:
        watched = watch([path for path, _ in files])
        return watched(lambda: forked.stream(folder, read_texts, files, labelled, longest_row(forked)))

    def cut(part_bytes: int) -> list[Stream]:
        return [stream(files[part]) for part in neighbours([_size(path) for path, _ in files], part_bytes)]

    return PartedStream(stream(files), cut)
