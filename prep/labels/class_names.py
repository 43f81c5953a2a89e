"""Names of classes that are rarely meant as they stand."""

from collections.abc import Iterator, Sequence

from cache.common.text import listed

MISSING_NAMES = ("", "nan", "none", "null", "n/a")
"""Names of classes that may well stand for a missing label, in small letters."""


def confusable(names: Sequence[str]) -> Iterator[str]:
    """What is odd about the names of classes: some differ only in white space or case, or look like none."""
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
