"""Experiment trackers: TensorBoard and Weights & Biases. Their packages are imported only if a setting names them.

They receive the records of metrics.jsonl and timing.jsonl as these are written. A tracker that fails does not stop the
run, whose records are complete in its folder: it is dropped with a warning, which the final report repeats. A tracker
that cannot be opened at the start of a run is an error, since nothing is lost yet.
"""

import importlib.util
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from traceback import format_exception_only
from typing import Self

from cache.common.folder import Folder
from cache.common.hub import user_path
from cache.errors import InputError, LengthwiseError
from cache.format.checksummed_json import Fields

from ..models.library_errors import library_errors
from ..settings import AUTO, OFF, Settings
from .folder import METRICS, Json, RunInfo

TENSORBOARD = "tensorboard"
WANDB = "wandb"
WANDB_ID = "wandb.json"
"""In the run folder: the id of the run at Weights & Biases."""

DEFAULT_PROJECT = "lengthwise"

CURVES = {"step": "train", "epoch": "epoch", "eval": "eval", "test": "test"}
"""Kind of a record to the group of its curves."""


class TensorBoard:
    """Curves in a TensorBoard events file, in a folder that must not hold those of another run. Points of a resumed run
    beyond its `step` are hidden; it is None for a new run.

    Attributes:
        fresh: whether it has no records of this run yet.

    Raises:
        InputError: the run is new, and the folder holds curves.
    """

    def __init__(self, folder: Path, info: RunInfo, step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.fresh = not any(folder.glob("events.out.tfevents.*"))
        if not self.fresh and step is None:
            raise InputError(f"{folder} holds the curves of another run; pass another --tensorboard DIR, or --out")
        self.writer = SummaryWriter(str(folder), purge_step=None if step is None else step + 1)
        facts = {
            name: value if type(value) in (bool, int, float) else str(value) for name, value in _flat(info).items()
        }
        for summary in hparams(facts, {f"{group}/loss": None for group in CURVES.values()}):
            self.writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]  # set by the line above

    def log(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Log the numbers of a record."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # raises errors of the writer's thread

    def close(self, failed: bool) -> None:
        """Write what is buffered, and close."""
        self.writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases, or in the run folder with WANDB_MODE=offline; `quiet` silences wandb's own messages.

    Attributes:
        fresh: whether it has no records of this run yet.
    """

    def __init__(self, run: Folder, project: str, info: RunInfo, quiet: bool) -> None:
        import wandb

        self.fresh = run.stat(WANDB_ID) is None
        if self.fresh:
            run.write(WANDB_ID, json.dumps({"id": secrets.token_hex(4)}).encode())
        known = json.loads(run.read(WANDB_ID, 1 << 10))
        run.folder(WANDB, make=True).close()  # refuses a link
        self.run = wandb.init(
            project=project,
            id=Fields(known if isinstance(known, dict) else {}, run.path / WANDB_ID).name("id"),
            name=run.path.resolve().name,
            dir=str(run.checked_path()),
            config=_flat(info),
            resume="allow",
            settings=wandb.Settings(console="off", silent=quiet),
        )
        self.run.define_metric("*", step_metric="step")

    def log(self, kind: str, step: int, values: dict[str, float]) -> None:
        # wandb's step must rise with every record, also after a resume; up to three records share an optimizer step.
        number = len(CURVES) * step + list(CURVES).index(kind)
        if number >= self.run.step:
            self.run.log({"step": step, **values}, step=number)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


Tracker = TensorBoard | WeightsAndBiases


class Trackers:
    """All trackers of a run; a context that closes them.

    Attributes:
        open: the working ones, by name.
        lost: those that failed, and the last step whose records they have.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.open: dict[str, Tracker] = {}
        self.lost: dict[str, int] = {}
        self.step = 0

    def log(self, record: Json, fresh_only: bool = False) -> None:
        """Log a record to all trackers, or to those that have none of this run yet."""
        kind, step, values = record["kind"], record["step"], curves(record)
        for name, tracker in list(self.open.items()):
            if tracker.fresh or not fresh_only:
                with self.dropping(name):
                    tracker.log(kind, step, values)
        self.step = step

    @contextmanager
    def dropping(self, name: str) -> Iterator[None]:
        """Within it any error drops a tracker, with a warning: none may stop a run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.open.pop(name, None)
            self.lost[name] = self.step
            reason = "".join(format_exception_only(error)).strip()
            self.warn(
                f"warning: --{name} failed after step {self.step:,} and receives no more records: {reason}; "
                f"training goes on, and its records are in {METRICS} all the same"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for name, tracker in list(self.open.items()):
            with self.dropping(name):
                tracker.close(failed=kind is not None)


def open_trackers(
    settings: Settings, run: Folder, info: RunInfo, step: int | None, warn: Callable[[str], None], quiet: bool
) -> Trackers:
    """Open the trackers that the settings name; `step` is that of a resumed run, None for a new one.

    Raises:
        LengthwiseError: the run is new and one cannot be opened. In a resumed run it is dropped with a warning.
    """
    openers: dict[str, Callable[[str], Tracker]] = {
        TENSORBOARD: lambda target: TensorBoard(_curve_folder(target, run), info, step),
        WANDB: lambda target: WeightsAndBiases(run, _project(target), info, quiet),
    }
    trackers = Trackers(warn)
    trackers.step = step or 0
    remedy = "; nothing was trained, start again with or without it"
    with ExitStack() as opened:
        opened.enter_context(trackers)
        for name, target in requested(settings).items():
            refusing = library_errors(LengthwiseError, f"--{name} could not be opened", remedy)
            with refusing if step is None else trackers.dropping(name):
                trackers.open[name] = openers[name](target)
        opened.pop_all()
    return trackers


def requested(settings: Settings) -> dict[str, str]:
    """The trackers that the settings name, and the destination of each."""
    given = {TENSORBOARD: settings.tensorboard, WANDB: settings.wandb}
    return {name: target for name, target in given.items() if target not in (None, OFF)}


def check_installed(settings: Settings) -> None:
    """Raise an InputError for trackers whose package is not installed."""
    for name in requested(settings):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # not there, or only a folder of that name
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


def _flat(info: RunInfo) -> Json:
    """The content of settings.json as a flat dictionary."""
    content = info.to_json()
    return {**content.pop("settings"), **content.pop("environment"), **content}


def _curve_folder(target: str, run: Folder) -> Path:
    if target != AUTO:
        return user_path(target) / run.path.resolve().name
    run.folder(TENSORBOARD, make=True).close()  # refuses a link
    return run.checked_path() / TENSORBOARD


def _project(target: str) -> str:
    return os.environ.get("WANDB_PROJECT", DEFAULT_PROJECT) if target == AUTO else target
