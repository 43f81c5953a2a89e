"""What the labels of a source mean, once all of it was read: the task, and the label of each row."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from cache.common.arrays import Array
from cache.console.progress import ConsoleProgress
from cache.console.text import counted, listed
from cache.errors import InputError
from cache.format.tasks import MLM, TOKENS, Task

from ..corpus.source import Source
from ..labels.class_labels import Coded, find_task, resolve_classes, resolve_numbers
from ..labels.tags import Tags

MISSING_NAMES = ("", "nan", "none", "null", "n/a")
"""Names of classes that may well stand for a missing label, in small letters."""

LIST = re.compile(r"""\[(['"].*|[-0-9., ]*)\]""", re.DOTALL)
"""How Python and JSON spell lists of texts and of numbers."""


def tags_task(asked: str, tags: Tags, console: ConsoleProgress) -> tuple[Task, Array]:
    """The task and the labels of the marks, for rows of words."""
    if asked == "auto":
        console.log(f"task {TOKENS}, found from the lists of words; --task settles it")
    names, marked = tags.table()
    if not names:
        raise InputError("no word has a tag, so there is none to learn; see --text and --label")
    for line in confusable(names) if tags.known is None else ():
        console.warn(line)
    if len(names) == 1:
        console.warn(f"all words have the tag {names[0]!r}: there is nothing to learn")
    return Task(TOKENS, names), marked


def labels_task(
    asked: str, pieces: dict[str, list[Coded]], source: Source, console: ConsoleProgress
) -> tuple[Task, dict[str, Array]]:
    """The task, and the labels of each source split."""
    if asked == MLM:
        return Task(MLM, (), source.pair), {}
    kind = find_task(asked, pieces, source.label_names)
    if asked == "auto" and kind != "classification":
        console.log(f"task {kind}, found from the labels; --task settles it")
    if kind == "regression":
        return Task(kind, (), source.pair), dict(resolve_numbers(pieces))
    names, labels = resolve_classes(pieces, source.label_names)
    for line in (*_oddities(names, labels), *(confusable(names) if source.label_names is None else ())):
        console.warn(line)
    return Task(kind, names, source.pair), labels


def _oddities(names: tuple[str, ...], classes: dict[str, Array]) -> Iterator[str]:
    """What is allowed, but rarely meant."""
    rows, single = sum(map(len, classes.values())), all(column.ndim == 1 for column in classes.values())
    if len(names) == 1 and single:
        yield f"all rows have the label {names[0]!r}: there is nothing to learn"
    elif len(names) > max(100, rows // 2):
        found = f"{counted(len(names), 'class')} in {counted(rows, 'row')}"
        yield f"{found}; if that is not the label column, name it with --label"
    if len(classes.get("train", ())):
        train = classes["train"]
        counts = np.bincount(train, minlength=len(names)) if single else train.sum(axis=0, dtype=np.int64)
        absent = np.flatnonzero(counts == 0).tolist()
        if absent:
            yield f"no row of 'train' has the label {listed([repr(names[number]) for number in absent], 5)}"


def confusable(names: Sequence[str]) -> Iterator[str]:
    """What is odd about the names of classes: some differ only in white space or case, or look like none
    or like lists."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.split()).casefold(), []).append(repr(name))
    groups = [" and ".join(group) for group in alike.values() if len(group) > 1]
    if groups:
        shown = listed(groups, 5)
        yield f"classes that differ only in white space or case: {shown}; if they are one, correct the labels"
    absent = [repr(name) for name in names if name.strip().casefold() in MISSING_NAMES]
    if absent:
        yield f"classes that look like missing labels: {listed(absent, 5)}; if they are, remove their rows"
    lists = [repr(name) for name in names if LIST.fullmatch(name)]
    if lists:
        yield (
            f"classes that look like lists written as text: {listed(lists, 5)}; csv holds no lists, so if they are, "
            "give lists from Python, or as jsonl or parquet"
        )
