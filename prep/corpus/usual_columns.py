"""Which columns hold the text and the label where the user does not name them: those with a usual name."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace

from cache.common.table_files import MAX_NAME, other_delimiter
from cache.errors import InputError

from ..columns import Columns
from ..parsing.remote_path import SourcePath

WORD_NAMES = ("tokens", "words")
TEXT_NAMES = ("text", "review", "sentence", "content", "document", "comment", "body", *WORD_NAMES)
LABEL_NAMES = ("label", "labels", "class", "target", "sentiment", "category", "rating")
TAG_NAMES = ("ner_tags", "tags", "pos_tags", "labels", "upos")
"""Columns taken for text and label, the first that is there; words go with tags."""

MORE_TEXT_NAMES = ("review_text", "review_body", "comment_text", "full_text", "tweet", "tweet_text", "message", "post")
MORE_LABEL_NAMES = ("gold_label", "class_label", "class_index", "topic", "intent", "emotion", "polarity", "stars")
"""Columns taken where there is none of the former, and none that differs from them in case alone."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
)
"""Columns taken for pairs of texts where none is called as a text that comes alone."""


def settle_columns(
    tables: Iterable[tuple[Sequence[str], SourcePath | str]], asked: Columns
) -> tuple[Columns, str, str]:
    """The columns of text and label of several tables, each with its name in errors: those that the first one settles.

    Returns:
        The columns; a line for the user about those whose choice is not plain; what holds labels that are not wanted.
        Either is empty where there is nothing of the kind.

    Raises:
        InputError: as `choose_columns`.
    """
    note = unread = ""
    for names, where in tables:
        chosen = choose_columns(names, asked, where)
        note = note or column_note(names, asked, chosen)
        unread = unread or unread_labels(names, chosen)
        asked = chosen
    return asked, note, unread


def choose_columns(names: Sequence[str], asked: Columns, where: SourcePath | str) -> Columns:
    """The columns of text and label: those asked for, else those with a usual name among `names`.

    Raises:
        InputError: a column is not there, or there twice, or nothing tells which one it is; names `where`.
    """
    text, pair = asked.text, asked.pair
    if text is None and not set(TEXT_NAMES) & set(names):
        first, second = _usual_pair(names)
        if first is not None and pair in (None, second):
            text, pair = first, second
    text = text or _usual("text", names, TEXT_NAMES, MORE_TEXT_NAMES, where)
    usual, more = (TAG_NAMES, ()) if _plain(text) in WORD_NAMES else (LABEL_NAMES, MORE_LABEL_NAMES)
    labels = asked.labels or ((_usual("label", names, usual, more, where),) if asked.labelled else ())
    flags = [("--text", text), *((("--text-pair", pair),) if pair else ())]
    for flag, name in [*flags, *(("--label", label) for label in labels)]:
        if name not in names:
            raise InputError(f"{where} has no column {name!r} for {flag}; it has {', '.join(map(repr, names))}")
        if names.count(name) > 1:
            raise InputError(f"{where} has {names.count(name)} columns {name!r}; rename all but one")
    if text in labels or pair in labels:
        name = text if text in labels else pair
        raise InputError(f"{where}: the column {name!r} cannot be text and label at once; see --text and --label")
    if text == pair:
        raise InputError(f"{where}: the column {text!r} cannot be both texts of a pair; see --text and --text-pair")
    if len(set(labels)) < len(labels):
        raise InputError(f"{where}: a column is named twice with --label ({', '.join(labels)}); name each once")
    return replace(asked, text=text, pair=pair, labels=labels)


def column_note(names: Sequence[str], asked: Columns, chosen: Columns) -> str:
    """A line for the user about columns that were not named and whose choice is not plain; empty where it is."""
    lines = []
    if asked.pair is None and chosen.pair is not None:
        lines.append(f"the columns {chosen.text!r} and {chosen.pair!r} are taken for pairs of texts")
    elif asked.text is None and chosen.text not in TEXT_NAMES:
        lines.append(f"the column {chosen.text!r} is taken for the text")
    if not asked.labels and chosen.labels and not {*LABEL_NAMES, *TAG_NAMES} & set(chosen.labels):
        lines.append(f"the column {chosen.labels[0]!r} is taken for the label")
    pair = _usual_pair(names)
    if asked.text is None and chosen.pair is None and chosen.text in pair:
        flags = f"--text {shlex.quote(str(pair[0]))} --text-pair {shlex.quote(str(pair[1]))}"
        lines.append(f"the column {chosen.text!r} is taken for the text alone; for pairs pass {flags}")
    return "; ".join(lines)


def unread_labels(names: Sequence[str], columns: Columns) -> str:
    """The column of labels that is passed over where none are wanted; empty if there is none."""
    usual = [name for name in LABEL_NAMES if name in names and name not in columns.texts]
    return f"the column {usual[0]!r}" if usual and not columns.labelled else ""


def _plain(name: str) -> str:
    """A name as far as the usual ones are compared: `Review Text` is review_text."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _usual(what: str, names: Sequence[str], usual: Sequence[str], more: Sequence[str], where: SourcePath | str) -> str:
    for name in usual:
        if name in names:
            return name
    for name in (*usual, *more):
        found = [column for column in names if _plain(column) == name]
        if len(found) == 1:
            return found[0]
        if found:
            listed = " or ".join(map(repr, found))
            raise InputError(f"{where}: which column is the {what}, {listed}? Name one with --{what} COLUMN")
    mark = other_delimiter(names[0]) if len(names) == 1 else ""
    near = [name for name in names if not mark and {*usual, *more} & set(_plain(name).split("_"))][:3]
    hints = [f"name one with --{what} {' or '.join(map(shlex.quote, near)) or 'COLUMN'}"]
    if what == "label":
        hints.append("without labels pass --task mlm, to adapt a model to the texts")
    if any(len(name) > MAX_NAME or name.strip().isdigit() for name in names) and not mark:
        hints.append("is its first line a row already? Put one above it that names the columns, such as text,label")
    if mark:
        hints.append(f"are its cells separated by something else than commas? Pass --delimiter {mark}")
    has = ", ".join(map(repr, names)) or "none whose name is a text"
    raise InputError(f"{where}: which column is the {what}? It has {has}; {'; '.join(hints)}")


def _usual_pair(names: Sequence[str]) -> tuple[str | None, str | None]:
    """The columns of the first usual pair that is there, each once."""
    known = [_plain(name).replace("_", "") for name in names]
    for pair in PAIRS:
        if all(known.count(name) == 1 for name in pair):
            first, second = (names[known.index(name)] for name in pair)
            return first, second
    return None, None
