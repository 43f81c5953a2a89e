"""The address space that a build needs; checked before pyarrow is loaded."""

import resource

from cache.errors import InputError

ADDRESS_SPACE = 1 << 30
"""Bytes that a process must be allowed to map: libraries take 500 MB of them, threads and their caches the rest."""


def check_address_space() -> None:
    """Refuse to start where the libraries that parse and tokenize would abort for lack of memory."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise InputError(
            f"this process may have {limit >> 20:,} MiB of address space, expected {ADDRESS_SPACE >> 20:,} MiB or more "
            "to build a cache; first run: ulimit -v unlimited"
        )
