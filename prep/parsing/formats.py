"""What a table file is, by its name: its format, what it is packed in, what separates its cells. Opening it.

Of a zip archive the one file that it holds counts.
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from cache.common.table_files import BY_NAME, CSV, DELIMITERS, TSV, Cells
from cache.common.table_files import FORMATS as TABLE_FORMATS
from cache.console.text import counted, listed
from cache.errors import InputError

from .remote_path import SourcePath, open_bytes

FORMATS = {
    **{ending: kind if kind != TSV else CSV for ending, kind in TABLE_FORMATS.items()},
    ".conll": "conll",
    ".conllu": "conllu",
}
"""Endings, and how their files are read."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Endings behind those of formats, and pyarrow's names of them."""
ARCHIVE = ".zip"
PIECE_BYTES = 1 << 20
"""What pyarrow does not open itself is read in pieces of this size."""
TEXT = ".txt"
"""Ending of a file that holds a text per line, or a table where the user says what separates its cells."""
LINES = "lines"
"""The kind of a file that holds a text per line, without labels."""
EXPECTED = f"{', '.join(FORMATS)}, {', '.join([*COMPRESSIONS, ARCHIVE])} allowed behind them but for .parquet"


@dataclass(frozen=True)
class Span:
    """Rows of a file that lie together: bytes from `begin` to `end`, or row groups of a parquet file."""

    begin: int
    end: int


@dataclass(frozen=True)
class TableFile:
    """A table file: of what kind (see `format_of`), how it is cut into cells, and which rows are meant; None = all."""

    path: SourcePath
    kind: str
    delimiter: str
    quotes: bool | None = None
    span: Span | None = None


def format_of(path: SourcePath, delimiter: str | None = None) -> str | None:
    """csv, json, parquet, conll, conllu or lines by the file's ending, that of a compression behind it aside; None for
    others.

    Args:
        path: only its name is looked at.
        delimiter: what separates the cells of a csv or text file, where the user says so.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packed = suffixes[-1:] and suffixes[-1] in (*COMPRESSIONS, ARCHIVE)
    if packed:
        suffixes.pop()
    if not suffixes:
        return None
    known = FORMATS.get(suffixes[-1])
    if suffixes[-1] == TEXT:
        known = LINES if delimiter is None else CSV
    return None if packed and known == "parquet" else known


def may_be_table(path: SourcePath) -> bool:
    """Whether a file is a table by its name, or an archive, of which that is not known yet."""
    return format_of(path) is not None or path.suffix.lower() == ARCHIVE


def without_endings(path: SourcePath) -> str:
    """The path of a file without the endings that say what it is and what it is packed in."""
    name = str(path)
    while (ending := PurePosixPath(name).suffix) and ending.lower() in (*FORMATS, TEXT, *COMPRESSIONS, ARCHIVE):
        name = name.removesuffix(ending)
    return name


def table_file(path: SourcePath, cells: Cells = BY_NAME) -> TableFile:
    """What a file is; of an archive, what it holds is.

    Raises:
        InputError: it is not a table file.
    """
    inner = Path(_lone_member(path).filename) if path.suffix.lower() == ARCHIVE else path
    kind = format_of(inner, cells.delimiter)
    if inner is not path and kind == "parquet":
        raise InputError(f"{path} holds {inner}, and parquet is not read from archives; unzip it: unzip {path.name}")
    if kind is None:
        held = f" holds {inner}" if inner is not path else ""
        raise InputError(f"{path}{held}: of no known kind; expected one of {EXPECTED}")
    endings = [suffix.lower() for suffix in inner.suffixes]
    tabs = any(TABLE_FORMATS.get(ending) == TSV for ending in endings)
    return TableFile(path, kind, cells.delimiter or DELIMITERS[TSV if tabs else CSV], cells.quotes)


def not_csv(cells: Cells, where: object) -> InputError:
    """The error for saying how to cut what has no cells to cut."""
    return InputError(f"{cells.flag} is for csv and text files, but {where} is neither; leave it out")


def check_known(path: SourcePath, delimiter: str | None, labelled: bool) -> None:
    """Raise an `InputError` where a file is of no known kind by its name, or has no labels though they are wanted."""
    if not may_be_table(path):
        raise InputError(f"{path}: of no known kind; expected one of {EXPECTED}")
    if format_of(path, delimiter) == LINES and labelled:
        raise InputError(
            f"{path}: nothing tells where its labels are; where it is a table, say what separates its cells: "
            "--delimiter ';' (a tab is \\t); where a line holds a word and its tag, rename it to .conll; where it "
            "holds a text per line, pass --task mlm, to adapt a model to the texts; texts in files of their own are "
            "read from a folder, as split/label/*.txt"
        )


# --- opening


def open_unpacked(path: SourcePath, span: Span | None = None) -> Any:
    """A pyarrow stream of a file's bytes, decompressed; of an archive, of those of the file it holds. Of a file that is
    neither, perhaps of some bytes alone."""
    if span is not None:
        return file_of(_bytes(path, span))
    suffix = path.suffix.lower()
    if suffix != ARCHIVE:
        return pa.input_stream(open_bytes(path), compression=COMPRESSIONS.get(suffix))
    return file_of(_unzipped(path))


def _unzipped(path: SourcePath) -> Iterator[bytes]:
    with open_bytes(path) as file, zipfile.ZipFile(file) as archive, archive.open(_lone_member(path)) as member:
        while piece := member.read(PIECE_BYTES):
            yield piece


def _bytes(path: SourcePath, span: Span) -> Iterator[bytes]:
    with open_bytes(path) as file:
        file.seek(span.begin)
        left = span.end - span.begin
        while left and (piece := file.read(min(left, PIECE_BYTES))):
            yield piece
            left -= len(piece)


def file_of(pieces: Iterator[bytes]) -> Any:
    """A pyarrow stream of bytes that come in pieces."""
    return pa.PythonFile(io.BufferedReader(_Pieces(pieces)), mode="r")


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _lone_member(path: SourcePath) -> zipfile.ZipInfo:
    """The file in an archive that holds one; what macOS adds to archives aside."""
    with open_bytes(path) as file, zipfile.ZipFile(file) as archive:
        members = [info for info in archive.infolist() if not info.is_dir() and not _hidden(info.filename)]
    if len(members) != 1:
        names = listed([info.filename for info in members], 5)
        raise InputError(
            f"{path} holds {counted(len(members), 'file')}{f' ({names})' if names else ''}, expected one; unzip it "
            f"and build from the folder: unzip {path.name} -d {path.stem}"
        )
    if members[0].flag_bits & 1:
        raise InputError(f"cannot read {path}: it is encrypted; unzip it: unzip {path.name} -d {path.stem}")
    return members[0]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
