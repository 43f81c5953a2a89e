"""Runs side by side: the tutorial's table, in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.common.progress import clock

from ..metrics.scores import TITLES, main_score
from ..run_folder.folder import METRICS, TIMING, Json, RunInfo, open_run, read_run, read_summary
from ..run_folder.records import read_records

COLUMNS = (
    "run",
    "padding",
    "model",
    "batch size",
    "max length",
    "accuracy",
    "device",
    "time per epoch",
    "steps",
    "padded tokens",
)


@dataclass(frozen=True)
class RunResult:
    """What a run's folder says of it.

    Attributes:
        folder: of the run.
        info: its settings.
        score: name and value of the main score of its last evaluation, None where there was none.
        epoch_seconds: training time of each epoch, seconds.
        steps: optimizer steps done.
        padded_tokens: tokens computed in training, padding included.
        finished: whether it came to its end.
    """

    folder: Path
    info: RunInfo
    score: tuple[str, float] | None
    epoch_seconds: tuple[float, ...]
    steps: int
    padded_tokens: int
    finished: bool

    @property
    def accuracy(self) -> float | None:
        """Of its last evaluation, None where there was none or the task has none."""
        return self.score[1] if self.score and self.score[0] == "accuracy" else None


def read_result(folder: Path) -> RunResult:
    """Read what a run has recorded so far.

    Raises:
        InputError: the folder is no run.
    """
    with open_run(folder) as run:
        info, finished = read_run(run), read_summary(run) is not None
        metrics, timing = read_records(run, METRICS), read_records(run, TIMING)
    steps = [record for record in metrics if record["kind"] == "step"]
    scores = [main_score(record, info.metric) for record in metrics if record["kind"] == "eval"]
    return RunResult(
        folder=folder,
        info=info,
        score=scores[-1] if scores else None,
        epoch_seconds=tuple(record["seconds"] for record in timing if record["kind"] == "epoch"),
        steps=steps[-1]["step"] if steps else 0,
        padded_tokens=sum(record["padded_tokens"] for record in steps),
        finished=finished,
    )


def column_names(results: Sequence[RunResult]) -> tuple[str, ...]:
    """`COLUMNS`, but `score` for accuracy where a run is known by another score."""
    others = any(result.score and result.score[0] != "accuracy" for result in results)
    return tuple("score" if others and name == "accuracy" else name for name in COLUMNS)


def score_text(name: str, value: str) -> str:
    """A score in its column, which says accuracy if nothing else."""
    return value if name == "accuracy" else f"{TITLES.get(name, name)} {value}"


def comparison(results: Sequence[RunResult]) -> str:
    """The table of some runs in Markdown, one run a row."""
    rows = [column_names(results), *(_cells(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def _cells(result: RunResult) -> tuple[str, ...]:
    settings, seconds = result.info.settings, result.epoch_seconds
    size = f"{settings.max_tokens:,} tokens" if settings.batch_size is None else str(settings.batch_size)
    return (
        str(result.folder) + ("" if result.finished else " (not finished)"),
        str(settings.strategy),
        Path(str(settings.model)).name,
        size,
        str(result.info.max_length),
        score_text(result.score[0], f"{result.score[1]:.4f}") if result.score else "",
        f"{result.info.environment['device']}, {settings.precision}",
        clock(sum(seconds) / len(seconds)) if seconds else "",
        f"{result.steps:,}",
        f"{result.padded_tokens:,}",
    )


def to_json(result: RunResult) -> Json:
    """A run's result as plain JSON."""
    return {
        "run": str(result.folder),
        "settings": result.info.settings.to_json(),
        "accuracy": result.accuracy,
        **({} if result.score is None else dict([result.score])),
        "epoch_seconds": list(result.epoch_seconds),
        "steps": result.steps,
        "padded_tokens": result.padded_tokens,
        "finished": result.finished,
    }
