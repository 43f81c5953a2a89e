"""A corpus, ready to be read, whatever it comes from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache.errors import InputError
from cache.format.checksummed_json import NAME_PATTERN, Json
from cache.format.manifest import MISSING_ROWS, TOKENIZER

if TYPE_CHECKING:
    from ..columns import Stream
    from ..parsing.remote_path import SourcePath

STDIN = "-"
"""What is typed for standard input."""


@dataclass(frozen=True)
class Source:
    """A corpus, ready to be read.

    Attributes:
        argument: what the user typed; empty for data given from Python.
        name: the default name of its cache.
        identity: what it is, for the manifest and the fingerprint: kind, file hashes or revision, columns.
        splits: split name to its stream.
        label_names: the classes where they are known beforehand, class 0 first.
        max_length: default truncation, tokens; None = the tokenizer's limit.
        holdout: fraction of `train` held out as `test` where the user does not say.
        size_bytes: of its files, for the progress bar; 0 where unknown.
        pair: whether a row holds two texts.
        words: whether a row's text is a list of words, each with a tag.
        task: what the labels are, where that is known beforehand; "auto" elsewhere.
        note: a line for the user about where the text comes from.
        metric: the score its authors report; empty where that is not known.
        unread: what holds labels that are not wanted; empty if nothing.
        arguments: what the user typed, where that is several files; none elsewhere.
    """

    argument: str
    name: str
    identity: Json
    splits: "dict[str, Stream]"
    label_names: tuple[str, ...] | None = None
    max_length: int | None = None
    holdout: float = 0.0
    size_bytes: int = 0
    note: str = ""
    pair: bool = False
    words: bool = False
    task: str = "auto"
    metric: str = ""
    unread: str = ""
    arguments: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """What errors call it."""
        return self.argument or "the data given"


def cache_name(name: str) -> str:
    """A name for a cache made from that of a file, folder or dataset."""
    plain = "".join(letter if NAME_PATTERN.fullmatch("a" + letter) else "-" for letter in name).lstrip("-._")
    return plain[:100] or "corpus"


def check_split_name(name: str, where: "SourcePath") -> None:
    """Raise an `InputError` where a split cannot be called so."""
    if not NAME_PATTERN.fullmatch(name) or name == TOKENIZER:
        raise InputError(
            f"{where} would be the split {name!r}, which is not a valid name for a split (letters, digits, '.', '_', "
            f"'-'; not {TOKENIZER!r}); rename it, for example to train{''.join(where.suffixes)}"
        )


def describe_source(source: Json) -> str:
    """Where a cache's text came from, in a few words."""
    kind = source.get("kind")
    if kind == "hub":
        return f"Hub dataset {source['dataset']} at {source['revision'][:12]}"
    if kind == "package":
        return f"{source['argument']} from the package {source['package']}"
    given = source.get("argument") or "data given from Python"
    if isinstance(given, list):
        return " ".join(map(str, given[:3])) + (f" and {len(given) - 3:,} more" if len(given) > 3 else "")
    return str(given)


def describe_missing(source: Json) -> str:
    """How many rows were left out because a text or a label was missing; empty if none."""
    counts = [f"{rows:,} of {split!r}" for split, rows in source.get(MISSING_ROWS, {}).items()]
    return f"rows left out, for a text or label is missing: {', '.join(counts)}" if counts else ""
