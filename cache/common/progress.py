"""What both commands show while they work, on stderr: tqdm's bar on a terminal, now and then a plain line elsewhere.

Only plain text, in no colours, so that NO_COLOR has nothing to ask for.
"""

import os
import sys
import time
from types import TracebackType
from typing import Any, Self

BAR_EVERY_S = 0.1
LINE_EVERY_S = 15.0


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
        self.what, self.total, self.unit, self.quiet, self.delay_s = what, total, unit, quiet, delay_s
        self.first = self.done = done
        self.began = time.monotonic()
        self.on_terminal = is_terminal()
        self.due = self.began + (LINE_EVERY_S if delay_s else 0)
        self.bar: Any = None

    def update(self, amount: int, note: str = "") -> None:
        """Count what was done since the last call; `note` is shown beside the speed, in a plain line instead of it."""
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
        """Take the bar away, before something else is printed; a later update brings it back."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()


def is_terminal() -> bool:
    """Whether stderr is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
