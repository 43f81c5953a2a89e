"""Where else the records of a run go when that is asked for: TensorBoard, Weights & Biases. Imported only then.

They are given what metrics.jsonl and timing.jsonl get, at the same points. A tracker that fails costs nothing but
itself: it is dropped with one warning, the report at the end repeats it, and the run goes on, for its records are
complete in its folder. Only one that cannot even be opened when a run begins is an error: then nothing is lost yet.
"""

import importlib.util
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from cache.errors import InputError, LengthwiseError

from ..settings import AUTO, OFF, Settings
from .records import METRICS, Json, RunInfo, write_json

TENSORBOARD = "tensorboard"
WANDB = "wandb"
WANDB_ID = "wandb.json"
"""In the run folder: the id of the run at Weights & Biases."""

DEFAULT_PROJECT = "lengthwise"

CURVES = {"step": "train", "epoch": "epoch", "eval": "eval"}
"""Kind of a record to the group its curves are shown in."""


class Tracker(Protocol):
    """A place that numbers go to.

    Attributes:
        fresh: whether it knows nothing of this run yet.
    """

    fresh: bool

    def log(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a record."""

    def close(self, failed: bool) -> None:
        """Write what is left."""


class TensorBoard:
    """Curves in an events file.

    Args:
        folder: where; the curves of another run must not be there.
        info: what settings.json says.
        step: optimizer steps done by a run that goes on, whose later points are not shown any more; None for a new one.

    Raises:
        InputError: a new run, and the folder holds curves.
    """

    def __init__(self, folder: Path, info: RunInfo, step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.fresh = not any(folder.glob("events.out.tfevents.*"))
        if not self.fresh and step is None:
            raise InputError(f"{folder} holds the curves of another run; pass another --tensorboard DIR, or --out")
        self.writer = SummaryWriter(str(folder), purge_step=None if step is None else step + 1)
        facts = {
            name: value if type(value) in (bool, int, float) else str(value) for name, value in _facts(info).items()
        }
        for summary in hparams(facts, {f"{group}/loss": None for group in CURVES.values()}):
            self.writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]  # set by the line above

    def log(self, kind: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # also tells of what went wrong in the writer's thread

    def close(self, failed: bool) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases, or in the run folder with WANDB_MODE=offline.

    Args:
        folder: the run folder.
        project: where the run shall be.
        info: what settings.json says.
        quiet: keep its own messages back.
    """

    def __init__(self, folder: Path, project: str, info: RunInfo, quiet: bool) -> None:
        import wandb

        path = folder / WANDB_ID
        self.fresh = not path.exists()
        if self.fresh:
            write_json(path, {"id": secrets.token_hex(4)})
        self.run = wandb.init(
            project=project,
            id=json.loads(path.read_text("utf-8"))["id"],
            name=folder.resolve().name,
            dir=str(folder),
            config=_facts(info),
            resume="allow",
            settings=wandb.Settings(console="off", silent=quiet),
        )
        self.run.define_metric("*", step_metric="step")

    def log(self, kind: str, step: int, values: dict[str, float]) -> None:
        # Its own count of steps rises with every record, over a resume too; up to three records share a step of ours.
        number = len(CURVES) * step + list(CURVES).index(kind)
        if number >= self.run.step:
            self.run.log({"step": step, **values}, step=number)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class Trackers:
    """All trackers of a run as one; a context that closes them.

    Args:
        warn: prints a line that matters even where no report is wanted.

    Attributes:
        open: those at work, by name.
        lost: those that failed, and the step after which they lack records.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.open: dict[str, Tracker] = {}
        self.lost: dict[str, int] = {}
        self.step = 0

    def log(self, record: Json, to: Iterable[str] | None = None) -> None:
        """Hand a record to all trackers, or to those named."""
        kind, step, values = record["kind"], record["step"], curves(record)
        for name in list(self.open if to is None else to):
            self._try(name, lambda tracker: tracker.log(kind, step, values))
        self.step = step

    def catch_up(self, records: Iterable[Json]) -> None:
        """Hand what was recorded before to those that know nothing of the run."""
        fresh = [name for name, tracker in self.open.items() if tracker.fresh]
        for record in records:
            self.log(record, fresh)

    def drop(self, name: str, error: Exception) -> None:
        """Go on without a tracker that failed."""
        self.open.pop(name, None)
        self.lost[name] = self.step
        self.warn(
            f"warning: --{name} failed after step {self.step:,} and gets no more records: {_reason(error)}; "
            f"training goes on, and its records are in {METRICS} all the same"
        )

    def _try(self, name: str, action: Callable[[Tracker], None]) -> None:
        tracker = self.open.get(name)
        if tracker is None:
            return
        try:
            action(tracker)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is no reason to lose a run
            self.drop(name, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self.open):
            self._try(name, lambda tracker: tracker.close(failed=error is not None))


def open_trackers(
    settings: Settings, folder: Path, info: RunInfo, step: int | None, warn: Callable[[str], None], quiet: bool
) -> Trackers:
    """Open what the settings ask for.

    Args:
        settings: name the trackers.
        folder: the run folder.
        info: what settings.json says.
        step: optimizer steps done by a run that goes on, None for a new one.
        warn: see `Trackers`.
        quiet: keep their own messages back.

    Raises:
        LengthwiseError: the run is new and one cannot be opened. In a run that goes on it is dropped with a warning.
    """
    places: dict[str, Callable[[str], Tracker]] = {
        TENSORBOARD: lambda place: TensorBoard(_curve_folder(place, folder), info, step),
        WANDB: lambda place: WeightsAndBiases(folder, _project(place), info, quiet),
    }
    trackers = Trackers(warn)
    trackers.step = step or 0
    for name, place in asked(settings).items():
        try:
            trackers.open[name] = places[name](place)
        except Exception as error:
            if step is not None:
                trackers.drop(name, error)
                continue
            trackers.__exit__(type(error), error, None)
            if isinstance(error, LengthwiseError):
                raise
            raise LengthwiseError(
                f"--{name} could not be opened: {_reason(error)}; nothing was trained, start again with or without it"
            ) from error
    return trackers


def asked(settings: Settings) -> dict[str, str]:
    """The trackers that settings ask for, and where each shall write."""
    given = {TENSORBOARD: settings.tensorboard, WANDB: settings.wandb}
    return {name: place for name, place in given.items() if place not in (None, OFF)}


def check_installed(settings: Settings) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        InputError: one is not.
    """
    for name in asked(settings):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # none, or a mere folder of that name
            raise InputError(
                f"--{name} needs the package {name}, which is not installed; install it with "
                f"`pip install 'lengthwise[{name}]'`, or pass --{name} {OFF}"
            )


def curves(record: Json) -> dict[str, float]:
    """The numbers of a record by the name of their curve, and its padding as a share of its real tokens."""
    group = CURVES[record["kind"]]
    values = {name: value for name, value in record.items() if name not in ("kind", "step", "epoch")}
    if record.get("real_tokens"):
        values["padding"] = record["padded_tokens"] / record["real_tokens"] - 1
    return {
        f"{group}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _facts(info: RunInfo) -> Json:
    """What settings.json says, on one level."""
    content = info.to_json()
    return {**content.pop("settings"), **content.pop("environment"), **content}


def _curve_folder(place: str, run: Path) -> Path:
    return run / TENSORBOARD if place == AUTO else Path(place).expanduser() / run.resolve().name


def _project(place: str) -> str:
    return os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT) if place == AUTO else place


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
