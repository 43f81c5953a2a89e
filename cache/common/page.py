"""A page of pictures: one HTML file that needs nothing else, in light and dark, on paper-wide screens and on phones."""

from collections.abc import Sequence

from .svg import DARK, FONT, LIGHT, Figure, Palette, boxes, escape

STYLE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 FONT}
main{max-width:62rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.25rem;line-height:1.35;margin:0 0 .3rem;max-width:52rem;text-wrap:pretty}
section{margin-top:3.25rem}
p{margin:.3rem 0;max-width:46rem}
.about,figcaption{color:var(--muted);font-size:.9rem}
figcaption,.about{max-width:46rem}
figure{margin:0}
.key{white-space:nowrap;margin-right:1.1rem}
.key svg{width:.75rem;height:.75rem;margin-right:.35rem;vertical-align:-.05rem}
.panels{display:grid;gap:1.25rem 1.75rem;margin-top:1rem}
.panels{grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr))}
.panels.narrow{grid-template-columns:repeat(2,minmax(0,1fr));gap:1.25rem .9rem}
@media (min-width:46rem){.panels.narrow{grid-template-columns:repeat(4,minmax(0,1fr));gap:1.5rem}}
.panels svg{display:block;width:100%;height:auto;font-family:FONT}
.panels>*{min-width:0}
.panels:not(.narrow) svg{max-width:36rem}
.panels .scroll{margin-top:0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:1.1rem 1.5rem;margin:1.75rem 0 0}
.facts div{min-width:0}
dt{color:var(--muted);font-size:.85rem}
dd{margin:0;font-size:1.15rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.facts .lead{grid-column:1/-1;display:flex;flex-direction:column-reverse}
.facts .lead dd{font-size:2.6rem;line-height:1.15;color:var(--real);font-weight:700}
.scroll{overflow-x:auto;margin-top:1.1rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums lining-nums}
th,td{padding:.3rem 0 .3rem 1.5rem;text-align:right;vertical-align:bottom;border-bottom:1px solid var(--grid)}
th{color:var(--muted);font-weight:400;line-height:1.25}
th:first-child,td:first-child{padding-left:0;text-align:left}
td:first-child{font-weight:600;white-space:nowrap}
.sample{margin-top:1.4rem}
.sample p{line-height:1.95;max-width:none;overflow-wrap:anywhere}
.sample b{font-weight:600;color:var(--ink)}
.sample i{font-style:normal;background:var(--subtle);border-radius:.2rem;padding:.1rem .26rem;margin-right:.22rem}
.sample i.special{background:none;box-shadow:inset 0 0 0 1px var(--accent);color:var(--accent);font-size:.85em}
.sample i.sub{margin-left:-.22rem;border-left:1px solid var(--real)}
.sample i.sub{border-top-left-radius:0;border-bottom-left-radius:0}
.sample i.sub s{text-decoration:none;color:var(--real);opacity:.8}
footer{margin-top:3.5rem;color:var(--muted);font-size:.85rem;overflow-wrap:anywhere}
@media (max-width:30rem){main{padding:1.25rem 1rem 3rem}h1{font-size:1.6rem}h2{font-size:1.1rem}
table{font-size:.8rem}th,td{padding-left:.5rem}td:first-child{white-space:normal}.facts .lead dd{font-size:2.1rem}}
@media print{section{break-inside:avoid}}
"""


def page(title: str, body: Sequence[str]) -> str:
    """The whole file.

    Args:
        title: of the document, plain text.
        body: its parts, HTML.
    """
    style = f":root{{color-scheme:light dark;{_variables(LIGHT)}}}\n"
    style += f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    style += STYLE.replace("FONT", FONT)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    head += '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
    head += f"<title>{escape(title)}</title><style>{style}</style>"
    content = "\n".join(body)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>\n{content}\n</main></body></html>\n'


def _variables(palette: Palette) -> str:
    return ";".join(f"--{name}:{color}" for name, color in palette.items())


def header(title: str, about: str, facts: Sequence[tuple[str, str]], lead: tuple[str, str] | None = None) -> str:
    """The page's head: its name, a line about it, one number to remember, and facts as (what, value)."""
    items = [f'<div class="lead"><dt>{escape(lead[0])}</dt><dd>{escape(lead[1])}</dd></div>'] if lead else []
    items += [f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in facts]
    head = f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p>'
    return f'<header>{head}<dl class="facts">{"".join(items)}</dl></header>'


def section(figure: Figure, *more: str) -> str:
    """A figure as a section of the page, with more HTML below it, or beside a lone panel where there is room."""
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 10 10" aria-hidden="true">{boxes([(0, 0, 10, 10)], color)}</svg>'
        f"{escape(words)}</span>"
        for words, color in figure.keys
    )
    kind = "panels narrow" if figure.columns > 2 else "panels"
    panels = "".join(panel.svg() for panel in figure.panels)
    caption = f"<figcaption>{keys}{'<br>' if keys else ''}{escape(figure.caption)}</figcaption>"
    beside, below = ("".join(more), "") if figure.columns == 1 else ("", "".join(more))
    drawn = f'<figure>{caption}<div class="{kind}">{panels}{beside}</div></figure>'
    return f'<section id="{escape(figure.name)}"><h2>{escape(figure.title)}</h2>{drawn}{below}</section>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text; all columns but the first are numbers, flush right. Where it is too wide, it scrolls alone."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
