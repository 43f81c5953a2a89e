"""How pictures are drawn: panels of SVG made of a few shapes; `axes` places data in them.

`prep report` and `train compare` share it. Colors are written as var(--name), so that one drawing serves light and
dark: a page defines the variables (see `page`), and in a picture that stands alone `sheet` fills them in.

Shapes: N points.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape as escape_html
from typing import Any

from .arrays import Array

Numbers = Sequence[float] | Array
Palette = dict[str, str]

LIGHT: Palette = {
    "paper": "#ffffff",
    "ink": "#1a1f24",
    "muted": "#5b6670",
    "grid": "#e3e7ea",
    "subtle": "#f1f4f6",
    "real": "#0072b2",
    "padding": "#e8a317",
    "accent": "#b8440b",
    "1": "#0072b2",
    "2": "#c24a00",
    "3": "#00795c",
    "4": "#a03f7a",
    "5": "#7a6500",
    "6": "#4a5560",
    "7": "#3d4db7",
    "8": "#8a3b2e",
}
"""Colors on white; those that carry data are told apart by people who see red and green alike (after Okabe and Ito)."""

DARK: Palette = {
    "paper": "#14181c",
    "ink": "#e8ebee",
    "muted": "#9ba6b0",
    "grid": "#2b3239",
    "subtle": "#1e242a",
    "real": "#4fa8de",
    "padding": "#e8a317",
    "accent": "#ff9a5c",
    "1": "#56b4e9",
    "2": "#ff9a5c",
    "3": "#3fc79a",
    "4": "#e59ac3",
    "5": "#e0cb4c",
    "6": "#a9b4be",
    "7": "#9aa8ff",
    "8": "#e0a095",
}

SERIES = 8
"""Colors for lines: var(--1) to var(--8)."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"


@dataclass(frozen=True)
class Panel:
    """One drawing: its size in pixels, what is in it, and what it shows, said for those who cannot see it."""

    width: float
    height: float
    content: str
    about: str

    def svg(self) -> str:
        """The panel as an inline image that takes the width it is given."""
        box = f"0 0 {number(self.width)} {number(self.height)}"
        return f'<svg viewBox="{box}" role="img" aria-label="{escape(self.about)}">{self.content}</svg>'


@dataclass(frozen=True)
class Figure:
    """Panels that together show one finding.

    Attributes:
        name: the picture's file name, without its ending.
        title: the finding, with its number.
        caption: how to read it; plain text.
        panels: the drawings.
        columns: how many stand side by side where there is room.
        keys: what a color means: (words, color name).
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 2
    keys: tuple[tuple[str, str], ...] = ()


# --- elements


def escape(value: object) -> str:
    """Text for HTML and XML; characters that XML cannot hold become the replacement character."""
    text = "".join(
        c if c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff" else "�" for c in str(value)
    )
    return escape_html(text)


def number(value: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


def shape(name: str, content: str = "", **attributes: Any) -> str:
    """An SVG element; font_size becomes font-size, None is left out."""
    given = ((key.replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    written = "".join(f' {key}="{number(v) if isinstance(v, float) else escape(v)}"' for key, v in given)
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def label(
    x: float,
    y: float,
    words: object,
    *,
    color: str = "muted",
    anchor: str = "start",
    size: float = 12,
    bold: bool = False,
) -> str:
    """A line of text whose baseline starts, ends or has its middle at (x, y)."""
    return shape(
        "text",
        escape(words),
        x=float(x),
        y=float(y),
        fill=f"var(--{color})",
        text_anchor=None if anchor == "start" else anchor,
        font_size=size,
        font_weight=600 if bold else None,
    )


def line(x: Numbers, y: Numbers, color: str, *, width: float = 1.6, opacity: float = 1, dashed: bool = False) -> str:
    """A line through N points, in pixels; broken where a point is not finite."""
    path, pen = [], "M"
    for px, py in zip(x, y, strict=True):
        if not (math.isfinite(px) and math.isfinite(py)):
            pen = "M"
            continue
        path.append(f"{pen}{number(px)},{number(py)}")
        pen = "L"
    return shape(
        "path",
        d="".join(path),
        fill="none",
        stroke=f"var(--{color})",
        stroke_width=width,
        stroke_linejoin="round",
        stroke_linecap="round",
        stroke_dasharray="5 3" if dashed else None,
        opacity=None if opacity == 1 else opacity,
    )


def band(x: Numbers, low: Numbers, high: Numbers, color: str, opacity: float) -> str:
    """The area between two lines through N points, in pixels."""
    there, back = list(zip(x, high, strict=True)), list(zip(x, low, strict=True))[::-1]
    return area(there + back, color, opacity)


def area(points: Sequence[tuple[float, float]], color: str, opacity: float = 1) -> str:
    """A filled polygon."""
    path = "L".join(f"{number(x)},{number(y)}" for x, y in points)
    return shape("path", d=f"M{path}Z", fill=f"var(--{color})", opacity=None if opacity == 1 else opacity)


def boxes(boxes: Sequence[tuple[float, float, float, float]], color: str) -> str:
    """Filled rectangles (x, y, width, height) of one color, as a single element."""
    path = "".join(f"M{number(x)},{number(y)}h{number(w)}v{number(h)}h{number(-w)}Z" for x, y, w, h in boxes)
    return shape("path", d=path, fill=f"var(--{color})")


def clip(words: str, length: int) -> str:
    """At most `length` characters, the last an ellipsis where some were left out."""
    return words if len(words) <= length else words[: length - 1] + "…"


# --- a picture that stands alone


def sheet(figure: Figure, palette: Palette) -> str:
    """A figure as an SVG file of its own, in the colors of `palette`: title, keys, and its panels in columns."""
    margin, gap = 24.0, 28.0
    columns = min(figure.columns, len(figure.panels))
    width = columns * figure.panels[0].width + (columns - 1) * gap
    parts, y = [], margin + 16
    for words in textwrap.wrap(figure.title, int(width / 9.2)):
        parts.append(label(margin, y, words, color="ink", size=18, bold=True))
        y += 25
    for words in textwrap.wrap(figure.caption, int(width / 6.6)):
        parts.append(label(margin, y, words, size=13))
        y += 19
    x = margin
    for words, color in figure.keys:
        parts.append(boxes([(x, y - 9, 12, 12)], color))
        parts.append(label(x + 18, y + 2, words, size=13))
        x += 40 + 7.2 * len(words)
    y += 26 if figure.keys else 8
    for begin in range(0, len(figure.panels), columns):
        row = figure.panels[begin : begin + columns]
        for index, panel in enumerate(row):
            place = f"translate({number(margin + index * (panel.width + gap))} {number(y)})"
            parts.append(shape("g", panel.content, transform=place))
        y += max(panel.height for panel in row) + gap
    size = (width + 2 * margin, y - gap + margin)
    paper = boxes([(0, 0, *size)], "paper")
    root = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(size[0])} {number(size[1])}"'
    drawing = f'<svg {root} width="{number(size[0])}" height="{number(size[1])}" font-family="{FONT}">{paper}'
    drawing += "".join(parts) + "</svg>"
    for name, color in palette.items():
        drawing = drawing.replace(f"var(--{name})", color)
    return drawing
