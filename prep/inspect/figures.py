"""Figures of a cache: each a function from numbers to a figure whose title states the finding."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cache.common.drawing import Figure, Key, Palette, Panel, clip
from cache.console.text import counted
from cache.format.manifest import SplitInfo
from cache.plans.costs import PlanCost

from .figures_data import LengthCurve, PlanView, Truncation, rows_at_limit
from .summary import COMPARED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 12
"""Most classes drawn: the largest."""

TOKEN_KEYS = (Key("real tokens", "blue"), Key("padding", "amber"))


def share(part: float, whole: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{part / max(whole, 1):.1%}"


def overhead(cost: PlanCost) -> str:
    """Padding overhead as a percentage, with a second decimal where the first would be 0."""
    return f"{cost.overhead:,.1%}" if cost.overhead >= 0.001 or not cost.overhead else f"{cost.overhead:.2%}"


# --- batches and their costs


def batches(views: Sequence[PlanView], max_length: int) -> Figure:
    """The first batches of each strategy, row by row, on one scale."""
    drawn = views[: len(COMPARED)]
    most = max(sum(batch.rows + 1 for batch in view.first) for view in drawn)
    panels = tuple(
        Panel(
            f"{view.spec.strategy}, {overhead(view.cost)} overhead",
            partial(_draw_batches, view, max_length, most),
            f"{view.spec.strategy}: the first batches of an epoch, {overhead(view.cost)} padding overhead",
            width=220,
            height=440,
        )
        for view in drawn
    )
    fixed, dynamic, smart = (view.cost for view in drawn[:3])
    title = (
        f"Padding overhead: {overhead(smart)} in smart batches, {overhead(dynamic)} in random ones, "
        f"{overhead(fixed)} with fixed padding"
    )
    first = len(drawn[0].first)
    several = f"The first {first} of {fixed.batches:,} batches" if first < fixed.batches else "The batches"
    caption = (
        f"{several} of an epoch, each row a line as long as the row has tokens, all on one scale. Padding overhead is "
        "padding against real tokens, over the whole epoch."
    )
    return Figure("batches", title, caption, panels, columns=4, keys=TOKEN_KEYS)


def _draw_batches(view: PlanView, max_length: int, most: int, axes: "Axes", colors: Palette) -> None:
    """Batches from top to bottom, one unit high per row, with an empty row between them."""
    edges, lengths, widths = [0.0], [], []
    for batch in view.first:
        top, count = edges[-1], len(batch.lengths)
        edges += [*np.linspace(top, top + batch.rows, count + 1)[1:], top + batch.rows + 1]
        lengths += [*batch.lengths, 0]
        widths += [batch.width] * count + [0]
    for values, color in ((widths, "amber"), (lengths, "blue")):
        axes.stairs(values, edges, orientation="horizontal", fill=True, color=colors[color], linewidth=0)
    axes.set(xlim=(0, max_length), ylim=(most, 0), yticks=[], xlabel="tokens")


def costs(views: Sequence[PlanView], chosen: PlanView) -> Figure:
    """Tokens computed per epoch under each plan; `chosen` is the one that the title compares with fixed padding."""
    fixed = views[0].cost
    title = (
        f"Fixed padding computes {fixed.padded_tokens:,} tokens per epoch, {chosen.spec.strategy} batches "
        f"{chosen.cost.padded_tokens:,}: {chosen.saving(fixed):.1%} less"
    )
    caption = f"Tokens computed for {fixed.real_tokens:,} real ones, under each plan."
    panel = Panel("Tokens computed per epoch", partial(_draw_tokens, views, chosen), height=70 + 36.0 * len(views))
    return Figure("costs", title, caption, (panel,), keys=TOKEN_KEYS)


def _draw_tokens(views: Sequence[PlanView], chosen: PlanView, axes: "Axes", colors: Palette) -> None:
    plans, computed = range(len(views)), [view.cost.padded_tokens for view in views]
    fixed = views[0].cost
    bars = axes.barh(plans, computed, 0.5, color=colors["amber"])
    axes.barh(plans, [view.cost.real_tokens for view in views], 0.5, color=colors["blue"])
    labels = [f"{fixed.padded_tokens:,}"]
    labels += [f"{view.cost.padded_tokens:,}, {view.saving(fixed):.1%} less" for view in views[1:]]
    for view, label in zip(views, axes.bar_label(bars, labels, padding=6, color=colors["ink"]), strict=True):
        label.set_fontweight("bold" if view is chosen else "normal")
    _name_bars(axes, [view.name for view in views], colors)


def _name_bars(axes: "Axes", names: Sequence[str], colors: Palette) -> None:
    """Name horizontal bars, from top to bottom; labels give their values, not an axis."""
    axes.set_yticks(range(len(names)), names, color=colors["ink"])
    axes.set(ylim=(len(names) - 0.5, -0.5), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)


# --- lengths


def lengths(source: LengthCurve, sorted_rows: LengthCurve, max_length: int) -> Figure:
    """Row lengths in the order of the source and of the cache."""
    headings = {"In source order": source, "Sorted, as the cache holds them": sorted_rows}
    panels = tuple(
        Panel(
            heading,
            partial(_draw_lengths, curve, max_length),
            f"{heading}: row lengths, mean step between neighbors {curve.jump:.3g} tokens",
        )
        for heading, curve in headings.items()
    )
    title = (
        f"In source order the next row is {_tokens(source.jump)} longer or shorter on average, "
        f"in the cache {_tokens(sorted_rows.jump)}"
    )
    caption = "Of each chunk of neighboring rows: shortest to longest (faint), middle half (strong), median (line)."
    return Figure("lengths", title, caption, panels)


def _tokens(value: float) -> str:
    return f"{value:,.0f} tokens" if value >= 10 else f"{value:.2g} tokens"


def _draw_lengths(curve: LengthCurve, max_length: int, axes: "Axes", colors: Palette) -> None:
    low, quarter, median, three_quarters, high = curve.quantiles
    blue = colors["blue"]
    axes.fill_between(curve.position, low, high, color=blue, alpha=0.25, linewidth=0)
    axes.fill_between(curve.position, quarter, three_quarters, color=blue, alpha=0.4, linewidth=0)
    axes.plot(curve.position, median, "." if curve.rows == 1 else "-", color=blue, linewidth=1.4, clip_on=False)
    axes.set(xlim=(0, curve.rows), ylim=(0, max_length), xlabel="row", ylabel="tokens")
    axes.locator_params("x", nbins=4, integer=True)


# --- max length and classes


def histogram(info: SplitInfo, max_length: int, cuts: Sequence[Truncation], chunked: bool = False) -> Figure:
    """The distribution of row lengths, and the share that smaller max lengths would cut.

    Where texts longer than the max length are `chunked`, no token was cut.
    """
    at_limit = rows_at_limit(info, max_length)
    if chunked:
        title = f"{share(at_limit, info.rows)} of the rows are {max_length:,} tokens long, the limit"
    elif at_limit:
        title = (
            f"{share(at_limit, info.rows)} of the rows are {max_length:,} tokens long, the limit, and may have been cut"
        )
    else:
        title = f"No row was cut at {max_length:,} tokens: the longest has {info.longest:,}"
    if cuts:
        cut = cuts[len(cuts) // 2]
        title += f"; at {cut.max_length:,} it would be {share(cut.rows_cut, info.rows)}"
    longer = "longer texts are several rows" if chunked else "how long they were before they were cut is not recorded"
    caption = f"Rows as the cache holds them; {longer}."
    panel = Panel("Rows by length", partial(_draw_histogram, info, max_length))
    return Figure("truncation", title, caption, (panel,), columns=1)


def _draw_histogram(info: SplitInfo, max_length: int, axes: "Axes", colors: Palette) -> None:
    """Rows below the limit in equal bins of lengths; those at the limit in a bar of their own."""
    below, at_limit, step = info.length_histogram[:max_length], rows_at_limit(info, max_length), -(-max_length // 50)
    bins = [*range(0, max_length, step), max_length]
    counts, _, _ = axes.hist(range(len(below)), bins, weights=below, rwidth=0.86, color=colors["blue"])
    if at_limit:
        axes.bar(max_length, at_limit, step, align="edge", color=colors["vermilion"])
        label, end = f"{at_limit:,} rows of {max_length:,}", (max_length, at_limit)
        side = "top" if at_limit > max(counts) / 10 else "bottom"  # of a low bar, above the axis and its numbers
        axes.annotate(label, end, (-6, 0), textcoords="offset points", ha="right", va=side, color=colors["ink"])
    axes.set(xlim=(0, max_length + step), xlabel="length, tokens", ylabel="rows" + f" per {step} tokens" * (step > 1))
    axes.locator_params("y", integer=True)


def classes(counts: Sequence[int], names: Sequence[str], total: int, what: str = "row") -> Figure:
    """The number of rows, or of labelled tokens, of each class.

    Args:
        counts: of each class; a row may be of several.
        names: of the classes.
        total: rows, or labelled tokens.
        what: one of them.
    """
    rows, order = total, sorted(range(len(counts)), key=lambda index: -counts[index])
    shown = order[:MOST_CLASSES] if len(counts) > MOST_CLASSES else sorted(order)
    more = f" The {MOST_CLASSES} largest of {len(counts):,} are drawn." if len(counts) > MOST_CLASSES else ""
    top, bottom = share(counts[order[0]], rows), share(counts[order[-1]], rows)
    if len(counts) == 1:
        title = f"The one class, {names[0]}, has {top} of the {what}s"
    elif counts[order[0]] - counts[order[-1]] <= 0.02 * rows / len(counts):
        each = bottom if top == bottom else f"about {bottom}"
        title = f"The {len(counts):,} classes are balanced: each has {each} of the {what}s"
    else:
        largest, smallest = names[order[0]], names[order[-1]]
        title = f"The largest class, {largest}, has {top} of the {what}s, the smallest, {smallest}, {bottom}"
    draw = partial(_draw_classes, [counts[index] for index in shown], [names[index] for index in shown], rows)
    panel = Panel(f"{what.capitalize()}s of each class", draw, height=60 + 28.0 * len(shown))
    several = ", which may be of several classes" * (sum(counts) > rows)
    return Figure("classes", title, f"{counted(rows, what)}{several}.{more}", (panel,), columns=1)


def _draw_classes(counts: Sequence[int], names: Sequence[str], rows: int, axes: "Axes", colors: Palette) -> None:
    bars = axes.barh(range(len(counts)), counts, 0.65, color=colors["blue"])
    labels = [f"{count:,} ({share(count, rows)})" for count in counts]
    axes.bar_label(bars, labels, padding=6, color=colors["ink"])
    _name_bars(axes, [clip(name, 16) for name in names], colors)
