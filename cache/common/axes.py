"""Axes of pictures: from data to pixels, with ticks at round numbers.

The y axis's label stands above it, where one reads it first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .svg import Panel, label, line


@dataclass(frozen=True)
class Axes:
    """A plotting area inside a panel: from data to pixels.

    Attributes:
        x, y: first and last value of each axis.
        width, height: of the panel, pixels.
        left, right, top, bottom: margins, pixels.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 440
    height: float = 250
    left: float = 46
    right: float = 14
    top: float = 44
    bottom: float = 38

    def at_x(self, values: Any) -> Any:
        """Pixels of values on the x axis."""
        return self._at(values, self.x, self.left, self.width - self.right)

    def at_y(self, values: Any) -> Any:
        """Pixels of values on the y axis, which points up."""
        return self._at(values, self.y, self.height - self.bottom, self.top)

    @staticmethod
    def _at(values: Any, ends: tuple[float, float], first: float, last: float) -> Any:
        scaled = (np.asarray(values, float) - ends[0]) / ((ends[1] - ends[0]) or 1)
        return first + scaled * (last - first)

    def panel(self, heading: str, content: Sequence[str], about: str = "") -> Panel:
        """A panel with a heading above these axes; `about` is what it shows, by default the heading."""
        head = label(0, 13, heading, color="ink", size=13, bold=True)
        return Panel(self.width, self.height, head + "".join(content), about or heading)


Format = Callable[[float], str]


def frame(
    axes: Axes,
    x_label: str,
    y_label: str,
    *,
    x_count: int = 5,
    y_count: int = 4,
    x_format: Format | None = None,
    y_format: Format | None = None,
) -> str:
    """Grid lines, tick labels and axis labels."""
    parts = []
    left, right, floor = axes.left, axes.width - axes.right, axes.height - axes.bottom
    for tick in ticks(*axes.y, y_count):
        y = float(axes.at_y(tick))
        parts.append(line((left, right), (y, y), "grid", width=1))
        parts.append(label(left - 6, y + 4, (y_format or round_number)(tick), anchor="end", size=11))
    for tick in ticks(*axes.x, x_count):
        x = float(axes.at_x(tick))
        parts.append(line((x, x), (floor, floor + 4), "muted", width=1))
        anchor = "end" if x > right - 4 and axes.right < 20 else "middle"
        parts.append(
            label(
                x + (2 if anchor == "end" else 0), floor + 16, (x_format or round_number)(tick), anchor=anchor, size=11
            )
        )
    parts.append(line((left, right), (floor, floor), "muted", width=1))
    parts.append(label((left + right) / 2, axes.height - 6, x_label, anchor="middle", size=11))
    parts.append(label(0, axes.top - 13, y_label, size=11) if y_label else "")
    return "".join(parts)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values from `low` to `high`: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def round_number(value: float) -> str:
    """A tick's number: 400, 25,000, 10 M, 0.25, 5e-05."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,g} M"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def percent(value: float) -> str:
    """A share as a percentage without decimals."""
    return f"{value:.0%}"


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved as little apart as needed for a gap between neighbours, in low..high if they fit."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = [0.0] * len(positions)
    floor = low
    for index in order:
        placed[index] = max(positions[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
