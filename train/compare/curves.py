"""Training curves of runs from their records; runs that differ only by seed form a group.

Shapes: S records of a run, R runs of a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..metrics.scores import main_score
from ..run_folder.folder import Json
from .results import RunResult
from .seeds import groups_by_seed

Floats = npt.NDArray[np.float64]


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
    found = groups_by_seed([run.result for run in runs])
    return [Group(name, tuple(runs[number] for number in members)) for name, members in found.items()]


def smooth(values: Floats, window: int) -> Floats:
    """A running mean over `window` records, fewer at the ends; what is not finite is left out of it."""
    finite, ones = np.isfinite(values), np.ones(min(window, max(len(values), 1)))
    total = np.convolve(np.where(finite, values, 0), ones, "same")
    count = np.convolve(finite.astype(float), ones, "same")
    return np.where(count > 0.5, total / np.maximum(count, 1), np.nan)
