"""Training curves of runs from their records; runs that differ only by seed form a group.

Shapes: S records of a run, R runs of a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics.scores import main_score
from ..run_folder.folder import Json
from ..settings import FREE_ON_RESUME
from .table import RunResult

Floats = npt.NDArray[np.float64]

NOT_COMPARED = FREE_ON_RESUME | {"seed", "plan_seed"}
"""Settings in which the runs of a group may differ: their records are of the same steps. Caches are compared by
fingerprint, devices as they were found."""


@dataclass(frozen=True)
class RunCurves:
    """One run's records.

    Attributes:
        result: its line of the table of `train compare`.
        steps: (S,) optimizer step of each record.
        loss: (S,) mean loss since the record before; NaN where it was not finite.
        learning_rate: (S,).
        real_tokens: (S,) trained on so far.
        seconds: (S,) of training so far, by the speeds.
        speed: (S,) real tokens per second since the record before.
        scores: main score by step, of each evaluation; `result.score` names it.
    """

    result: RunResult
    steps: Floats
    loss: Floats
    learning_rate: Floats
    real_tokens: Floats
    seconds: Floats
    speed: Floats
    scores: dict[int, float]


@dataclass(frozen=True)
class Group:
    """Runs that differ only by seed, under a name that distinguishes them from the other groups."""

    name: str
    runs: tuple[RunCurves, ...]

    def stack(self, field: str) -> Floats:
        """(R, S) values of a curve at the records that all runs have."""
        count = min(len(run.steps) for run in self.runs)
        return np.stack([getattr(run, field)[:count] for run in self.runs])

    @property
    def score_name(self) -> str:
        """Name of the main score of its runs; empty where none was evaluated."""
        return next((run.result.score[0] for run in self.runs if run.result.score), "")

    def scores(self) -> tuple[list[int], Floats]:
        """The steps at which every run was evaluated, and (R, steps) main scores."""
        steps = sorted(set.intersection(*(set(run.scores) for run in self.runs)))
        return steps, np.array([[run.scores[step] for step in steps] for run in self.runs])


def curves_of(result: RunResult) -> RunCurves:
    """The curves of the records that a run has so far."""
    timing = {record["step"]: record for record in result.timing if record["kind"] == "step"}
    steps = [record for record in result.metrics if record["kind"] == "step" and record["step"] in timing]
    times = [timing[record["step"]] for record in steps]
    # After a resume between two records, a record's seconds are those of its last steps alone; its speed is too.
    tokens, speed = _column(steps, "real_tokens"), _column(times, "tokens_per_second")
    evals = {
        record["step"]: main_score(record, result.info.metric) for record in result.metrics if record["kind"] == "eval"
    }
    return RunCurves(
        result=result,
        steps=_column(steps, "step"),
        loss=_column(steps, "loss"),
        learning_rate=_column(steps, "learning_rate"),
        real_tokens=np.cumsum(tokens),
        seconds=np.cumsum(tokens / np.maximum(speed, 1e-9)),
        speed=speed,
        scores={step: score[1] for step, score in evals.items() if score},
    )


def _column(records: Sequence[Json], name: str) -> Floats:
    return np.array([np.nan if record[name] is None else record[name] for record in records], np.float64)


def group_runs(runs: Sequence[RunCurves]) -> list[Group]:
    """Group runs that differ only by seed, in the order given."""
    groups: dict[str, list[RunCurves]] = {}
    facts = [_facts(run) for run in runs]
    for run, fact in zip(runs, facts, strict=True):
        groups.setdefault(repr(sorted(fact.items())), []).append(run)
    varying = [name for name in facts[0] if len({repr(fact.get(name)) for fact in facts}) > 1]
    names = [_name(_facts(members[0]), varying) for members in groups.values()]
    return [
        Group(name if names.count(name) == 1 else f"{name} ({index + 1})", tuple(members))
        for index, (name, members) in enumerate(zip(names, groups.values(), strict=True))
    ]


def _facts(run: RunCurves) -> dict[str, Any]:
    info = run.result.info
    settings = {name: value for name, value in info.settings.to_json().items() if name not in NOT_COMPARED}
    return {
        **settings,
        "cache_name": info.cache_name,
        "max_length": info.max_length,
        "device": info.environment.get("device"),
        "total_steps": info.total_steps,
        "cache_fingerprint": info.cache_fingerprint,
        "model_digest": info.model_digest,
    }


NAMED_BY_VALUE = ("strategy", "cache_name", "device", "precision")
"""Settings whose value alone says what it is."""
NOT_NAMED = ("cache_fingerprint", "model_digest", "total_steps")
"""Differences that no name of a group shows."""


def _name(facts: dict[str, Any], varying: Sequence[str]) -> str:
    """The settings in which a group differs from the others, its strategy first."""
    parts = []
    for name in sorted(varying, key=lambda name: name != "strategy"):
        value = facts.get(name)
        if value is None or name in NOT_NAMED:
            continue
        if name == "model":
            parts.append(Path(str(value)).name)
        elif name in NAMED_BY_VALUE:
            parts.append(str(value))
        else:
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts) or str(facts["strategy"])


def smooth(values: Floats, window: int) -> Floats:
    """A running mean over `window` records, fewer at the ends; what is not finite is left out of it."""
    finite, ones = np.isfinite(values), np.ones(min(window, max(len(values), 1)))
    total = np.convolve(np.where(finite, values, 0), ones, "same")
    count = np.convolve(finite.astype(float), ones, "same")
    return np.where(count > 0.5, total / np.maximum(count, 1), np.nan)
