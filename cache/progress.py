"""What both commands show while they work, on stderr: a bar on a terminal, now and then a plain line elsewhere.

Only plain text, in no colours, so that NO_COLOR has nothing to ask for.
"""

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import Self

BAR_EVERY_S = 0.1
LINE_EVERY_S = 15.0
BAR_WIDTH, LEAST_BAR = 24, 4
ERASE = "\r\x1b[K"
"""To the beginning of the line, and clear it."""


class Progress:
    """How far a piece of work is, how fast it goes, how long it will take; a context that takes the bar away.

    Args:
        what: what is going on, for example "tokenizing".
        total: amount at the end, 0 where it is not known.
        unit: of the amount; bytes ("B") are shown as MB.
        done: amount that was done before.
        quiet: show nothing.
        delay_s: show nothing of work that is done within so many seconds; where there is no terminal, unless it is
            0, within `LINE_EVERY_S`.
    """

    def __init__(
        self, what: str, total: int, unit: str, *, done: int = 0, quiet: bool = False, delay_s: float = 0.0
    ) -> None:
        self.what, self.total, self.unit, self.quiet = what, total, unit, quiet
        self.first = self.done = done
        self.began = time.monotonic()
        self.on_terminal = is_terminal()
        self.due = self.began + (delay_s if self.on_terminal or not delay_s else LINE_EVERY_S)
        self.shown = False

    def update(self, amount: int, note: str = "") -> None:
        """Count what was done since the last call; `note` is shown instead of the plain speed."""
        self.done += amount
        now = time.monotonic()
        if self.quiet or now < self.due:
            return
        self.due = now + (BAR_EVERY_S if self.on_terminal else LINE_EVERY_S)
        share = f"{min(1.0, self.done / self.total):4.0%}" if self.total else ""
        parts = [self._amounts(), *self._times(now - self.began), note or self._rate(now - self.began)]
        if self.on_terminal:
            print(ERASE + self._line(share, parts), end="", file=sys.stderr, flush=True)
            self.shown = True
        else:
            print("  ".join(filter(None, [self.what, share, *parts])), file=sys.stderr, flush=True)

    def _line(self, share: str, parts: list[str]) -> str:
        """What fits into a line of the terminal, with a bar as long as there is room for."""
        columns = _columns() - 1
        room = min(BAR_WIDTH, columns - len("  ".join([self.what, share, "[]", *parts])))
        bar = ""
        if self.total and room >= LEAST_BAR:
            bar = f"[{'#' * min(room, self.done * room // self.total):.<{room}}]"
        return "  ".join(filter(None, [self.what, share, bar, *parts]))[:columns]

    def clear(self) -> None:
        """Take the bar away, before something else is printed; the next update brings it back."""
        if self.shown:
            print(ERASE, end="", file=sys.stderr, flush=True)
            self.shown = False
        if self.on_terminal:
            self.due = min(self.due, time.monotonic())

    def _times(self, elapsed: float) -> list[str]:
        left = max(0, self.total - self.done) * elapsed / max(1, self.done - self.first)
        ahead = [f"{clock(left)} left"] if self.total and self.done > self.first else []
        return ([] if self.on_terminal else [f"{clock(elapsed)} elapsed"]) + ahead

    def _rate(self, elapsed: float) -> str:
        return f"{self._amount((self.done - self.first) / max(elapsed, 1e-9))} {self._unit}/s"

    def _amounts(self) -> str:
        end = f"/{self._amount(self.total)}" if self.total else ""
        return f"{self._amount(min(self.done, self.total or self.done))}{end} {self._unit}"

    @property
    def _unit(self) -> str:
        return "MB" if self.unit == "B" else self.unit

    def _amount(self, value: float) -> str:
        if self.unit == "B":
            return f"{value / 1e6:,.1f}"
        return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2f}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def is_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _columns() -> int:
    """Of the terminal that stderr is, wherever stdout goes."""
    with contextlib.suppress(OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
