"""Prediction of how well the ranks of a training are used: how long they wait for each other, and compute padding.

The cost of a row is counted in operations of linear layers and attention (`cache.plans.shares`), nothing is timed.
"""

from dataclasses import replace
from typing import Any

from cache import Cache, PlanSpec, Split
from cache.errors import InputError
from cache.plans.costs import rank_use
from cache.plans.shares import ATTENTION_LENGTH, attention_length

from .model_size import read_size
from .summary import align, first_split, table_specs

MOST_RANKS = 4096


class RankTable:
    """How well `ranks` are used with each plan of the token table, and with batches of as many rows for each rank.

    Args:
        cache: what is trained on.
        ranks: R.
        model: whose attention counts, a folder, Hub id, or `minilm`; None: BERT-base's.

    Raises:
        InputError: there cannot be so many ranks, or the model cannot be read.
    """

    def __init__(self, cache: Cache, ranks: int, model: str | None = None) -> None:
        if not 1 <= ranks <= MOST_RANKS:
            raise InputError(f"--ranks is {ranks:,}, expected 1 to {MOST_RANKS:,}; pass for example --ranks 8")
        self._length = ATTENTION_LENGTH
        if model is not None:
            size = read_size(model, 1)
            self._length = attention_length(size.hidden, size.intermediate)
        self._split, self._ranks, self._model = first_split(cache), ranks, model
        self._plans: dict[PlanSpec, dict[str, Any]] = {}

    def add(self, spec: PlanSpec) -> None:
        """Measure a plan, unless it is measured already: those whose plans somebody holds are not drawn for it."""
        if spec in self._plans:
            return
        split, plan = self._split, self._split.plan(spec, 0)
        width = split.max_length if spec.strategy == "fixed" else None
        padded, packed = (
            rank_use(plan, split.lengths, self._ranks, packed=kind, fixed_width=width, attention_length=self._length)
            for kind in (False, True)
        )
        used = {"padded": vars(padded), "padding_free": vars(packed)}
        sizes = {"batch_size": spec.batch_size, "max_tokens": spec.max_tokens}
        self._plans[spec] = {"strategy": spec.strategy, **sizes, **used}

    def facts(self) -> dict[str, Any]:
        """Everything `prep info --ranks --json` says; what was not added is measured now."""
        split, specs = self._split, table_specs(self._split)
        sizes = {spec: (spec.batch_size or 0) * self._ranks for spec in specs}
        larger = [replace(spec, batch_size=size) for spec, size in sizes.items() if 0 < size <= len(split)]
        for spec in [*specs, *larger]:
            self.add(spec)
        plans = list(self._plans.values())
        too_small = _too_small(split, specs, self._ranks)
        return {"ranks": self._ranks, "model": self._model, "plans": plans, "too_small": too_small}


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
    """`RankTable.facts` as text."""
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
