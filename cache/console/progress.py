"""Console progress on stderr: log lines, tqdm's bar on a terminal, a plain line every few seconds elsewhere.

Plain text without colours, so NO_COLOR needs no handling.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

BAR_EVERY_S = 0.1
LINE_EVERY_S = 15.0
ABANDONED = "lengthwise-transfer"
"""Name of threads that may hang in a library: a command that ends does not wait for them."""


class Progress:
    """Progress bar of one piece of work: amount done, speed, time left. Leaving its context removes the bar.

    Args:
        what: name of the work, for example "tokenizing".
        total: amount at the end, 0 where it is not known.
        unit: of the amount; bytes ("B") are shown as MB.
        done: amount that was done before.
        quiet: show nothing.
        delay_s: seconds before the bar appears. Where stderr is not a terminal, any value above 0 delays the first
            line by `LINE_EVERY_S`.
    """

    def __init__(
        self, what: str, total: int, unit: str, *, done: int = 0, quiet: bool = False, delay_s: float = 0.0
    ) -> None:
        self.what, self.total, self.unit, self.quiet, self.delay_s = what, total, unit, quiet, delay_s
        self.first = self.done = done
        self.began = time.monotonic()
        self.on_terminal = is_terminal()
        self.due = self.began + (LINE_EVERY_S if delay_s else 0)
        self.bar: Any = None

    def update(self, amount: int, note: str = "") -> None:
        """Add to the amount done. `note` is shown next to the speed; in a plain line it replaces the speed."""
        self.done += amount
        if self.quiet:
            return
        if self.on_terminal:
            self._draw(amount, note)
            return
        now = time.monotonic()
        if now >= self.due:
            self.due = now + LINE_EVERY_S
            share = f"{min(1.0, self.done / self.total):4.0%}" if self.total else ""
            parts = [self._amounts(), *self._times(now - self.began), note or self._rate(now - self.began)]
            print("  ".join(filter(None, [self.what, share, *parts])), file=sys.stderr, flush=True)

    def _draw(self, amount: int, note: str) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(
                desc=self.what, total=self.total or None, initial=self.first, unit=self._bar_unit,
                unit_scale=self.unit == "B", delay=self.delay_s, mininterval=BAR_EVERY_S, miniters=1, leave=False,
                position=0, smoothing=0, dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip
            self.bar.start_t -= time.monotonic() - self.began
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        # A total may be a guess, and beyond it tqdm shows no bar.
        self.bar.update(max(0, min(amount, self.total - self.bar.n)) if self.total else amount)

    def clear(self) -> None:
        """Remove the bar before something else is printed; the next update draws it again."""
        if self.bar is not None:
            self.bar.clear()

    def _times(self, elapsed: float) -> list[str]:
        left = max(0, self.total - self.done) * elapsed / max(1, self.done - self.first)
        ahead = [f"{clock(left)} left"] if self.total and self.done > self.first else []
        return [f"{clock(elapsed)} elapsed", *ahead]

    def _rate(self, elapsed: float) -> str:
        return f"{self._amount((self.done - self.first) / max(elapsed, 1e-9))} {self._unit}/s"

    def _amounts(self) -> str:
        end = f"/{self._amount(self.total)}" if self.total else ""
        return f"{self._amount(min(self.done, self.total or self.done))}{end} {self._unit}"

    @property
    def _bar_unit(self) -> str:
        return self.unit if self.unit == "B" else f" {self.unit}"

    @property
    def _unit(self) -> str:
        return "MB" if self.unit == "B" else self.unit

    def _amount(self, value: float) -> str:
        if self.unit == "B":
            return f"{value / 1e6:,.1f}"
        return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2f}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


@dataclass(frozen=True)
class ConsoleProgress:
    """Log lines and progress bars of a command.

    Attributes:
        quiet: show warnings alone.
    """

    quiet: bool = False

    def log(self, line: str) -> None:
        """Print a line."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning, also where quiet."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def bar(self, what: str, total: int, unit: str) -> Progress:
        """A progress bar that appears after two seconds."""
        return Progress(what, total, unit, quiet=self.quiet, delay_s=2)


@contextmanager
def waiting(what: str, quiet: bool = False) -> Iterator[None]:
    """Say on a terminal what is under way while it is; for work that cannot tell how far it is."""
    line = "" if quiet or not is_terminal() else f"{what} ..."
    print(line, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * len(line)}\r" if line else "", end="", file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
