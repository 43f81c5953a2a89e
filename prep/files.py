"""Local files as streams of columns: csv, tsv, jsonl, parquet, folders of text files. All reading is pyarrow's.

A stream yields Arrow record batches with the columns `text` and `label`, so that a corpus of any size passes through
in pieces. Files that fit comfortably are read whole, which uses every core.
"""

import codecs
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

TEXT, LABEL = "text", "label"

Stream = Callable[[], Iterator["pa.RecordBatch"]]
"""A function that starts reading from the front and yields record batches with the columns text and label."""

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}

WHOLE_BYTES = 256 * 1024 * 1024
"""Files up to this size are read in one piece."""
BLOCK_BYTES = 16 * 1024 * 1024
"""Larger ones in blocks of this many bytes."""


def format_of(path: Path) -> str | None:
    """csv, json or parquet by the file's ending, a .gz behind it aside; None for others."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
        known = FORMATS.get(suffixes[-1]) if suffixes else None
        return known if known != "parquet" else None
    return FORMATS.get(suffixes[-1]) if suffixes else None


def column_names(path: Path) -> list[str]:
    """The columns of a table file.

    Raises:
        InputError: the file cannot be read as what its ending says.
    """
    with reading(path):
        kind = format_of(path)
        if kind == "parquet":
            import pyarrow.parquet

            return list(pyarrow.parquet.read_schema(path).names)
        first = _open_csv(path, None) if kind == "csv" else _open_json(path, None)
        with first as reader:
            return list(reader.schema.names)


def table_stream(path: Path, text: str, label: str, where: tuple[str, str] | None = None) -> Stream:
    """The columns `text` and `label` of a table file; `where` = (column, value) keeps the rows that have it."""
    wanted = [text, label, *([where[0]] if where else [])]

    def batches() -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa
        import pyarrow.compute as pc

        with reading(path):
            for batch in _read(path, wanted):
                if where:
                    batch = batch.filter(pc.equal(batch.column(where[0]), where[1]))
                yield pa.RecordBatch.from_arrays([batch.column(text), batch.column(label)], [TEXT, LABEL])

    return batches


def _read(path: Path, columns: list[str]) -> Iterator["pa.RecordBatch"]:
    kind = format_of(path)
    if kind == "parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=1 << 14, columns=list(dict.fromkeys(columns)))
    elif kind == "csv" and path.stat().st_size <= WHOLE_BYTES and path.suffix != ".gz":
        import pyarrow.csv

        yield from pyarrow.csv.read_csv(path, **_csv_options(path, columns)).to_batches()
    else:
        with _open_csv(path, columns) if kind == "csv" else _open_json(path, columns) as reader:
            yield from reader


def _csv_options(path: Path, columns: list[str] | None) -> dict[str, Any]:
    """Every column is read as text: types guessed from the first block would fail on a later one. Labels find their
    type in prep.labels. An empty cell is missing; a quoted empty cell is an empty text."""
    import pyarrow as pa
    import pyarrow.csv

    delimiter = "\t" if ".tsv" in path.suffixes else ","
    return {
        "read_options": pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
        "parse_options": pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=delimiter),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in columns or ()},
            include_columns=list(dict.fromkeys(columns)) if columns else None,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    }


def _open_csv(path: Path, columns: list[str] | None) -> Any:
    import pyarrow.csv

    return pyarrow.csv.open_csv(path, **_csv_options(path, columns))


def _open_json(path: Path, columns: list[str] | None) -> Any:
    import pyarrow.json

    return pyarrow.json.open_json(path, read_options=pyarrow.json.ReadOptions(block_size=BLOCK_BYTES))


def text_files_stream(files: list[tuple[Path, str]]) -> Stream:
    """One row a file: its text, and the label given with it."""

    def batches() -> Iterator["pa.RecordBatch"]:
        import pyarrow as pa

        for i in range(0, len(files), 4096):
            part = files[i : i + 4096]
            texts = [_text_of(path) for path, _ in part]
            yield pa.RecordBatch.from_pydict({TEXT: texts, LABEL: [label for _, label in part]})

    return batches


def _text_of(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(not_utf8(path, error.start)) from None


def not_utf8(path: Path, position: int) -> str:
    """The message for text in another encoding."""
    return (
        f"{path}: not UTF-8 text at byte {position:,}; convert it first, "
        f"for example: iconv -f latin1 -t utf-8 {path.name} > utf8-{path.name}"
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn pyarrow's and the system's complaints about `path` into an `InputError` that names it and says why."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(_reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {path}: {error.strerror}"
    if "UTF8" in text or "UTF-8" in text:
        position = first_invalid_byte(path)
        if position is not None:
            return not_utf8(path, position)
    return f"cannot read {path}: {text}"


def first_invalid_byte(path: Path) -> int | None:
    """The position of the first byte that is not UTF-8, None where there is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                return position - pending + error.start
            position += len(block)
    return None if not decoder.getstate()[0] else position - len(decoder.getstate()[0])
