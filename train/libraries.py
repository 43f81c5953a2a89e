"""Loading torch and transformers."""

import gc
import os
import resource
import sys

from cache.console.progress import waiting
from cache.errors import InputError

TORCH_BYTES = 1 << 30
"""Address space that torch and a small model take on a CPU, rounded up."""


def load_libraries(quiet: bool = False) -> None:
    """Import torch and transformers, which is nearly all that the start of a command costs; a terminal shows it, but
    for one of several ranks that is not the first.

    Garbage collection is off meanwhile: what is imported stays, and looking through it again and again takes a tenth
    of the time.

    Raises:
        InputError: under a memory limit that torch cannot load in, it would end the process by a signal.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < TORCH_BYTES:
        raise InputError(
            f"memory is limited to {limit >> 20:,} MiB (ulimit -v {limit >> 10}), expected at least "
            f"{TORCH_BYTES >> 20:,} MiB; lift the limit: ulimit -v unlimited"
        )
    if f"{__package__}.models.heads" in sys.modules:
        return
    gc.disable()
    try:
        with waiting("loading torch and transformers", quiet or os.environ.get("RANK", "0") != "0"):
            from .models import heads  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
