"""Prediction of how well the ranks of a training are used: how long they wait for each other, and compute padding.

The cost of a row is counted in operations of linear layers and attention (`cache.plans.shares`), nothing is timed.
"""

from dataclasses import replace
from typing import Any

from cache import Cache, PlanSpec, Split
from cache.console.progress import ConsoleProgress
from cache.errors import InputError
from cache.plans.costs import rank_use
from cache.plans.shares import ATTENTION_LENGTH, attention_length

from .model_size import read_size
from .summary import align, first_split, table_specs

MOST_RANKS = 4096


def rank_facts(cache: Cache, ranks: int, model: str | None = None) -> dict[str, Any]:
    """Everything `prep info --ranks --json` says: how well `ranks` are used with each plan of the token table, and with
    batches of as many rows for each rank.

    Args:
        cache: what is trained on.
        ranks: R.
        model: whose attention counts, a folder, Hub id, or `minilm`; None: BERT-base's.

    Raises:
        InputError: there cannot be so many ranks, or the model cannot be read.
    """
    if not 1 <= ranks <= MOST_RANKS:
        raise InputError(f"--ranks is {ranks:,}, expected 1 to {MOST_RANKS:,}; pass for example --ranks 8")
    size, length = None if model is None else read_size(model, 1), ATTENTION_LENGTH
    if size is not None:
        length = attention_length(size.hidden, size.intermediate)
    split = first_split(cache)
    specs = table_specs(split)
    larger = [replace(spec, batch_size=spec.batch_size * ranks) for spec in specs if spec.batch_size]
    fitting = [spec for spec in larger if (spec.batch_size or 0) <= len(split)]
    chosen, plans = list(dict.fromkeys([*specs, *fitting])), []
    with ConsoleProgress().bar("measuring", len(chosen), "plans") as bar:
        for spec in chosen:
            plans.append(_plan_use(split, spec, ranks, length))
            bar.update(1)
    return {"ranks": ranks, "model": model, "plans": plans, "too_small": _too_small(split, specs, ranks)}


def _plan_use(split: Split, spec: PlanSpec, ranks: int, length: int) -> dict[str, Any]:
    plan = split.plan(spec, 0)
    split.cost(spec)  # for the token table, which then need not draw the plan again
    width = split.max_length if spec.strategy == "fixed" else None
    padded, packed = (
        vars(rank_use(plan, split.lengths, ranks, packed=kind, fixed_width=width, attention_length=length))
        for kind in (False, True)
    )
    sizes = {"batch_size": spec.batch_size, "max_tokens": spec.max_tokens}
    return {"strategy": spec.strategy, **sizes, "padded": padded, "padding_free": packed}


def _too_small(split: Split, specs: list[PlanSpec], ranks: int) -> dict[str, str]:
    """The flag of each plan's size whose batches have fewer rows than there are ranks, and the flag that fits."""
    fits = {}
    for spec in specs:
        if spec.batch_size is not None and spec.batch_size < ranks:
            fits[f"--batch-size {spec.batch_size}"] = f"--batch-size {ranks}"
        if spec.max_tokens is not None and spec.max_tokens < ranks * split.info.longest:
            fits[f"--max-tokens {spec.max_tokens}"] = f"--max-tokens {ranks * split.info.longest}"
    return fits


def format_ranks(facts: dict[str, Any]) -> str:
    """`rank_facts` as text."""
    lines = [["padding", "batch", "busy", "with tokens", "--padding-free"]]
    for plan in facts["plans"]:
        size = f"{plan['batch_size']:,}" if plan["batch_size"] else f"{plan['max_tokens']:,} tokens"
        shares = (plan["padded"]["busy"], plan["padded"]["useful"], plan["padding_free"]["useful"])
        lines.append([plan["strategy"], size, *(f"{share:.1%}" for share in shares)])
    warnings = [
        f"\nwarning: with {flag} some of {facts['ranks']:,} ranks have no row; train with {fits} or more"
        for flag, fits in facts["too_small"].items()
    ]
    return (
        f"{facts['ranks']:,} ranks that share each batch: how much of their time they are busy, and with tokens rather "
        f"than padding,\nPREDICTED from the operations of {facts['model'] or 'a BERT-base'}, not measured\n"
        f"{align(lines)}{''.join(warnings)}"
    )
