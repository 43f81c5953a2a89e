"""Text of messages."""

from collections.abc import Sequence


def listed(items: Sequence[str], most: int) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def counted(number: int, noun: str) -> str:
    """How many there are of something, such as 1 row, 25,000 rows or 2 classes."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "tch")) else "s"
    return f"{number:,} {noun}{ending}"


def sized(size_bytes: float) -> str:
    """A size in bytes, such as 512 B, 7.6 kB, 13.3 MB or 1.2 GB."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= least:
            return f"{size_bytes / least:,.1f} {unit}"
    return f"{size_bytes:,.0f} B"
