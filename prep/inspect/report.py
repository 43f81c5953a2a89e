"""`prep report`: the numbers, figures and tables of a cache on one HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache import Cache, Split
from cache.common.drawing import Figure, render_page, require_drawing
from cache.errors import InputError

from ..corpus.source import describe_source
from . import figures
from .figures_data import PlanView, Truncation, length_curve, plan_views, rows_at_limit, smaller_limits, truncations
from .figures_tokens import marked_rows
from .summary import class_counts, first_split

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows."""


@dataclass(frozen=True)
class Report:
    """The content of a report on one split.

    Attributes:
        views: its plans, as `plan_views` gives them.
        chosen: the one that the cache was built with, or smart where that is not among them.
        cuts: the effect of some smaller max lengths.
        figures: the pictures, in the page's order.
    """

    cache: Cache
    split: Split
    views: list[PlanView]
    chosen: PlanView
    cuts: list[Truncation]
    figures: list[Figure]


def make_report(cache: Cache, split_name: str | None = None) -> Report:
    """Gather the numbers and the figures of a split; by default train, or the first one.

    Raises:
        InputError: the cache has no such split, or it is empty, or a library that draws is missing.
    """
    require_drawing("prep report")
    split, manifest = first_split(cache) if split_name is None else cache[split_name], cache.manifest
    if not len(split):
        others = [other for other in cache if len(cache[other])]
        more = f"; pass --split {others[0]}" if others else ""
        raise InputError(f"the split {split.name!r} of {cache.folder} has no rows, expected some to draw{more}")
    views, limit, default = plan_views(split), manifest.max_length, split.default_spec()
    chosen = next((view for view in views if view.spec == default), views[2])
    cuts = [] if manifest.chunked else truncations(split.info, limit, smaller_limits(limit, split.info.longest))
    in_source_order = split.lengths[np.argsort(split.source_rows, kind="stable")]
    drawn = [
        figures.batches(views, limit),
        figures.costs(views, chosen),
        figures.lengths(length_curve(in_source_order), length_curve(split.lengths), limit),
        figures.histogram(split.info, limit, cuts, manifest.chunked),
    ]
    if counts := class_counts(split):
        total, what = (sum(counts), "labelled token") if manifest.task.per_token else (len(split), "row")
        drawn.append(figures.classes(counts, manifest.task.label_names, total, what))
    return Report(cache, split, views, chosen, cuts, drawn)


def report_page(report: Report) -> str:
    """The report as one self-contained HTML page."""
    manifest, split, chosen = report.cache.manifest, report.split, report.chosen
    return render_page(
        Path(__file__).with_name("report.html"),
        title=f"{manifest.name}: lengths, batches, padding",
        heading=manifest.name,
        about=f"{describe_source(manifest.source)}; split {split.name} is drawn",
        lead=(
            f"to compute per epoch with {chosen.spec.strategy} batches than with fixed padding to the max length",
            f"{chosen.saving(report.views[0].cost):.1%} less",
        ),
        facts={
            "rows": f"{split.info.rows:,}",
            "real tokens": f"{split.info.tokens:,}",
            "shortest to longest row": f"{split.info.shortest:,} to {split.info.longest:,}",
            "max length": f"{manifest.max_length:,} tokens",
            "tokenizer": manifest.tokenizer.name,
            "plan": split.default_spec().id,
            "fingerprint": manifest.fingerprint[:12],
            "built": manifest.created[:10],
        },
        figures=report.figures,
        tables={
            "costs": cost_table(report.views),
            **({} if manifest.chunked else {"truncation": truncation_table(report)}),
        },
        samples=marked_rows(split),
        rows=f"{split.info.rows:,}",
        fingerprint=manifest.fingerprint,
        command=f"prep report {report.cache.folder}",
    )


def cost_table(views: list[PlanView]) -> Table:
    """The token table of `prep info`, in the columns that a phone has room for."""
    fixed = views[0].cost
    rows = [
        [
            view.name,
            f"{view.cost.batches:,}",
            f"{view.cost.padded_tokens:,}",
            figures.overhead(view.cost),
            "" if view.cost is fixed else f"{view.saving(fixed):.1%}",
            figures.share(view.cost.uniform_batches, view.cost.batches),
        ]
        for view in views
    ]
    head = ("plan", "steps", "tokens computed", "padding overhead", "saved", "unpadded batches")
    return head, rows


def truncation_table(report: Report) -> Table:
    """Rows that smaller max lengths would cut, and the tokens they would save."""
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
    return ("max length", "share cut", "rows cut", "real tokens left", "saved"), rows
