"""`train compare --html`: the curves of runs on one page, and the tutorial's table of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache.common.drawing import SERIES, Figure, Key, Palette, Panel, render_page, require_drawing, write_page
from cache.console.progress import clock
from cache.console.text import counted
from cache.errors import InputError

from ..metrics.scores import score_title
from .curves import Floats, Group, curves_of, group_runs, smooth
from .results import RunResult
from .table import column_names, group_rows, mean_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 300
"""Points drawn of a curve."""


def write_comparison(results: Sequence[RunResult], path: Path) -> int:
    """Write the page that compares some runs; returns its size in bytes.

    Raises:
        InputError: no run has recorded a step yet, or a library that draws is missing.
        StorageError: the page cannot be written.
    """
    require_drawing("train compare --html")
    return write_page(path, comparison_page(group_runs(list(map(curves_of, results)))))


def comparison_page(groups: Sequence[Group]) -> str:
    """The comparison as one self-contained HTML page.

    Raises:
        InputError: no run has recorded a step yet.
    """
    results = [run.result for group in groups for run in group.runs]
    begun = [replace(group, runs=tuple(run for run in group.runs if len(run.steps))) for group in groups]
    drawn = [group for group in begun if group.runs]
    if not drawn:
        folders = ", ".join(str(result.folder) for result in results)
        raise InputError(f"no step is recorded yet in {folders}; wait for the first log point (--logging-steps steps)")
    heading = f"Runs on {', '.join(sorted({result.info.cache_name for result in results}))}"
    rows = group_rows({group.name: [run.result for run in group.runs] for group in groups})
    about = (
        f"{counted(len(results), 'run')} in {counted(len(groups), 'group')}; runs that differ only by seed are grouped"
    )
    return render_page(
        Path(__file__).with_name("comparison.html"),
        title=heading,
        heading=heading,
        about=about,
        figures=[learning(drawn), pace(drawn)],
        table_title=f"{counted(len(groups), 'group')} side by side",
        note="Means over the runs of a group, ± their standard deviation." if _several(groups) else "",
        rows=(("runs", *column_names(results)[1:]), rows),
    )


# --- figures


def learning(groups: Sequence[Group]) -> Figure:
    """Loss against steps, tokens and seconds, and the main scores against seconds."""
    longest = max(float(group.stack("seconds").mean(axis=0)[-1]) for group in groups)
    unit, scale = _time_unit(longest)
    window = max(1, min(len(group.runs[0].steps) for group in groups) // 30)
    panels = [
        _record_panel(groups, "steps", "loss", ("Loss against steps", "optimizer step", "loss"), window),
        _record_panel(groups, "real_tokens", "loss", ("Loss against real tokens", "real tokens", "loss"), window),
        _record_panel(
            groups, "seconds", "loss", ("Loss against time", f"training time, {unit}", "loss"), window, scale
        ),
    ]
    scored = [group for group in groups if group.scores()[0]]
    names = dict.fromkeys(group.score_name for group in scored)
    panels += [_score_panel(groups, name, unit, scale) for name in names]
    caption = "Training loss"
    caption += f", the mean of {window} records at a time" if window > 1 else ""
    caption += "; of several seeds the mean, and one standard deviation to either side." if _several(groups) else "."
    return Figure("learning", _learning_title(scored, groups), caption, tuple(panels), keys=_keys(groups))


def _learning_title(scored: Sequence[Group], groups: Sequence[Group]) -> str:
    parts = []
    for group in (scored or groups)[:3]:
        name, values = score_title(group.score_name), group.scores()[1][:, -1:].ravel()
        if not scored:
            name = "a loss of"
            values = np.array([smooth(run.loss, max(1, len(run.loss) // 10))[-1] for run in group.runs])
        took = clock(float(group.stack("seconds").mean(axis=0)[-1]))
        parts.append(f"{group.name} reaches {name} {mean_text(values.tolist(), '.3f')} in {took}")
    return "; ".join(parts)


def pace(groups: Sequence[Group]) -> Figure:
    """Throughput and learning rate against steps."""
    speeds = [_speed(group) for group in groups]
    title = "; ".join(
        f"{group.name}: {speed:,.0f} real tokens per second" for group, speed in zip(groups, speeds, strict=True)
    )
    if len(groups) > 1 and min(speeds) > 0:
        best, worst = int(np.argmax(speeds)), int(np.argmin(speeds))
        title = (
            f"{groups[best].name} trains on {speeds[best]:,.0f} real tokens per second, {groups[worst].name} on "
            f"{speeds[worst]:,.0f}: {speeds[best] / speeds[worst]:.2f} times as many"
        )
    panels = (
        _record_panel(groups, "steps", "speed", ("Throughput", "optimizer step", "real tokens per second")),
        _record_panel(groups, "steps", "learning_rate", ("Learning rate", "optimizer step", "")),
    )
    caption = "Throughput is that between one record and the next, padding not counted."
    return Figure("pace", title, caption, panels, keys=_keys(groups))


def _keys(groups: Sequence[Group]) -> tuple[Key, ...]:
    return tuple(Key(group.name, *_line_style(index)) for index, group in enumerate(groups))


def _line_style(index: int) -> tuple[str, bool]:
    """The color of a group's line, and whether it is dashed: colors repeat after eight groups."""
    return SERIES[index % len(SERIES)], index >= len(SERIES)


