"""What a run shows while it goes: how far it is, on stderr, and its report, epoch by epoch."""

import time
from collections.abc import Callable, Mapping

from cache.common.progress import Progress

CELL = 8
"""Least width of a column of the table of epochs."""


class Screen:
    """The progress and the report of a run; updated at log points only, where the numbers are at hand anyway.

    Args:
        total: steps of the run.
        done: steps done before.
        quiet: show nothing.
        report: prints a line of the report.
        alarm: prints a line that matters even where no report is wanted.
    """

    def __init__(
        self, total: int, done: int, quiet: bool, report: Callable[[str], None], alarm: Callable[[str], None]
    ) -> None:
        self.quiet, self.report, self.alarm = quiet, report, alarm
        self.steps = Progress("training", total, "steps", done=done, quiet=quiet)
        self.evaluation: Progress | None = None
        self.titles: list[str] = []

    def begin(self) -> None:
        """Start the clock, and show the bar before anything is done."""
        self.steps.began = time.monotonic()
        if self.steps.on_terminal:
            self.steps.update(0)

    def update(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        """Show that `step` steps are done."""
        text = f"loss {loss:.4f}" if loss is not None else "loss not finite"
        self.steps.update(step - self.steps.done, f"{text}, {tokens_per_second:,.0f} tokens/s")

    def evaluating(self, split: str, rows: int) -> Progress:
        """Progress of an evaluation, in the place of the run's."""
        self.steps.clear()
        self.evaluation = Progress(f"evaluating {split}", rows, "rows", quiet=self.quiet, delay_s=1)
        return self.evaluation

    def say(self, text: str) -> None:
        """Print a line of the report, in the place of the bar."""
        self.close()
        if not self.quiet:
            self.report(text)

    def warn(self, text: str) -> None:
        """Print a line that matters, in the place of the bar."""
        self.close()
        self.alarm(text)

    def epoch(self, cells: Mapping[str, str]) -> None:
        """Print a line of the table of epochs, and its head before the first one or where the columns change."""
        if self.titles != list(cells):
            self.titles = list(cells)
            self.say("\n" + self._line({title: title for title in cells}))
        self.say(self._line(cells))

    def _line(self, cells: Mapping[str, str]) -> str:
        return "  ".join(text.rjust(max(CELL, len(title))) for title, text in cells.items())

    def close(self) -> None:
        """Take the bar away, until there is more to show."""
        self.steps.clear()
        if self.evaluation is not None:
            self.evaluation.clear()
