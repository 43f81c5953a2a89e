"""Summary tables of a cache, as text and as JSON."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import Cache, Split
from cache.console.text import counted, listed
from cache.format.manifest import Manifest
from cache.format.plan_file import StoredPlan
from cache.format.tasks import IGNORED
from cache.plans.costs import PlanCost, packed_cost
from cache.plans.spec import PlanSpec

from ..corpus.presets import Preset

if TYPE_CHECKING:
    from ..build import BuildResult


@dataclass(frozen=True)
class TokenRow:
    """One line of the token table: a plan and the cost of its first epoch, with its batches padded or packed."""

    spec: PlanSpec
    stored_epochs: int
    cost: PlanCost
    packed: bool = False

    def saving(self, fixed: PlanCost) -> float:
        """Fraction of the padded tokens of fixed padding that this plan does not compute."""
        return 1 - self.cost.padded_tokens / fixed.padded_tokens if fixed.padded_tokens else 0.0


def first_split(cache: Cache) -> Split:
    """The split whose batches are looked at: `train` where there is one."""
    return cache["train" if "train" in cache else next(iter(cache))]


COMPARED = ("fixed", "dynamic", "smart", "tight")
"""Strategies of the token table's first lines."""


def table_specs(split: Split) -> list[PlanSpec]:
    """Fixed, dynamic, smart and tight at the default batch size, and every other plan that is stored."""
    default = split.default_spec()
    batch_size = default.batch_size or 16
    specs = [PlanSpec(strategy, batch_size, None, default.seed) for strategy in COMPARED]
    return specs + [spec for spec in split.stored_plans() if spec not in specs]


def token_table(split: Split, progress: Callable[[], object] = lambda: None) -> list[TokenRow]:
    """The cost of each of `table_specs`; `progress` is called after each."""
    stored = split.stored_plans()
    rows = []
    for spec in table_specs(split):
        rows.append(token_row(split, spec, stored))
        progress()
    return rows


def plan_rows(split: Split, spec: PlanSpec) -> list[TokenRow]:
    """The cost of fixed padding and of a plan."""
    stored, fixed = split.stored_plans(), PlanSpec("fixed", split.default_spec().batch_size or 16)
    return [token_row(split, each, stored) for each in dict.fromkeys((fixed, spec))]


def packed_row(rows: Sequence[TokenRow]) -> TokenRow:
    """The cost of batches in random order, packed, from the token table: what `train run --padding-free` computes."""
    row = next(row for row in rows if row.spec.strategy == "dynamic")
    return TokenRow(row.spec, 0, packed_cost(row.cost), packed=True)


def token_row(split: Split, spec: PlanSpec, stored: Mapping[PlanSpec, StoredPlan]) -> TokenRow:
    """The cost of a plan; `stored` are the split's plans."""
    return TokenRow(spec, len(stored[spec].epochs) if spec in stored else 0, split.cost(spec))


