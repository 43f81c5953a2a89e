"""Rows turned back into text, for a look at what a cache holds."""

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache import Cache, Split
from cache.format.tasks import IGNORED


@dataclass(frozen=True)
class Sample:
    """A decoded row: its number, its number in the source, tokens, label and text."""

    row: int
    source_row: int
    tokens: int
    label: str
    text: str


def random_samples(split: Split, count: int, seed: int | None, special_tokens: bool = False) -> list[Sample]:
    """Decode some random rows.

    Args:
        split: where from.
        count: how many, at most all.
        seed: for the same rows again; None for others each time.
        special_tokens: keep [CLS], [SEP] and their like in the text.
    """
    tokenizer = split.load_tokenizer()
    task = split.task
    chosen = np.random.default_rng(seed).choice(len(split), min(count, len(split)), replace=False)
    samples = []
    for number in chosen.tolist():
        row = split[number]
        ids, first = row.input_ids.tolist(), row.first_length
        if task.per_token:
            tagged = tagged_text(tokenizer, ids, row.label, task.label_names, special_tokens)
            count = sum(label != IGNORED for label in row.label)
            samples.append(Sample(number, row.source_row, len(ids), f"{count} tagged words", tagged))
            continue
        parts = [ids] if first is None or special_tokens else [part for part in (ids[:first], ids[first:]) if part]
        text = "\n".join(
            tokenizer.decode(part, skip_special_tokens=not special_tokens).replace("\n", " ") for part in parts
        )
        samples.append(Sample(number, row.source_row, len(ids), _label(row.label, task.label_names), text))
    return samples


def tagged_text(tokenizer: Any, ids: list[int], labels: list[int], names: tuple[str, ...], special_tokens: bool) -> str:
    """The words of a row, each with its tag behind a slash; the tag O, no entity, is left out."""
    starts = [place for place, label in enumerate(labels) if label != IGNORED]
    words = [tokenizer.decode(ids[: starts[0] if starts else None], skip_special_tokens=not special_tokens)]
    for begin, end in zip(starts, [*starts[1:], None], strict=True):
        tag = names[labels[begin]]
        word = tokenizer.decode(ids[begin:end], skip_special_tokens=not special_tokens).strip().replace("\n", " ")
        words.append(word if tag == "O" else f"{word}/{tag}")
    return " ".join(filter(None, words))


def _label(label: Any, names: tuple[str, ...]) -> str:
    """A label in words; empty where there is none."""
    if label is None:
        return ""
    if isinstance(label, list):
        return ", ".join(name for name, held in zip(names, label, strict=True) if held) or "no label"
    return names[label] if names else f"{label:.6g}"


def format_sample(sample: Sample, width: int) -> str:
    """A sample as wrapped text of at most `width` columns."""
    about = f"(row {sample.row:,}, source row {sample.source_row:,}, {sample.tokens} tokens)"
    head = f"{sample.label}  {about}" if sample.label else about
    body = "\n".join(
        textwrap.fill(text, width=max(width, 24), initial_indent="  ", subsequent_indent="  ")
        for text in sample.text.split("\n")
    )
    return f"{head}\n{body}\n"


def find_caches(folder: str) -> list[Cache]:
    """The caches directly below a folder, by name; those that are damaged or cannot be read are left out."""
    from pathlib import Path

    from cache import open_cache
    from cache.errors import CacheError, StorageError
    from cache.format.manifest import MANIFEST

    found = []
    for path in sorted(Path(folder).glob(f"*/{MANIFEST}")):
        if path.parent.name.startswith("."):
            continue
        try:
            found.append(open_cache(path.parent))
        except (CacheError, StorageError):
            continue
    return found
