"""Builds of small caches with a toy tokenizer, and what their rows should be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache import Cache
from cache.console.progress import ConsoleProgress
from prep.build import BuildResult, build
from prep.settings import BuildSettings

from .corpora import Rows
from .tokenizers import write_tokenizer


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


def check_rows(cache: Cache, rows: Rows, split: str = "train") -> None:
    """The split holds these rows, ids as transformers makes them."""
    expected = ids_by_transformers([text for text, _ in rows], cache.tokenizer_folder)
    found = decoded(cache, split)
    assert sorted(found) == list(range(len(rows)))
    for number, (_, label) in enumerate(rows):
        assert found[number] == (expected[number], str(label))
    assert list(cache.verify())
