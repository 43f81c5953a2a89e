"""Training runs in the tests' own process: begun, stopped, resumed, and compared. None prints anything."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from train.run import resume_run, start_run
from train.runtime.signals import Stopped
from train.settings import Settings

from .files import read_jsonl

if TYPE_CHECKING:
    from train.loop.setup import TrainingSetup
    from train.loop.state import State


def quiet(text: str) -> None:
    """A log that keeps nothing."""


def start(settings: Settings) -> Path:
    """A finished run; its folder."""
    return start_run(settings, quiet, quiet, quiet=True)


def begin(cache: Path | str, model: Path | str, out: Path | str, **flags: Any) -> Path:
    """A finished run of a model on a cache, in the folder `out`."""
    return start(Settings(str(cache), str(model), str(out), **flags))


def resume(run: Path, **given: Any) -> Path:
    """Let a run go on."""
    return resume_run(run, given, quiet, quiet, quiet=True)


def command(cli: Any, *arguments: object, typed: str | None = None) -> str:
    """What a command of click prints to stdout, run in this process; it raises what the command raises.

    Args:
        cli: the command, or the group it is of.
        arguments: of the command.
        typed: on standard input.
    """
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], input=typed)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def stop_after(patch: pytest.MonkeyPatch, step: int) -> None:
    """Ask the next run in this process to stop, as SIGTERM does, when its `step`-th optimizer step is done."""
    import train.run

    update = train.run.update

    def stopping(setup: "TrainingSetup", state: "State") -> None:
        update(setup, state)
        if state.step == step:
            signal.raise_signal(signal.SIGTERM)

    patch.setattr(train.run, "update", stopping)


@contextmanager
def stopped_after(step: int) -> Iterator[None]:
    """The run that begins in this block is stopped by SIGTERM when its `step`-th optimizer step is done."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Stopped) as stopped:
            yield
    assert stopped.value.code == 128 + signal.SIGTERM


def resume_from_first_checkpoint(run: Path) -> None:
    """Let a finished run go on as one that died behind its first checkpoint."""
    for path in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    (run / "summary.json").unlink()
    resume(run)


def records(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, of these kinds alone if any are given."""
    return [record for record in read_jsonl(run / "metrics.jsonl") if not kinds or record["kind"] in kinds]


def results(run: Path) -> dict[str, bytes]:
    """What two equal runs have in common to the byte: metrics and weights."""
    return {name: (run / name).read_bytes() for name in ("metrics.jsonl", "model/model.safetensors")}


def check_same_run(one: Path, other: Path) -> None:
    """Metrics and weights of two runs are equal to the byte."""
    theirs = results(other)
    for name, data in results(one).items():
        assert data == theirs[name], name
