"""Figures by matplotlib and pages by Jinja: inline SVG that follows the reader's light or dark theme, and PNG files.

`prep report` and `train compare --html` share it; both libraries come with the extra `pictures` and are imported
only where something is drawn. A panel is drawn in the colors of `LIGHT`; in SVG each of them then becomes a CSS
variable, which the page defines for both themes.
"""

import importlib
import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from .files import storage_errors
from .folder import Folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Palette = dict[str, str]

COLORS = {
    "paper": ("#ffffff", "#14181c"),
    "ink": ("#1a1f24", "#e8ebee"),
    "muted": ("#5b6670", "#9ba6b0"),
    "grid": ("#e3e7ea", "#2b3239"),
    "subtle": ("#f1f4f6", "#1e242a"),
    "amber": ("#e8a317", "#e8a317"),
    "blue": ("#0072b2", "#4fa8de"),
    "vermilion": ("#c24a00", "#ff9a5c"),
    "green": ("#00795c", "#3fc79a"),
    "pink": ("#a03f7a", "#e59ac3"),
    "olive": ("#7a6500", "#e0cb4c"),
    "slate": ("#4a5560", "#a9b4be"),
    "indigo": ("#3d4db7", "#9aa8ff"),
    "brown": ("#8a3b2e", "#e0a095"),
}
"""Colors on white and on black, all different; those of data can be told apart by the color-blind (after Okabe and
Ito)."""

LIGHT: Palette = {name: light for name, (light, _) in COLORS.items()}
DARK: Palette = {name: dark for name, (_, dark) in COLORS.items()}

SERIES = ("blue", "vermilion", "green", "pink", "olive", "slate", "indigo", "brown")
"""Colors of lines, in order."""

PNG_DPI = 144
"""Two pixels of a PNG for each unit of a panel, of which an inch has 72."""


class Key(NamedTuple):
    """The meaning of a color, or of a dashed line in it."""

    words: str
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One plot: its heading, the function that draws it, what it shows said in words, and its size in pixels."""

    heading: str
    draw: Callable[["Axes", Palette], None]
    about: str = ""
    width: float = 440
    height: float = 250


@dataclass(frozen=True)
class Figure:
    """Panels that together show one finding.

    Attributes:
        name: the picture's file name, without its ending.
        title: the finding, with its number.
        caption: how to read it.
        panels: the plots.
        columns: how many are side by side where there is room.
        keys: what the colors mean.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 2
    keys: tuple[Key, ...] = ()


