"""The command `prep` run inside the tests' process, and the files it is run on."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from cache import open_cache

from .builds import decoded
from .tokenizers import write_tokenizer

GOOD = "text,label\nword1,x\nword2,y\n"
"""A csv file without a fault."""


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, what it printed, and the cache if there is one."""

    code: int
    out: str
    err: str
    folder: Path = field(default_factory=Path)

    def rows(self, split: str = "train") -> list[tuple[list[int], str]]:
        """Ids and label name of each row, in source order."""
        found = decoded(open_cache(self.folder / "cache" / "a", verify=True), split)
        return [found[number] for number in sorted(found)]


Prep = Callable[..., Done]
"""The fixture `prep`: runs the command with these arguments in an empty folder."""


def build(prep: Prep, source: str, *options: str) -> Done:
    if not Path("tok").exists():
        write_tokenizer(Path("tok"))
    given = [] if "--tokenizer" in options else ["--tokenizer", "tok"]
    return prep("build", source, "--name", "a", "--epochs", "1", *given, *options)


def write(name: str, data: bytes | str | list[Any]) -> str:
    """Bytes, text, or rows as JSON lines."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, list):
        data = "".join(json.dumps(row) + "\n" for row in data)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return name


def write_parquet(name: str, **columns: Any) -> str:
    pyarrow.parquet.write_table(pa.table(columns), name)
    return name


def zipped(name: str, members: dict[str, str]) -> str:
    """A zip archive of these files."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return name


def csv_of(rows: list[tuple[str, str]]) -> str:
    """Rows as csv, texts in quotes."""
    quoted = [(text.replace('"', '""'), label) for text, label in rows]
    return "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in quoted)
