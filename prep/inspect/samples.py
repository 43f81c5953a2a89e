"""Random rows of a cache decoded to text with their labels, and the caches in a folder."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache import Row, Split, open_cache
from cache.common.hub import user_path
from cache.console.text import counted
from cache.errors import CacheError, LengthwiseError, StorageError
from cache.format.manifest import MANIFEST, Manifest
from cache.format.tasks import IGNORED
from cache.remote.urls import is_url
from cache.sharing.listing import find_remote_caches


@dataclass(frozen=True)
class Sample:
    """A decoded row: its number, its number in the source, tokens, label and text."""

    row: int
    source_row: int
    tokens: int
    label: str
    text: str


def random_samples(split: Split, count: int, seed: int | None, special_tokens: bool = False) -> list[Sample]:
    """Decode `count` random rows, or all where there are fewer; where `seed` is None, other ones each time.

    With `special_tokens` the text holds [CLS], [SEP] and their like.
    """
    task, samples = split.task, []
    tokenizer, rows = random_rows(split, count, seed)

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=not special_tokens)).replace("\n", " ")

    for number, row in rows:
        ids, first = row.input_ids.tolist(), row.first_length
        if task.per_token:
            label = f"{sum(label != IGNORED for label in row.label)} tagged words"
            text = tagged_text(decode, ids, row.label, task.label_names)
        else:
            label = label_text(row.label, task.label_names)
            parts = [ids] if first is None or special_tokens else [ids[:first], ids[first:]]
            text = "\n".join(decode(part) for part in parts if part)
        samples.append(Sample(number, row.source_row, len(ids), label, text))
    return samples


def random_rows(split: Split, count: int, seed: int | None) -> tuple[Any, list[tuple[int, Row]]]:
    """The split's tokenizer, and at most `count` random rows with their numbers."""
    tokenizer = split.load_tokenizer()
    chosen = np.random.default_rng(seed).choice(len(split), min(count, len(split)), replace=False)
    return tokenizer, [(number, split[number]) for number in chosen.tolist()]


def tagged_text(decode: Callable[[list[int]], str], ids: list[int], labels: list[int], names: tuple[str, ...]) -> str:
    """The words of a row, each followed by a slash and its tag, except for O, which marks words outside entities."""
    starts = [position for position, label in enumerate(labels) if label != IGNORED]
    words = [decode(ids[: starts[0] if starts else None])]
    for begin, end in zip(starts, [*starts[1:], None], strict=True):
        tag, word = names[labels[begin]], decode(ids[begin:end]).strip()
        words.append(word if tag == "O" else f"{word}/{tag}")
    return " ".join(filter(None, words))


def label_text(label: Any, names: tuple[str, ...]) -> str:
    """A label as text; empty where there is none."""
    if label is None:
        return ""
    if isinstance(label, list):
        return ", ".join(name for name, held in zip(names, label, strict=True) if held) or "no label"
    return names[label] if names else f"{label:.6g}"


def format_sample(sample: Sample, width: int) -> str:
    """A sample as wrapped text of at most `width` columns."""
    about = f"(row {sample.row:,}, source row {sample.source_row:,}, {counted(sample.tokens, 'token')})"
    head = f"{sample.label}  {about}" if sample.label else about
    body = "\n".join(
        textwrap.fill(text, width=max(width, 24), initial_indent="  ", subsequent_indent="  ")
        for text in sample.text.split("\n")
    )
    return f"{head}\n{body}\n"


def find_caches(folder: str, left_out: Callable[[LengthwiseError], object]) -> list[tuple[str, Manifest]]:
    """The folders and manifests of the caches directly below a folder or URL, by name.

    Args:
        folder: where to look.
        left_out: called with what is wrong with each cache of a folder that is damaged or cannot be read.
    """
    if is_url(folder):
        return find_remote_caches(folder)
    found = []
    for path in sorted(user_path(folder).glob(f"*/{MANIFEST}")):
        if path.parent.name.startswith("."):
            continue
        try:
            found.append((str(path.parent), open_cache(path.parent).manifest))
        except (CacheError, StorageError) as error:
            left_out(error)
    return found
