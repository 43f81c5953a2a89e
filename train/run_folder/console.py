"""What a run shows while it trains: its progress, on stderr, and its report, epoch by epoch."""

from collections.abc import Callable, Mapping

from cache.console.progress import Progress

Log = Callable[[str], None]

CELL = 8
"""Minimum width of a column of the table of epochs."""


class TrainingProgress:
    """The progress bar and the report of a run; updated at log points only, where the numbers are read anyway. With
    `quiet` only warnings are shown, by `alarm`."""

    def __init__(self, quiet: bool, report: Log, alarm: Log) -> None:
        self.quiet, self.report, self.alarm = quiet, report, alarm
        self.steps = Progress("training", 0, "steps", quiet=quiet)
        self.evaluation: Progress | None = None
        self.titles: list[str] = []

    def begin(self, total: int, done: int = 0) -> None:
        """Start the clock and show the bar of a run of `total` steps, of which `done` were done before."""
        self.steps = Progress("training", total, "steps", done=done, quiet=self.quiet)
        if self.steps.on_terminal:
            self.steps.update(0)

    def update(self, step: int, loss: float | None, tokens_per_second: float) -> None:
        """Show that `step` steps are done."""
        text = f"loss {loss:.4f}" if loss is not None else "no finite loss"
        self.steps.update(step - self.steps.done, f"{text}, {tokens_per_second:,.0f} tokens/s")

    def evaluating(self, split: str, rows: int) -> Progress:
        """The progress bar of an evaluation, shown instead of the run's."""
        self.steps.clear()
        self.evaluation = Progress(f"evaluating {split}", rows, "rows", quiet=self.quiet, delay_s=1)
        return self.evaluation

    def log(self, text: str) -> None:
        """Print a line of the report, above the bar."""
        self.close()
        if not self.quiet:
            self.report(text)

    def warn(self, text: str) -> None:
        """Print a warning, above the bar."""
        self.close()
        self.alarm(text)

    def epoch(self, cells: Mapping[str, str]) -> None:
        """Print a line of the table of epochs, with a header before the first one and where the columns change."""
        if self.titles != list(cells):
            self.titles = list(cells)
            self.log("\n" + self._line({title: title for title in cells}))
        self.log(self._line(cells))

    def _line(self, cells: Mapping[str, str]) -> str:
        return "  ".join(text.rjust(max(CELL, len(title))) for title, text in cells.items())

    def close(self) -> None:
        """Remove the bar until the next update."""
        self.steps.clear()
        if self.evaluation is not None:
            self.evaluation.clear()
