"""What a run shows while it goes: a bar on a terminal, now and then a plain line elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from .records import clock

PLAIN_LINE_EVERY_S = 15.0


class Screen:
    """The progress of a run, on stderr; updated at log points only, where the numbers are at hand anyway.

    Args:
        total: steps of the run.
        done: steps done before.
        quiet: show nothing.
        say: prints a line of the report.
    """

    def __init__(self, total: int, done: int, quiet: bool, say: Callable[[str], None]) -> None:
        self.total, self.quiet, self.report = total, quiet, say
        self.began, self.first, self.last_line = time.monotonic(), done, float("-inf")
        self.bar: Any = None
        if not quiet and sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, file=sys.stderr, leave=False)

    def update(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        """Show that `step` steps are done."""
        text = f"loss {loss:.4f}" if loss is not None else "loss not finite"
        text += f", {tokens_per_second:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(step - self.bar.n)
            return
        now = time.monotonic()
        if not self.quiet and now - self.last_line >= PLAIN_LINE_EVERY_S:
            self.last_line = now
            elapsed = now - self.began
            left = elapsed / max(1, step - self.first) * (self.total - step)
            line = f"step {step:,}/{self.total:,}  {text}  {clock(elapsed)} elapsed, {clock(left)} left"
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line of the report, above the bar."""
        if self.bar is not None:
            self.bar.clear()
        if not self.quiet:
            self.report(text)
        if self.bar is not None:
            self.bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
