"""Small corpora in files, and builds of them with a toy tokenizer."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cache import Cache
from cache.common.progress import ConsoleProgress
from prep.build import BuildResult, BuildSettings, build

from .toys import WORDS, write_tokenizer

Rows = list[tuple[Any, Any]]


def toy_rows(count: int, seed: int = 0, classes: Sequence[Any] = ("neg", "pos")) -> Rows:
    """Texts of 1 to 20 of the toy tokenizer's words, each with a label; classes in turn."""
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 21))) for _ in range(count)]
    return [(text, classes[number % len(classes)]) for number, text in enumerate(texts)]


def write_rows(path: Path, rows: Rows, names: tuple[str, str] = ("text", "label")) -> Path:
    """Write rows in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = path.name.split(".")[1:]
    if "parquet" in kinds:
        columns = [[row[0] for row in rows], [row[1] for row in rows]]
        pyarrow.parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
        return path
    with gzip.open(path, "wt") if "gz" in kinds else path.open("w", newline="") as file:
        if kinds[0] in ("csv", "tsv"):
            writer = csv.writer(file, delimiter="\t" if kinds[0] == "tsv" else ",")
            writer.writerow(names)
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    return path


def build_toy(source: Path | str, out: Path, **settings: Any) -> BuildResult:
    """Build a cache with the toy tokenizer, saying nothing."""
    folder = out / "tokenizer"
    if not folder.exists():
        write_tokenizer(folder)
    settings = {"tokenizer": str(folder), "epochs": 1, **settings}
    return build(BuildSettings(str(source), out=out / "caches", **settings), ConsoleProgress(quiet=True))


def ids_by_transformers(texts: Sequence[str], tokenizer: Path, max_length: int = 128) -> list[list[int]]:
    """The independent reference."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer)(list(texts), truncation=True, max_length=max_length)["input_ids"]


def decoded(cache: Cache, split: str = "train") -> dict[int, tuple[list[int], str]]:
    """Source row to ids and label name."""
    names = cache.manifest.task.label_names
    return {row.source_row: (row.input_ids.tolist(), names[row.label]) for row in cache[split]}


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check_rows(cache: Cache, rows: Rows, split: str = "train") -> None:
    """The split holds these rows, ids as transformers makes them."""
    expected = ids_by_transformers([text for text, _ in rows], cache.tokenizer_folder)
    found = decoded(cache, split)
    assert sorted(found) == list(range(len(rows)))
    for number, (_, label) in enumerate(rows):
        assert found[number] == (expected[number], str(label))
    assert list(cache.verify())
