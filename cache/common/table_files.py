"""What both commands know of files of rows: the formats that endings stand for, and the way out of another encoding."""

import shlex

CSV, TSV, JSON, PARQUET = "csv", "tsv", "json", "parquet"

FORMATS = {
    ".csv": CSV,
    ".tsv": TSV,
    ".tab": TSV,
    ".jsonl": JSON,
    ".ndjson": JSON,
    ".json": JSON,
    ".parquet": PARQUET,
}
"""Endings and their formats; JSON is an object per line."""

DELIMITERS = {CSV: ",", TSV: "\t"}
"""What separates the cells."""

OTHER_DELIMITERS = {";": "';'", "\t": "'\\t'", "|": "'|'"}
"""What may separate cells in place of commas, and how it is typed."""

MAX_NAME = 60
"""Characters of a column's name, beyond which it looks like a text."""


def is_delimiter(mark: str) -> bool:
    """Whether a file's cells can be separated by this."""
    return len(mark) == 1 and mark.isascii() and mark not in '"\r\n'


UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def utf8_remedy(begin: bytes, name: str | None) -> str:
    """What to do about text that is not UTF-8.

    Args:
        begin: its first bytes, which tell UTF-16.
        name: its file; None for standard input.
    """
    encoding = "utf-16" if begin[:2] in UTF16_MARKS else "latin1"
    files = "" if name is None else f" {shlex.quote(name)} > {shlex.quote(f'utf8-{name}')}"
    return f"convert it first, for example: iconv -f {encoding} -t utf-8{files}"
