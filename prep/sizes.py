"""Sizes of memory as people write them."""

from cache.errors import InputError

UNITS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_bytes(size: str) -> int:
    """A size such as 512MiB or 2GB as bytes.

    Raises:
        InputError: it is none.
    """
    number = size.lower().rstrip("bkmgi ")
    unit = size.lower()[len(number) :].strip() or "b"
    try:
        found = int(float(number) * UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        found = 0
    if found < 1:
        raise InputError(f"--memory {size!r} is no size; expected for example 512MiB or 16GiB")
    return found
