"""The table of `train compare` in Markdown: the tutorial's columns, one row per run."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from cache.console.progress import clock
from cache.errors import LengthwiseError

from ..metrics.scores import main_score, score_title
from ..run_folder.folder import METRICS, TIMING, Json, RunInfo, open_run, read_run, read_summary
from ..run_folder.records import exported_evaluation, read_records

COLUMNS = (
    "run", "padding", "model", "batch size", "max length", "accuracy", "device", "time per epoch", "steps",
    "padded tokens",
)  # fmt: skip
PLUS_MINUS = "\u00a0±\u00a0"

_MARKDOWN = re.compile(r"[\\|`<\[*&]")


@dataclass(frozen=True)
class RunResult:
    """The results recorded in a run folder.

    Attributes:
        folder: of the run.
        info: its settings.
        score: name and value of the main score of its model, see `exported_evaluation`; None where there is none.
        split: that the score is of; empty where there is none.
        epoch_seconds: training time of each epoch, seconds.
        steps: optimizer steps done.
        padded_tokens: tokens computed in training, padding included.
        finished: whether the run is complete.
        metrics, timing: its records so far.
    """

    folder: Path
    info: RunInfo
    score: tuple[str, float] | None
    split: str
    epoch_seconds: tuple[float, ...]
    steps: int
    padded_tokens: int
    finished: bool
    metrics: Sequence[Json]
    timing: Sequence[Json]


def read_result(folder: Path) -> RunResult:
    """Read the results that a run has so far.

    Raises:
        InputError: the folder is not a run folder.
    """
    with open_run(folder) as run:
        info, finished = read_run(run), read_summary(run) is not None
        metrics, timing = read_records(run, METRICS), read_records(run, TIMING)
    steps = [record for record in metrics if record["kind"] == "step"]
    evaluation = exported_evaluation(metrics, info.settings)
    return RunResult(
        folder=folder,
        info=info,
        score=None if evaluation is None else main_score(evaluation, info.metric),
        split="" if evaluation is None else evaluation["split"],
        epoch_seconds=tuple(record["seconds"] for record in timing if record["kind"] == "epoch"),
        steps=steps[-1]["step"] if steps else 0,
        padded_tokens=sum(record["padded_tokens"] for record in steps),
        finished=finished,
        metrics=metrics,
        timing=timing,
    )


def read_results(folders: Sequence[Path], warn: Callable[[str], None]) -> list[RunResult]:
    """Read the results of the runs among some folders; `warn` receives why another one is left out.

    Raises:
        LengthwiseError: none of them can be read; what is wrong with each is named.
    """
    results, errors = [], []
    for folder in folders:
        try:
            results.append(read_result(folder))
        except LengthwiseError as error:
            errors.append(error)
    if not results:
        raise type(errors[0])("\n".join(map(str, errors)))
    for text in errors:
        warn(f"warning: left out: {text}")
    return results


def column_names(results: Sequence[RunResult]) -> tuple[str, ...]:
    """`COLUMNS`, with `score` for accuracy where a run has another main score."""
    others = any(result.score and result.score[0] != "accuracy" for result in results)
    return tuple("score" if others and name == "accuracy" else name for name in COLUMNS)


def comparison(results: Sequence[RunResult]) -> str:
    """The table of some runs in Markdown, one row per run."""
    rows = [column_names(results), *(cells(str(result.folder), [result]) for result in results)]
    rows = [tuple(_MARKDOWN.sub(r"\\\g<0>", cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def cells(name: str, results: Sequence[RunResult]) -> tuple[str, ...]:
    """A row of the table, of one run or of a group that differs only by seed: means, ± standard deviations."""
    info, settings = results[0].info, results[0].info.settings
    unfinished = sum(not result.finished for result in results)
    note = f" ({f'{unfinished} ' * (len(results) > 1)}not finished)" * bool(unfinished)
    scores = [result.score for result in results if result.score]
    score = mean_text([value for _, value in scores], ".4f")
    if scores and scores[0][0] != "accuracy":
        score = f"{score_title(scores[0][0])} {score}"
    if scores and results[0].split != "test":
        score += f" on {results[0].split}"
    epochs = [fmean(result.epoch_seconds) for result in results if result.epoch_seconds]
    return (
        name + note,
        str(settings.strategy) + " --padding-free" * settings.padding_free,
        Path(str(settings.model)).name,
        f"{settings.max_tokens:,} tokens" if settings.batch_size is None else str(settings.batch_size),
        f"{info.max_length:,}",
        score,
        f"{info.environment['device']}, {settings.precision}",
        clock(fmean(epochs)) + (f"{PLUS_MINUS}{stdev(epochs):.1f}\u00a0s" if len(epochs) > 1 else "") if epochs else "",
        f"{fmean(result.steps for result in results):,.0f}",
        f"{fmean(result.padded_tokens for result in results):,.0f}",
    )


def mean_text(values: Sequence[float], form: str) -> str:
    """The mean of some values, ± their standard deviation where there are several; empty where there are none."""
    if len(values) < 2:
        return "".join(f"{value:{form}}" for value in values)
    return f"{fmean(values):{form}}{PLUS_MINUS}{stdev(values):{form}}"


def to_json(result: RunResult) -> Json:
    """A run's result as plain JSON."""
    return {
        "run": str(result.folder),
        "settings": result.info.settings.to_json(),
        "accuracy": None,
        **({} if result.score is None else {**dict([result.score]), "split": result.split}),
        "epoch_seconds": list(result.epoch_seconds),
        "steps": result.steps,
        "padded_tokens": result.padded_tokens,
        "finished": result.finished,
    }
