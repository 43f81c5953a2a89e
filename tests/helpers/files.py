"""Files as the tests write, change and compare them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[Any]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any] | None = None, **keys: Any) -> None:
    """Change the JSON object in a file: by a function, and by new values of its keys, where None removes one."""
    content = json.loads(path.read_bytes())
    if change is not None:
        change(content)
    path.write_text(json.dumps({key: value for key, value in {**content, **keys}.items() if value is not None}))


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Flip a bit in one byte of a file, counted from its end where negative."""
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def without_time(cache: Path, *others: str) -> dict[str, Any]:
    """The files of a cache; of the manifest all but when it was built and `others` of its keys."""
    files: dict[str, Any] = dict(content(cache))
    manifest = json.loads(files["manifest.json"])
    changing = ("created", "checksum", *others)
    return {**files, "manifest.json": {name: value for name, value in manifest.items() if name not in changing}}


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())
