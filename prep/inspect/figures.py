"""A cache's pictures: each a function from numbers to a figure whose title states what it shows."""

from collections.abc import Sequence

import numpy as np

from cache.common.axes import Axes, frame, percent
from cache.common.svg import Figure, Panel, area, band, boxes, clip, label, line
from cache.format.manifest import SplitInfo
from cache.plans.costs import PlanCost

from .figures_data import Envelope, Order, PlanView, Truncation, rows_at_limit, truncations
from .summary import RANKS

MOST_CLASSES = 12
"""Classes drawn; of more, the largest."""

DRAWN = ("fixed", "dynamic", "smart", "tight")
"""Strategies of which batches and widths are drawn side by side."""

NARROW_WIDTH = 220.0
TOKEN_KEYS = (("real tokens", "real"), ("padding", "padding"))


def share(part: float, whole: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{part / max(whole, 1):.1%}"


def overhead(cost: PlanCost) -> str:
    """Padding overhead as a percentage, with a second decimal where the first would be 0."""
    return f"{cost.overhead:.1%}" if cost.overhead >= 0.001 or not cost.overhead else f"{cost.overhead:.2%}"


def classes(counts: Sequence[int], names: Sequence[str], what: str = "rows") -> Figure:
    """How many rows, or what else has labels, each class has."""
    rows, order = sum(counts), sorted(range(len(counts)), key=lambda index: -counts[index])
    shown = sorted(order[:MOST_CLASSES]) if len(counts) <= MOST_CLASSES else order[:MOST_CLASSES]
    left, step = 112.0, 30.0
    parts = []
    for place, index in enumerate(shown):
        y, width = 30 + place * step, 190 * counts[index] / max(counts[order[0]], 1)
        parts.append(label(0, y + 14, clip(names[index], 16), color="ink"))
        parts.append(boxes([(left, y, max(width, 0.5), 20)], "real"))
        parts.append(label(left + width + 8, y + 14, f"{counts[index]:,}  ({share(counts[index], rows)})", color="ink"))
    axes = Axes((0, 1), (0, 1), height=30 + step * len(shown))
    more = f" The {MOST_CLASSES} largest of {len(counts):,} are drawn." if len(counts) > MOST_CLASSES else ""
    top, bottom = share(counts[order[0]], rows), share(counts[order[-1]], rows)
    if len(counts) == 1:
        title = f"All {what} are of one class, {names[0]}"
    elif counts[order[0]] - counts[order[-1]] <= 0.02 * rows / len(counts):
        each = bottom if top == bottom else f"about {bottom}"
        title = f"The {len(counts):,} classes are balanced: each has {each} of the {what}"
    else:
        title = (
            f"The largest class, {names[order[0]]}, has {top} of the {what}, the smallest, {names[order[-1]]}, {bottom}"
        )
    caption = f"{rows:,} {what}.{more}"
    return Figure("classes", title, caption, (axes.panel(f"{what.capitalize()} of each class", parts),), columns=1)


def lengths(source: Order, sorted_rows: Order, max_length: int) -> Figure:
    """Row lengths as the source has them and as the cache has them."""
    panels = []
    for order, heading in ((source, "In source order"), (sorted_rows, "Sorted, as the cache holds them")):
        shape = order.envelope
        axes = Axes((0, _last(shape)), (0, max_length))
        parts = [frame(axes, "row", "tokens"), *_envelope(axes, shape, "real")]
        panels.append(
            axes.panel(heading, parts, f"{heading}: row lengths, mean step between neighbours {order.jump:.3g} tokens")
        )
    title = (
        f"In source order the next row is {_tokens(source.jump)} longer or shorter on average, "
        f"in the cache {_tokens(sorted_rows.jump)}"
    )
    caption = "Of each stretch of neighbouring rows: shortest to longest (light), middle half (dark), median (line)."
    return Figure("lengths", title, caption, tuple(panels))


def _tokens(value: float) -> str:
    return f"{value:,.0f} tokens" if value >= 10 else f"{value:.2g} tokens"


def _last(shape: Envelope) -> float:
    """The end of the sequence: as far after the last bin's middle as the one before it is, at least."""
    position = shape.position
    return float(position[-1] + (position[-1] - position[-2]) / 2) if len(position) > 1 else 1.0


def _envelope(axes: Axes, shape: Envelope, color: str) -> list[str]:
    x = axes.at_x(shape.position)
    return [
        band(x, axes.at_y(shape.low), axes.at_y(shape.high), color, 0.22),
        band(x, axes.at_y(shape.quarter), axes.at_y(shape.three_quarters), color, 0.4),
        line(x, axes.at_y(shape.median), color),
    ]


def histogram(info: SplitInfo, max_length: int, cuts: Sequence[Truncation]) -> Figure:
    """How long rows are, and what smaller max lengths would cut."""
    at_limit = rows_at_limit(info, max_length)
    if at_limit:
        title = (
            f"{share(at_limit, info.rows)} of the rows are {max_length:,} tokens long, the limit, and may have been cut"
        )
    else:
        title = f"No row was cut at {max_length:,} tokens: the longest has {info.longest:,}"
    if cuts:
        cut = cuts[len(cuts) // 2]
        title += f"; at {cut.max_length:,} it would be {share(cut.rows_cut, info.rows)}"
    caption = (
        "Left: rows by length. Right: what a smaller max length would do to the rows as they are in this cache. "
        "How long its rows were before they were cut, a cache does not say."
    )
    panels = (_histogram_panel(info, max_length, at_limit), _truncation_panel(info, max_length))
    return Figure("truncation", title, caption, panels)


def _histogram_panel(info: SplitInfo, max_length: int, at_limit: int) -> Panel:
    counts = np.zeros(max_length + 1, np.int64)
    counts[: len(info.length_histogram)] = info.length_histogram
    step = max(1, -(-max_length // 50))
    edges = np.arange(0, max_length, step)
    heights = np.add.reduceat(counts[:max_length], edges)
    axes = Axes((0, max_length + step), (0, max(float(heights.max()), at_limit, 1) * 1.08))
    floor = float(axes.at_y(0))
    left, right = axes.at_x(edges), axes.at_x(np.minimum(edges + step, max_length))
    tops = axes.at_y(heights)
    bars = [
        (x + 0.4, top, end - x - 0.8, floor - top) for x, end, top in zip(left, right, tops, strict=True) if top < floor
    ]
    unit = "rows" if step == 1 else f"rows, by {step} tokens"
    parts = [frame(axes, "length, tokens", unit), boxes(bars, "real")]
    if at_limit:
        x, top = float(axes.at_x(max_length)), float(axes.at_y(at_limit))
        parts.append(boxes([(x + 0.4, top, axes.width - axes.right - x, floor - top)], "accent"))
        parts.append(label(x - 6, top + 10, f"{at_limit:,} rows of {max_length:,}", color="ink", anchor="end"))
    return axes.panel("Rows by length", parts)


def _truncation_panel(info: SplitInfo, max_length: int) -> Panel:
    limits = np.unique(np.linspace(1, max_length, 120).astype(int))
    cuts = truncations(info, max_length, limits.tolist())
    axes = Axes((0, max_length), (0, 1), right=86)
    x, end = axes.at_x(limits), axes.width - axes.right + 6
    cut = axes.at_y([item.rows_cut / max(info.rows, 1) for item in cuts[:-1] or cuts])  # at the limit nobody knows
    kept = axes.at_y([item.tokens / max(info.tokens, 1) for item in cuts])
    parts = [
        frame(axes, "max length, tokens", "share", y_format=percent),
        line(x[: len(cut)], cut, "accent", width=2),
        line(x, kept, "real", width=2),
        label(end, kept[-1] + 4, "tokens kept", color="real"),
        label(end, cut[-1] + 4, "rows cut", color="accent"),
    ]
    return axes.panel("If rows were cut shorter", parts)


def batches(views: Sequence[PlanView], max_length: int) -> Figure:
    """The first batches of each strategy, row by row, on one scale."""
    drawn = [view for view in views if view.strategy in DRAWN][: len(DRAWN)]
    most = max(sum(batch.rows for batch in view.first) + len(view.first) for view in drawn)
    panels = tuple(_batches_panel(view, max_length, most) for view in drawn)
    count = len(drawn[0].first)
    fixed, smart = drawn[0].row.cost, drawn[2].row.cost
    title = (
        f"Padding overhead: {overhead(smart)} in smart batches, {overhead(drawn[1].row.cost)} in random ones, "
        f"{overhead(fixed)} with fixed padding"
    )
    caption = (
        f"The first {count} of {fixed.batches:,} batches of an epoch, one below the other, each row a line as long as "
        "the row has tokens; all on one scale. Padding overhead is padding against real tokens, over the whole epoch."
    )
    return Figure("batches", title, caption, panels, columns=4, keys=TOKEN_KEYS)


def _batches_panel(view: PlanView, max_length: int, most_rows: int) -> Panel:
    axes = Axes((0, max_length), (0, 1), NARROW_WIDTH, 440, left=1, right=8, top=44, bottom=34)
    row_height = (axes.height - axes.top - axes.bottom - 4) / most_rows
    y, padding, real = axes.top + 2, [], []
    for batch in view.first:
        height = batch.rows * row_height
        padding.append((float(axes.at_x(0)), y, float(axes.at_x(batch.width)) - axes.left, height))
        real.append(_staircase(axes, batch.lengths, y, height))
        y += height + row_height
    ruler = axes.height - axes.bottom + 4
    parts = [label(0, 32, f"{overhead(view.row.cost)} padding overhead"), boxes(padding, "padding"), *real]
    parts.append(line((axes.left, axes.width - axes.right), (ruler, ruler), "muted", width=1))
    for tick, anchor in ((0, "start"), (max_length, "end")):
        parts.append(label(float(axes.at_x(tick)) - (tick == 0), ruler + 15, f"{tick:,}", anchor=anchor, size=11))
    parts.append(label(axes.width / 2, ruler + 15, "tokens", anchor="middle", size=11))
    about = f"{view.strategy}: {len(view.first)} batches, {overhead(view.row.cost)} padding overhead"
    return axes.panel(view.strategy, parts, about)


def _staircase(axes: Axes, row_lengths: Sequence[float], top: float, height: float) -> str:
    """The real tokens of a batch: as many steps as rows."""
    step, points = height / len(row_lengths), [(float(axes.left), top)]
    for index, length in enumerate(row_lengths):
        x = float(axes.at_x(length))
        points += [(x, top + index * step), (x, top + (index + 1) * step)]
    return area([*points, (float(axes.left), top + height)], "real")


def widths(views: Sequence[PlanView], max_length: int) -> Figure:
    """How wide batches are from step to step."""
    drawn = [view for view in views if view.strategy in DRAWN][: len(DRAWN)]
    panels = []
    for view in drawn:
        axes = Axes((0, _last(view.widths)), (0, max_length), NARROW_WIDTH, 190, left=34, right=8)
        parts = [frame(axes, "step", "tokens", x_count=3), *_envelope(axes, view.widths, "real")]
        panels.append(axes.panel(view.strategy, parts, f"{view.strategy}: batch widths through an epoch"))
    smart = drawn[2].mean_widths
    title = (
        f"Short and long batches stay mixed: in each tenth of a smart epoch the mean width lies between "
        f"{min(smart):,.0f} and {max(smart):,.0f} tokens"
    )
    caption = (
        "Widths of the batches of an epoch, step by step: narrowest to widest (light), middle half (dark), median."
    )
    return Figure("widths", title, caption, tuple(panels), columns=4)


def costs(views: Sequence[PlanView], default: str) -> Figure:
    """What an epoch computes under each plan, and how busy ranks are that share its batches."""
    fixed, dynamic, smart = (view.row.cost for view in views[:3])
    chosen = next((view for view in views if view.row.spec.id == default), views[2])
    title = (
        f"Fixed padding computes {fixed.padded_tokens:,} tokens an epoch, {chosen.strategy} batches "
        f"{chosen.row.cost.padded_tokens:,}: {chosen.row.saving(fixed):.1%} less"
    )
    caption = (
        f"Left: tokens computed for {fixed.real_tokens:,} real ones. Right: tokens of the mean rank against those of "
        "the busiest, summed over the steps, where so many ranks share each batch; at 100% no rank ever waits."
    )
    size = views[2].row.spec.batch_size or 0
    if size < RANKS[-1]:
        caption += f" A batch of {size} rows leaves {RANKS[-1] - size} of {RANKS[-1]} ranks without any."
    heading = f"Busy on 8 ranks: {smart.utilization[8]:.0%} smart, {dynamic.utilization[8]:.0%} random"
    return Figure(
        "costs", title, caption, (_tokens_panel(views, default), _ranks_panel(views, heading)), keys=TOKEN_KEYS
    )


ROW = 42.0
"""Height of a plan's bar with its name above it."""


def _tokens_panel(views: Sequence[PlanView], default: str) -> Panel:
    fixed, parts = views[0].row.cost, []
    scale = 272 / max(*(view.row.cost.padded_tokens for view in views), 1)
    for place, view in enumerate(views):
        cost, y = view.row.cost, 26 + place * ROW
        saving = "" if cost is fixed else f", {view.row.saving(fixed):.1%} less"
        width, chosen = cost.padded_tokens * scale, view.row.spec.id == default
        parts.append(label(0, y + 13, view.name, color="ink"))
        parts.append(
            boxes([(0, y + 19, width, 15)], "padding") + boxes([(0, y + 19, cost.real_tokens * scale, 15)], "real")
        )
        parts.append(label(width + 8, y + 31, f"{cost.padded_tokens:,}{saving}", color="ink", bold=chosen))
    return Axes((0, 1), (0, 1), height=30 + ROW * len(views)).panel("Tokens computed in an epoch", parts)


def _ranks_panel(views: Sequence[PlanView], heading: str) -> Panel:
    left, column, bar, step = 116.0, 110.0, 62.0, 27.0
    parts = [label(0, 58 + index * step, view.name, color="ink") for index, view in enumerate(views)]
    for place, count in enumerate(RANKS):
        x = left + place * column
        parts.append(label(x, 37, "1 rank" if count == 1 else f"{count} ranks", size=11))
        for index, view in enumerate(views):
            y, busy = 46 + index * step, view.row.cost.utilization[count]
            parts.append(boxes([(x, y, bar, 15)], "grid") + boxes([(x, y, bar * busy, 15)], "real"))
            parts.append(label(x + bar + 6, y + 12, f"{busy:.0%}", color="ink"))
    return Axes((0, 1), (0, 1), height=50 + step * len(views)).panel(heading, parts)
