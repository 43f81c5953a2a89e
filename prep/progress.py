"""What a command says while it works: progress bars with remaining time, and plain lines. All of it on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


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

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Any]:
        """A progress bar: call its `update(amount)`. It shows itself after two seconds, on a terminal only.

        Args:
            what: what is going on, for example "tokenizing".
            total: amount at the end.
            unit: of the amount; "B" is shown as kB, MB, …
        """
        from tqdm import tqdm

        with tqdm(
            desc=what,
            total=total or None,
            unit=unit,
            unit_scale=True,
            delay=2,
            leave=False,
            disable=self.quiet or not sys.stderr.isatty(),
            dynamic_ncols=True,
        ) as bar:
            yield bar


def elapsed(since: float) -> str:
    """Time since a `time.monotonic()` as h:mm:ss."""
    return str(timedelta(seconds=round(time.monotonic() - since)))
