"""The tables of `train compare` in Markdown: the tutorial's columns, one row per run, and one per group of seeds."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from cache.console.progress import clock
from cache.console.text import counted

from ..metrics.scores import score_title
from ..run_folder.folder import Json
from .results import RunResult
from .seeds import groups_by_seed

COLUMNS = (
    "run", "padding", "model", "batch size", "max length", "accuracy", "device", "time per epoch", "steps",
    "padded tokens",
)  # fmt: skip
PLUS_MINUS = "\u00a0±\u00a0"

_MARKDOWN = re.compile(r"[\\|`<\[*&]")


def column_names(results: Sequence[RunResult]) -> tuple[str, ...]:
    """`COLUMNS`, with `score` for accuracy where a run has another main score."""
    others = any(result.score and result.score[0] != "accuracy" for result in results)
    return tuple("score" if others and name == "accuracy" else name for name in COLUMNS)


def comparison(results: Sequence[RunResult]) -> str:
    """The table of some runs in Markdown, one row per run; where some differ only by seed, also one row per group."""
    tables = [_markdown(column_names(results), [cells(str(result.folder), [result]) for result in results])]
    groups = _groups(results)
    if len(groups) < len(results):
        tables.append("Means of runs that differ only by seed, ± their standard deviation:")
        tables.append(_markdown(("runs", *column_names(results)[1:]), group_rows(groups)))
    return "\n\n".join(tables)


def _groups(results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    return {name: [results[number] for number in members] for name, members in groups_by_seed(results).items()}


def group_rows(groups: Mapping[str, Sequence[RunResult]]) -> list[tuple[str, ...]]:
    """A row of the table for each group of runs, by its name."""
    return [cells(f"{name}, {counted(len(runs), 'run')}", runs) for name, runs in groups.items()]


def _markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rows = [tuple(_MARKDOWN.sub(r"\\\g<0>", cell) for cell in row) for row in (names, *rows)]
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


def groups_to_json(results: Sequence[RunResult]) -> list[Json]:
    """The groups of runs that differ only by seed, with their main score, as plain JSON; a single run has no standard
    deviation."""
    groups = []
    for name, runs in _groups(results).items():
        scores = [run.score for run in runs if run.score]
        group: Json = {"name": name, "runs": [str(run.folder) for run in runs]}
        if scores:
            values = [value for _, value in scores]
            deviation = stdev(values) if len(values) > 1 else None
            group |= {"score": scores[0][0], "mean": fmean(values), "standard_deviation": deviation}
        groups.append(group)
    return groups
