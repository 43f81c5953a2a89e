"""A corpus, ready to be read, whatever it comes from."""

from dataclasses import dataclass

from cache.errors import InputError
from cache.format.checksummed_json import NAME_PATTERN, Json
from cache.format.manifest import MISSING_ROWS, TOKENIZER

from ..columns import Stream
from .remote_path import SourcePath

STDIN = "-"
"""What is typed for standard input."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; what is None or empty is yet to be found.

    Attributes:
        text: the text, or the first one of a pair.
        pair: the second text of a pair, None where texts come alone.
        labels: one column, or one for each class of a multi-label task, holding 0 or 1.
        labelled: whether labels are wanted; where not, there are no columns of them.
        delimiter: what separates the cells of csv and text files; None = what their names say.
        drop_missing: whether rows without a text or a label are left out.
    """

    text: str | None = None
    pair: str | None = None
    labels: tuple[str, ...] = ()
    labelled: bool = True
    delimiter: str | None = None
    drop_missing: bool = False

    @property
    def texts(self) -> list[str]:
        """The columns of text."""
        return [name for name in (self.text, self.pair) if name is not None]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.texts, *self.labels]

    @property
    def identity(self) -> Json:
        """What a cache's manifest says of them."""
        pair = {"text_pair": self.pair} if self.pair else {}
        label = {"label": self.labels[0] if len(self.labels) == 1 else list(self.labels)} if self.labelled else {}
        delimiter = {"delimiter": self.delimiter} if self.delimiter else {}
        return {"text": self.text, **pair, **label, **delimiter, **self.missing}

    @property
    def missing(self) -> Json:
        """What a cache's manifest says of rows without a text or a label: nothing where they are an error."""
        return {"missing": "drop"} if self.drop_missing else {}

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes, where each has a column."""
        return self.labels if len(self.labels) > 1 else None


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
    splits: dict[str, Stream]
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


def check_split_name(name: str, where: SourcePath) -> None:
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
    """How many rows were left out for want of a text or a label; empty if none."""
    counts = [f"{rows:,} of {split!r}" for split, rows in source.get(MISSING_ROWS, {}).items()]
    return f"rows left out, for a text or label is missing: {', '.join(counts)}" if counts else ""