def _speed(group: Group) -> float:
    """Real tokens per second over the whole of its runs."""
    seconds = sum(float(run.seconds[-1]) for run in group.runs)
    return sum(float(run.real_tokens[-1]) for run in group.runs) / max(seconds, 1e-9)


Titles = tuple[str, str, str]
"""Heading of a panel, label of x, label of y."""


def _record_panel(
    groups: Sequence[Group], x: str, y: str, titles: Titles, window: int = 1, scale: float = 1.0
) -> Panel:
    """A curve of the records against another one."""
    curves = [(group.stack(x).mean(axis=0) / scale, group.stack(y)) for group in groups]
    return _panel(groups, curves, titles, smoothing=window)


def _score_panel(groups: Sequence[Group], name: str, unit: str, scale: float) -> Panel:
    """The main score of this name against time, for the groups that have it."""
    curves = []
    for group in groups:
        steps, values = group.scores()
        if group.score_name != name or not steps:
            curves.append((np.zeros(0), np.zeros((len(group.runs), 0))))
            continue
        seconds = np.interp(steps, group.stack("steps")[0], group.stack("seconds").mean(axis=0))
        curves.append((seconds / scale, values))
    title = score_title(name)
    heading = f"{title[0].upper()}{title[1:]} against time"
    return _panel(groups, curves, (heading, f"training time, {unit}", title), dots=True)


Curve = tuple[Floats, Floats]
"""x (S,), and y (R, S) of a group's runs."""


def _panel(
    groups: Sequence[Group], curves: Sequence[Curve], titles: Titles, smoothing: int = 1, dots: bool = False
) -> Panel:
    """A line per group, with a band where it has several runs."""
    heading, x_label, y_label = titles
    last = max(float(x[-1]) for x, _ in curves if len(x)) or 1.0

    def draw(axes: "Axes", colors: Palette) -> None:
        for index, (x, y) in enumerate(curves):
            if len(x):
                color, dashed = _line_style(index)
                line = "--" if dashed else "-"
                _draw_curve(axes, x, y, smoothing, colors[color], "o" + line if dots or len(x) == 1 else line)
        if not dots:
            highest = axes.dataLim.ymax
            axes.set_ylim(0, 1.05 * highest if 0 < highest < np.inf else 1)  # infinite where nothing is drawn
        axes.set(xlim=(0, last), xlabel=x_label, ylabel=y_label)

    return Panel(heading, draw, f"{heading}, of {', '.join(group.name for group in groups)}")


def _draw_curve(axes: "Axes", x: Floats, y: Floats, smoothing: int, color: str, line: str) -> None:
    """The mean of a group's runs, with a band of one standard deviation; for one run also its unsmoothed values."""
    each = np.stack([smooth(run, smoothing) for run in y])
    pick = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
    mean = each.mean(axis=0)[pick]
    if len(y) > 1:
        deviation = each.std(axis=0, ddof=1)[pick]
        axes.fill_between(x[pick], mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)
    elif smoothing > 1:
        axes.plot(x[pick], y[0][pick], color=color, linewidth=0.8, alpha=0.4)
    axes.plot(x[pick], mean, line, color=color, linewidth=2, clip_on=not line.startswith("o"))


def _time_unit(seconds: float) -> tuple[str, float]:
    for unit, scale in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 3 * scale:
            return unit, scale
    return "seconds", 1.0


def _several(groups: Sequence[Group]) -> bool:
    return any(len(group.runs) > 1 for group in groups)
