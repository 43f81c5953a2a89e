"""`prep report`: one page of pictures of a cache, and the same pictures as PNG files."""

from dataclasses import dataclass
from pathlib import Path

from cache import Cache, Split
from cache.common.files import replacing, storage_errors
from cache.common.page import header, page, section, table
from cache.common.svg import DARK, LIGHT, Figure, escape, sheet
from cache.errors import InputError

from ..sources.corpus import describe_source
from . import figures
from .figures_data import (
    PlanView,
    Truncation,
    in_cache_order,
    in_source_order,
    plan_views,
    rows_at_limit,
    smaller_limits,
    truncations,
)
from .figures_tokens import marked_html, marked_rows
from .summary import class_counts

PNG_SCALE = 2
"""Pixels of a PNG for one of the drawing."""


@dataclass(frozen=True)
class Report:
    """Everything a report shows of one split.

    Attributes:
        cache: the cache.
        split: the split that is drawn.
        views: its plans, as `plan_views` gives them.
        cuts: what some smaller max lengths would do.
        figures: the pictures, in the page's order.
    """

    cache: Cache
    split: Split
    views: list[PlanView]
    cuts: list[Truncation]
    figures: list[Figure]


def make_report(cache: Cache, split_name: str | None = None) -> Report:
    """Gather the numbers and draw the pictures.

    Args:
        cache: the cache.
        split_name: which split; default: train, or the first one.

    Raises:
        InputError: the cache has no such split, or it is empty.
    """
    name = split_name or ("train" if "train" in cache else next(iter(cache), "train"))
    split, manifest = cache[name], cache.manifest
    if not len(split):
        others = [other for other in cache if len(cache[other])]
        more = f"; pass --split {others[0]}" if others else ""
        raise InputError(f"the split {name!r} of {cache.folder} has no rows, expected some to draw{more}")
    views, limit = plan_views(split), manifest.max_length
    cuts = truncations(split.info, limit, smaller_limits(limit, split.info.longest))
    drawn = [
        figures.batches(views, limit),
        figures.costs(views, split.default_spec().id),
        figures.lengths(in_source_order(split), in_cache_order(split), limit),
        figures.histogram(split.info, limit, cuts),
        figures.widths(views, limit),
    ]
    if "classification" in manifest.task.kind:
        what = "labelled tokens" if manifest.task.per_token else "rows"
        drawn.append(figures.classes(class_counts(split), manifest.task.label_names, what))
    return Report(cache, split, views, cuts, drawn)


def report_page(report: Report) -> str:
    """The report as one HTML file that needs nothing else."""
    manifest, split = report.cache.manifest, report.split
    default = split.default_spec()
    chosen = next((view for view in report.views if view.row.spec == default), report.views[2])
    saving = f"{chosen.row.saving(report.views[0].row.cost):.1%} less"
    lead = (f"to compute in an epoch with {chosen.strategy} batches than with fixed padding to the max length", saving)
    facts = [
        ("rows", f"{split.info.rows:,}"),
        ("real tokens", f"{split.info.tokens:,}"),
        ("shortest to longest row", f"{split.info.shortest:,} to {split.info.longest:,}"),
        ("max length", f"{manifest.max_length:,} tokens"),
        ("tokenizer", manifest.tokenizer.name),
        ("plan", default.id),
        ("fingerprint", manifest.fingerprint[:12]),
        ("built", manifest.created[:10]),
    ]
    about = f"{describe_source(manifest.source)}; split {split.name} is drawn"
    below = {
        "costs": token_table_html(report.views),
        "truncation": truncation_table_html(report),
        "classes": splits_table_html(report.cache),
    }
    parts = [header(manifest.name, about, facts, lead)]
    parts += [section(figure, below.get(figure.name, "")) for figure in report.figures]
    samples = marked_rows(split)
    parts.append(
        f'<section id="samples"><h2>{len(samples)} of the {split.info.rows:,} rows, as the model sees them</h2>'
        '<p class="about">Drawn at random. Each token has its box; special tokens are outlined, and a piece that goes '
        f"on with a word adjoins it.</p>{''.join(map(marked_html, samples))}</section>"
    )
    command = f"prep report {report.cache.folder}"
    parts.append(f"<footer>Fingerprint {escape(manifest.fingerprint)}. Made by: {escape(command)}</footer>")
    return page(f"{manifest.name}: lengths, batches, padding", parts)


def token_table_html(views: list[PlanView]) -> str:
    """The token table of `prep info`, in the columns that a phone has room for."""
    fixed = views[0].row.cost
    rows = [
        [
            view.name,
            f"{view.row.cost.batches:,}",
            f"{view.row.cost.padded_tokens:,}",
            figures.overhead(view.row.cost),
            "" if view.row.cost is fixed else f"{view.row.saving(fixed):.1%}",
            figures.share(view.row.cost.uniform_batches, view.row.cost.batches),
        ]
        for view in views
    ]
    head = ("plan", "steps", "tokens computed", "padding overhead", "saved", "unpadded batches")
    return table(head, rows)


def truncation_table_html(report: Report) -> str:
    """What smaller max lengths would cut, and the tokens they would save."""
    info, limit = report.split.info, report.cache.manifest.max_length
    rows = [
        [
            f"{cut.max_length:,}",
            figures.share(cut.rows_cut, info.rows),
            f"{cut.rows_cut:,}",
            f"{cut.tokens:,}",
            figures.share(info.tokens - cut.tokens, info.tokens),
        ]
        for cut in report.cuts
    ]
    at_limit = rows_at_limit(info, limit)
    share = f"up to {figures.share(at_limit, info.rows)}" if at_limit else figures.share(0, 1)
    rows.append([f"{limit:,} (now)", share, f"{at_limit:,}", f"{info.tokens:,}", ""])
    return table(("max length", "share cut", "rows cut", "real tokens left", "saved"), rows)


def splits_table_html(cache: Cache) -> str:
    """Rows, tokens and lengths of each split."""
    infos = cache.manifest.splits
    rows = [
        [name, f"{info.rows:,}", f"{info.tokens:,}", f"{info.shortest:,}", f"{info.longest:,}"]
        for name, info in infos.items()
    ]
    return table(("split", "rows", "real tokens", "shortest", "longest"), rows)


def write_report(report: Report, path: Path) -> int:
    """Write the page; returns its size in bytes.

    Raises:
        StorageError: it cannot be written.
    """
    data = report_page(report).encode()
    with storage_errors(path), replacing(path) as temporary:
        temporary.write_bytes(data)
    return len(data)


def write_pictures(report: Report, folder: Path) -> list[Path]:
    """Write each picture as NAME.png on white and NAME-dark.png on black.

    Raises:
        InputError: what draws PNG files is not installed.
        StorageError: they cannot be written.
    """
    try:
        import resvg_py
    except ImportError:
        raise InputError(
            "--png needs the package resvg_py, which is not installed; run: pip install 'lengthwise[pictures]'"
        ) from None
    written = []
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for figure in report.figures:
            for ending, palette in (("", LIGHT), ("-dark", DARK)):
                path = folder / f"{figure.name}{ending}.png"
                drawn = bytes(resvg_py.svg_to_bytes(svg_string=sheet(figure, palette), zoom=float(PNG_SCALE)))
                with replacing(path) as temporary:
                    temporary.write_bytes(drawn)
                written.append(path)
    return written
