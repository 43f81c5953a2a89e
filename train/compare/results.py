"""The results that run folders have recorded so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import LengthwiseError

from ..metrics.scores import main_score
from ..run_folder.folder import METRICS, TIMING, Json, RunInfo, open_run, read_run, read_summary
from ..run_folder.records import exported_evaluation, read_records


@dataclass(frozen=True)
class RunResult:
    """The results recorded in a run folder.

    Attributes:
        folder: of the run.
        info: its settings.
        score: name and value of the main score of its model, see `exported_evaluation`; None where there is none.
        split: that the score is of; empty where there is none.
        epoch_seconds: training time of each epoch, seconds.
        steps: optimizer steps done.
        padded_tokens: tokens computed in training, padding included.
        finished: whether the run is complete.
        metrics, timing: its records so far.
    """

    folder: Path
    info: RunInfo
    score: tuple[str, float] | None
    split: str
    epoch_seconds: tuple[float, ...]
    steps: int
    padded_tokens: int
    finished: bool
    metrics: Sequence[Json]
    timing: Sequence[Json]


def read_result(folder: Path) -> RunResult:
    """Read the results that a run has so far.

    Raises:
        InputError: the folder is not a run folder.
    """
    with open_run(folder) as run:
        info, finished = read_run(run), read_summary(run) is not None
        metrics, timing = read_records(run, METRICS), read_records(run, TIMING)
    steps = [record for record in metrics if record["kind"] == "step"]
    evaluation = exported_evaluation(metrics, info.settings)
    return RunResult(
        folder=folder,
        info=info,
        score=None if evaluation is None else main_score(evaluation, info.metric),
        split="" if evaluation is None else evaluation["split"],
        epoch_seconds=tuple(record["seconds"] for record in timing if record["kind"] == "epoch"),
        steps=steps[-1]["step"] if steps else 0,
        padded_tokens=sum(record["padded_tokens"] for record in steps),
        finished=finished,
        metrics=metrics,
        timing=timing,
    )


def read_results(folders: Sequence[Path], warn: Callable[[str], None]) -> list[RunResult]:
    """Read the results of the runs among some folders; `warn` receives why another one is left out.

    Raises:
        LengthwiseError: none of them can be read; what is wrong with each is named.
    """
    results, errors = [], []
    for folder in folders:
        try:
            results.append(read_result(folder))
        except LengthwiseError as error:
            errors.append(error)
    if not results:
        raise type(errors[0])("\n".join(map(str, errors)))
    for text in errors:
        warn(f"warning: left out: {text}")
    return results


def to_json(result: RunResult) -> Json:
    """A run's result as plain JSON."""
    return {
        "run": str(result.folder),
        "settings": result.info.settings.to_json(),
        "accuracy": None,
        **({} if result.score is None else {**dict([result.score]), "split": result.split}),
        "epoch_seconds": list(result.epoch_seconds),
        "steps": result.steps,
        "padded_tokens": result.padded_tokens,
        "finished": result.finished,
    }
