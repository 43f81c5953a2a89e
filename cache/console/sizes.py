"""Sizes in bytes, as people write them."""

from ..errors import InputError

BYTE_UNITS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40} | {
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12
}  # fmt: skip


def parse_bytes(size: str, what: str = "--memory", least: int = 1) -> int:
    """A size such as 512MiB or 2GB in bytes.

    Args:
        size: the text.
        what: the option or variable that holds it, for the error.
        least: the smallest size that is accepted.

    Raises:
        InputError: `size` is not written like one.
    """
    number = size.lower().rstrip("bkmgti ")
    unit = size.lower()[len(number) :].strip() or "b"
    try:
        found = int(float(number) * BYTE_UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        found = -1
    if found < least:
        raise InputError(f"{what} {size!r} is not a size; expected for example 512MiB or 16GiB")
    return found
