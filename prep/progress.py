"""What `prep` says while it works: progress, and lines. All of it on stderr."""

import sys
import time
from dataclasses import dataclass

from cache.common.progress import Progress, clock


@dataclass(frozen=True)
class Reporter:
    """Where progress goes.

    Attributes:
        quiet: say nothing but errors.
    """

    quiet: bool = False

    def say(self, line: str) -> None:
        """One line for the user."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def bar(self, what: str, total: int, unit: str) -> Progress:
        """Progress that shows itself after two seconds; see there."""
        return Progress(what, total, unit, quiet=self.quiet, delay_s=2)


def elapsed(since: float) -> str:
    """Time since a `time.monotonic()` as h:mm:ss."""
    return clock(time.monotonic() - since)