def require_drawing(command: str) -> None:
    """Check that the libraries that draw are installed, before any work is done.

    Raises:
        InputError: one is missing; the message says how to install it.
    """
    for name in ("matplotlib", "jinja2"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(f"{command} needs {name}: pip install 'lengthwise[pictures]'") from None


def render_page(template: Path, **values: Any) -> str:
    """An HTML page from a template that extends `page.html` and shows `values`, all text of which is escaped; figures
    become sections with inline SVG by the template's `figure_section`."""
    import jinja2

    folders = [template.parent, Path(__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: xml_text(value) if type(value) is str else value,
    )
    environment.globals.update(light=LIGHT, dark=DARK, panel_svg=panel_svg)
    return environment.get_template(template.name).render(values) + "\n"


def write_page(path: Path, page: str) -> int:
    """Write a page, whole or not at all; returns its size in bytes.

    Raises:
        InputError: something else than a file is there.
        StorageError: it cannot be written.
    """
    if path.exists() and not path.is_file():  # a device would be replaced by the page
        raise InputError(f"cannot write {path}: it is a folder, pipe or device, expected the name of a file")
    data = page.encode()
    with storage_errors(path), Folder.open(path.parent) as folder:
        folder.write(path.name, data)
    return len(data)


def xml_text(text: str) -> str:
    """Text without the characters that XML cannot hold; each becomes the replacement character."""
    return re.sub("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]", "�", text)


def clip(words: str, length: int) -> str:
    """At most `length` characters on one line, the last an ellipsis where some were left out."""
    words = xml_text(words).replace("\n", " ")
    return words if len(words) <= length else words[: length - 1] + "…"


def panel_svg(panel: Panel) -> str:
    """A panel as an inline SVG element of any width, its colors CSS variables (`jinja2.utils.markupsafe.Markup`)."""
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure as Sheet

    written = io.StringIO()
    with _style(LIGHT, f"{panel.heading} {panel.about}"):
        sheet = Sheet(figsize=(panel.width / 72, panel.height / 72), layout="constrained", facecolor="none")
        _draw(panel, sheet.subplots(), LIGHT)
        sheet.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    content = written.getvalue().partition("</defs>")[2]  # the style sheet before it would apply to the whole page
    content = re.sub("<[^>]+>", lambda tag: _inline_tag(tag[0]), content)
    content = re.sub(r">\s+<", "><", content).strip()
    head = f'<svg viewBox="0 0 {panel.width:g} {panel.height:g}" role="img" aria-label='
    return Markup(f'{head}"{escape(xml_text(panel.about or panel.heading))}">{content}')


def _inline_tag(tag: str) -> str:
    """A tag of matplotlib's SVG as a page needs it: short, without ids that repeat, in the page's font and colors."""
    tag = re.sub(r' id="[\w.]+_\d+"|font-family: [^;"]*;? ?', "", tag)
    tag = re.sub(r"\d+\.\d{2,}(?=[ \n\"])", lambda number: f"{float(number[0]):.1f}", tag) if " d=" in tag else tag
    for name, color in LIGHT.items():
        tag = tag.replace(color, f"var(--{name})")
    return " ".join(tag.split())


def write_pngs(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure as NAME.png on white and NAME-dark.png on black; returns their paths.

    Raises:
        StorageError: they cannot be written.
    """
    written = []
    with storage_errors(folder), Folder.make(folder) as opened:
        for figure in figures:
            for ending, palette in (("", LIGHT), ("-dark", DARK)):
                written.append(folder / f"{figure.name}{ending}.png")
                opened.write(written[-1].name, figure_png(figure, palette))
    return written


def figure_png(figure: Figure, palette: Palette) -> bytes:
    """A whole figure as a PNG picture: title, panels, caption, keys."""
    from matplotlib.figure import Figure as Sheet
    from matplotlib.patches import Patch

    columns = min(figure.columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    width = max(columns * figure.panels[0].width, 620) / 72  # inches
    title = textwrap.fill(xml_text(figure.title), int(width * 7.4))
    caption = textwrap.fill(xml_text(figure.caption), int(width * 10.5))
    height = rows * max(panel.height for panel in figure.panels) + 22 * title.count("\n") + 18 * caption.count("\n")
    written = io.BytesIO()
    with _style(palette, figure.name):
        sheet = Sheet(figsize=(width, (height + 90) / 72), facecolor=palette["paper"])
        sheet.set_layout_engine("constrained", h_pad=8 / 72)
        sheet.suptitle(title, x=0.01, ha="left", size=15, weight="bold", color=palette["ink"])
        sheet.supxlabel(caption + "\n" * bool(figure.keys), x=0.01, ha="left", size=12)
        if figure.keys:
            handles = [Patch(color=palette[key.color], label=xml_text(key.words)) for key in figure.keys]
            sheet.legend(handles=handles, loc="outside lower left", bbox_to_anchor=(0.01, 0, 1, 1), ncols=len(handles))
        for panel, axes in zip(figure.panels, sheet.subplots(rows, columns, squeeze=False).flat, strict=False):
            _draw(panel, axes, palette)
        sheet.savefig(written, format="png", dpi=PNG_DPI, bbox_inches="tight", pad_inches=1 / 3)
    return written.getvalue()


def _draw(panel: Panel, axes: "Axes", palette: Palette) -> None:
    axes.set_title(xml_text(panel.heading))
    axes.xaxis.set_major_formatter(tick_text)
    axes.yaxis.set_major_formatter(tick_text)
    panel.draw(axes, palette)


def tick_text(value: float, _position: float = 0) -> str:
    """A tick's number: 400, 25,000, 10 M, 0.25, 5e-05."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,g} M"
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


@contextmanager
def _style(palette: Palette, salt: str) -> Iterator[None]:
    """matplotlib's settings for one picture: its fonts, its colors, and ids that depend on nothing but `salt`."""
    import matplotlib.style

    colored = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings = {
        **dict.fromkeys(colored, palette["muted"]),
        "svg.fonttype": "none",
        "svg.hashsalt": xml_text(salt),
        "text.parse_math": False,
        "font.size": 11,
        "axes.facecolor": "none",
        "axes.labelsize": 11,
        "axes.titlecolor": palette["ink"],
        "axes.titlelocation": "left",
        "axes.titlesize": 12,
        "axes.titleweight": "bold",
        "axes.titlepad": 10,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.xmargin": 0,
        "grid.color": palette["grid"],
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.borderpad": 0,
        "legend.borderaxespad": 0,
        "legend.handlelength": 1,
        "legend.handleheight": 1,
    }
    with warnings.catch_warnings(), matplotlib.style.context(["default", settings]):
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font of PNG files lacks
        yield
