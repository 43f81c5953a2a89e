"""Text of messages."""

from collections.abc import Sequence


def listed(items: Sequence[str], most: int) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