def format_token_table(rows: list[TokenRow]) -> str:
    """The token table as text."""
    fixed = rows[0].cost
    lines = [["padding", "batch", "steps", "padded tokens", "overhead", "against fixed", "no padding"]]
    for row in rows:
        cost = row.cost
        lines.append(
            [
                row.spec.strategy
                + (f" ({counted(row.stored_epochs, 'epoch')} planned)" if row.stored_epochs else "")
                + " --padding-free" * row.packed,
                f"{row.spec.batch_size or f'{row.spec.max_tokens:,} tokens'}",
                f"{cost.batches:,}",
                f"{cost.padded_tokens:,}",
                f"{cost.overhead:,.1%}",
                f"{row.saving(fixed):.1%} less" if row.cost is not fixed else "",
                f"{cost.uniform_batches / max(cost.batches, 1):.0%}",
            ]
        )
    return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first flush left, the others flush right."""
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in lines
    )


def format_splits(cache: Cache) -> str:
    """Rows, tokens, lengths and classes of each split."""
    task = cache.manifest.task
    cut = "in chunks of" if cache.manifest.chunked else "truncated at"
    lines = [["split", "rows", "tokens", "shortest", "median", "longest", cut]]
    if task.labelled:
        lines[0].append("labels" if task.kind == "regression" else "tags of words" if task.per_token else "classes")
    for name, split in cache.items():
        info = split.info
        at_limit = int((split.lengths == cache.manifest.max_length).sum())
        lines.append(
            [
                name,
                f"{info.rows:,}",
                f"{info.tokens:,}",
                str(info.shortest),
                str(int(np.median(split.lengths))) if info.rows else "0",
                str(info.longest),
                f"{cache.manifest.max_length} ({at_limit / max(info.rows, 1):.0%} of rows)",
                *([_labels(split)] if task.labelled else []),
            ]
        )
    return align(lines)


def class_counts(split: Split) -> list[int]:
    """Rows of each class, or labelled tokens; none where there are no classes."""
    task = split.task
    if not task.label_names:
        return []
    labels, classes = split.labels, len(task.label_names)
    if task.kind == "multi-label":
        counts = labels.reshape(-1, classes).sum(axis=0, dtype=np.int64)
    else:
        counts = np.bincount(labels[labels != IGNORED], minlength=classes)
    return [int(count) for count in counts]


MOST_CLASSES = 6
"""Most classes named in the summary; of the others only the number is given."""


def _labels(split: Split) -> str:
    """The labels in a few words: shares of classes, or the range of numbers."""
    task, labels = split.task, split.labels
    if task.label_names:
        counts = class_counts(split)
        total = max(sum(counts) if task.per_token else split.info.rows, 1)
        shares = [f"{name} {count / total:.0%}" for name, count in zip(task.label_names, counts, strict=True)]
        return listed(shares, MOST_CLASSES)
    if not len(labels):
        return "none"
    return f"{labels.min():.4g} to {labels.max():.4g}, mean {labels.mean(dtype=np.float64):.4g}"


def cache_facts(cache: Cache) -> dict[str, Any]:
    """Everything `prep info --json` says."""
    manifest = cache.manifest
    splits = {}
    for name, split in cache.items():
        rows = token_table(split)
        splits[name] = {
            "rows": split.info.rows,
            "tokens": split.info.tokens,
            "shortest": split.info.shortest,
            "longest": split.info.longest,
            "bytes": sum(shard.bytes for shard in split.info.shards),
            "classes": dict(zip(manifest.task.label_names, class_counts(split), strict=True)),
            "plans": [_plan_facts(row, rows[0].cost) for row in rows],
            "padding_free": _plan_facts(packed_row(rows), rows[0].cost),
        }
    return {
        "name": manifest.name,
        "folder": str(cache.folder),
        "fingerprint": manifest.fingerprint,
        "created": manifest.created,
        "source": manifest.source,
        "tokenizer": {"name": manifest.tokenizer.name, "vocab_size": manifest.tokenizer.vocab_size},
        "max_length": manifest.max_length,
        "task": manifest.task.kind,
        "pair": manifest.task.pair,
        "label_names": list(manifest.task.label_names),
        "splits": splits,
    }


def build_facts(result: "BuildResult", seconds: float) -> dict[str, Any]:
    """Everything `prep build --json` says."""
    made = {"up_to_date": result.up_to_date, "planned_epochs": result.planned, "seconds": round(seconds, 3)}
    return {**cache_facts(result.cache), **({"url": str(result.url)} if result.url else {}), **made}


def plan_facts(split: Split, spec: PlanSpec) -> dict[str, Any]:
    """Everything `prep plan --json` says of a plan."""
    rows = plan_rows(split, spec)
    return _plan_facts(rows[-1], rows[0].cost)


def _plan_facts(row: TokenRow, fixed: PlanCost) -> dict[str, Any]:
    return {
        **vars(row.spec),
        "stored_epochs": row.stored_epochs,
        "batches": row.cost.batches,
        "real_tokens": row.cost.real_tokens,
        "padded_tokens": row.cost.padded_tokens,
        "overhead": row.cost.overhead,
        "saving": row.saving(fixed),
        "uniform_batches": row.cost.uniform_batches,
    }


def format_list(caches: Iterable[tuple[str, Manifest]]) -> str:
    """Caches as a table, from their folders and manifests."""
    lines = [["cache", "rows", "tokens", "tokenizer", "max length", "built"]]
    for facts in starmap(_summary, caches):
        built = facts["created"][:16].replace("T", " ")
        sizes = (f"{facts['rows']:,}", f"{facts['tokens']:,}")
        lines.append([f"  {facts['folder']}", *sizes, facts["tokenizer"], str(facts["max_length"]), built])
    return align(lines)


def list_facts(presets: Iterable[Preset], caches: Iterable[tuple[str, Manifest]]) -> dict[str, Any]:
    """Everything `prep list --json` says."""
    known = [{name: getattr(preset, name) for name in ("name", "about", "metric", "hub")} for preset in presets]
    return {"presets": known, "caches": list(starmap(_summary, caches))}


def _summary(folder: str, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "folder": folder,
        "fingerprint": manifest.fingerprint,
        "rows": sum(info.rows for info in manifest.splits.values()),
        "tokens": sum(info.tokens for info in manifest.splits.values()),
        "tokenizer": manifest.tokenizer.name,
        "max_length": manifest.max_length,
        "created": manifest.created,
    }
