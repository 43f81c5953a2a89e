"""What the tests of pages share: strict reading, and a browser."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cache.common.drawing import DARK, LIGHT

VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Reads a page strictly: every element closed, in order; keeps its text, drawings and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        self.drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_page(text: str) -> Page:
    """A page that parses strictly, whose drawings are XML, and that refers to nothing but parts of itself."""
    found = Page(text)
    for drawing in found.drawings:
        ElementTree.fromstring(drawing.replace("<svg", '<svg xmlns:xlink="xlink"', 1))
    assert "nan" not in " ".join(re.findall(r' d="([^"]*)"', text)).lower()
    assert "<script" not in text
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    own = {f"#{name}" for name in ids}
    values = " ".join(value or "" for _, value in found.attributes)
    assert not re.search(r"https?:|//|@import", values)
    assert not re.search(r"url\(|@import|https?:", text.split("<style>")[1].split("</style>")[0])
    links = [value for name, value in found.attributes if name == "xlink:href"]
    assert own.issuperset([*links, *re.findall(r"url\(([^)]*)\)", values)])
    assert {name for name, _ in found.attributes}.isdisjoint({"src", "onload", "onclick"})
    return found


CHROMIUM = shutil.which("chromium")

MEASURE = """<script>
const found = {paper: getComputedStyle(document.body).backgroundColor, window: innerWidth,
  page: document.documentElement.scrollWidth, wide: [], small: [], clipped: []};
for (const e of document.querySelectorAll("main *")) {
  const box = e.getBoundingClientRect();
  if (!e.closest(".scroll") && !e.closest("svg *") && box.right > innerWidth + 0.5) found.wide.push(e.tagName);
}
for (const e of document.querySelectorAll(".panels svg text")) {
  const box = e.getBoundingClientRect(), panel = e.closest("svg").getBoundingClientRect();
  if (box.height < 9) found.small.push(e.textContent);
  const inside = box.left > panel.left - 1 && box.right < panel.right + 1 && box.bottom < panel.bottom + 1;
  if (!inside) found.clipped.push(e.textContent);
}
parent.document.body.dataset.found = JSON.stringify(found);
</script>"""


def check_in_browser(text: str, folder: Path, width: int, dark: bool) -> None:
    """Open a page: nothing hangs out of the window, labels keep inside their panels and can be read, the paper has its
    color, the console stays empty, and a screenshot can be taken.

    It is opened in a frame, because a window is never narrower than 500 pixels.
    """
    inner = escape(text.replace("</body>", MEASURE + "</body>"))
    frame = f'<iframe srcdoc="{inner}" style="border:0;width:{width}px;height:1500px"></iframe>'
    page, picture = folder / "page.html", folder / "page.png"
    page.write_text(f'<!DOCTYPE html><meta name="color-scheme" content="light dark">{frame}', "utf-8")
    done = browse(page, folder / "profile", width, dark, "--dump-dom")
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found: dict[str, Any] = json.loads(unescape(re.search(r'data-found="([^"]*)"', done.stdout)[1]))
    assert (found["window"], found["page"]) == (width, width)
    assert (found["wide"], found["small"], found["clipped"]) == ([], [], [])
    red, green, blue = (int((DARK if dark else LIGHT)["paper"][index : index + 2], 16) for index in (1, 3, 5))
    assert found["paper"] == f"rgb({red}, {green}, {blue})"
    browse(page, folder / "profile", width, dark, f"--screenshot={picture}")
    assert int.from_bytes(picture.read_bytes()[16:20], "big") == width


def browse(page: Path, profile: Path, width: int, dark: bool, action: str) -> subprocess.CompletedProcess[str]:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [CHROMIUM, *flags.split(), scheme, f"--user-data-dir={profile}", f"--window-size={width},1500"]
    return subprocess.run([*command, action, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
