"""Ranks of a training run killed at any moment: all of them end, the newest checkpoint is sound, the run resumes."""

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import train.loop.callbacks
import train.run
import train.run_folder.launching
from tests.helpers.caches import write_cache
from tests.helpers.children import ended, spawn
from tests.helpers.models import STEADY, write_model
from tests.helpers.ranks import check_alike, errors_of, spawn_ranks
from train.loop.checkpoint import read_checkpoint
from train.loop.checkpoints import checkpoints
from train.run_folder.folder import CHECKPOINTS, open_run

pytestmark = pytest.mark.slow

LIMIT_S = 15
"""From the end of the killed rank to that of the last one."""

FLAGS = [
    *("run", "--cache", "toy", "--device", "cpu", "--precision", "fp32", "--lr", "1e-3"),
    *("--epochs", "2", "--max-steps", "12", "--batch-size", "8", "--gradient-accumulation-steps", "2"),
    *("--save-steps", "2", "--logging-steps", "3", "--keep-best", "accuracy"),
]
"""12 steps in 2 epochs, of 9 and 3, each of which ends with an evaluation; 6 checkpoints or 7."""


class Phase(NamedTuple):
    """What a rank does when it is killed: so long after the begin of one of the calls of a function."""

    owner: Any
    function: str
    calls: range
    delay_s: float


PHASES = {
    "checkpoint": Phase(train.loop.callbacks.RunCallbacks, "save", range(1, 7), 0.02),
    "step": Phase(train.run, "update", range(2, 12), 0.02),
    "evaluation": Phase(train.loop.callbacks, "evaluate", range(1, 3), 0.05),
    "first step": Phase(train.run, "backward", range(1, 2), 0.02),
    "start": Phase(train.run_folder.launching, "launched_ranks", range(1, 2), 0.5),
}


def die(victim: int, phase: str, call: int, delay: float, rank: int) -> None:
    """Let SIGKILL end this process, if it is the victim, `delay` seconds after it began that call."""
    if rank != victim:
        return
    owner, name = PHASES[phase][:2]
    function, calls = getattr(owner, name), itertools.count(1)

    def dying(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        return function(*arguments, **named)

    setattr(owner, name, dying)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache and two models, `still` being one without dropout."""
    folder = tmp_path_factory.mktemp("killed")
    write_cache(folder / "toy", {"train": 70, "test": 21})
    write_model(folder / "moving")
    write_model(folder / "still", **STEADY)
    return folder


def start(place: Path, ranks: int, *arguments: str, prepare: Callable[[int], None] | None = None) -> list[Any]:
    """A command under way; on one rank without a launcher."""
    return spawn_ranks(place, ranks, *arguments, prepare=prepare) if ranks > 1 else [spawn(place, *arguments)]


def finish(place: Path, processes: list[Any]) -> None:
    codes = [ended(process) for process in processes]
    assert codes == [0] * len(codes), errors_of(place, len(codes))


def whole_run(place: Path, ranks: int, model: str) -> Path:
    """A run that nothing interrupts."""
    run = place / f"whole-{ranks}-{model}"
    if not run.exists():
        finish(place, start(place, ranks, *FLAGS, "--model", model, "--out", run.name))
    return run


def seconds_to_the_end(place: Path, processes: list[ForkServerProcess], victim: int, terminate: bool) -> float:
    """From the end of the victim to that of all.

    Args:
        place: the folder they run in.
        processes: the ranks.
        victim: dies.
        terminate: send the others SIGTERM soon, as launchers do; otherwise they must find out.
    """
    assert ended(processes[victim]) == -signal.SIGKILL, errors_of(place, len(processes))
    begun = time.monotonic()
    others = [process for process in processes if process is not processes[victim]]
    if terminate:
        others[0].join(0.1)  # torchrun looks that often
        for process in others:
            process.terminate()
    for process in others:
        ended(process, LIMIT_S)
    seconds = time.monotonic() - begun
    assert seconds < LIMIT_S
    return seconds


def kill_and_resume(place: Path, number: int, chance: random.Random) -> tuple[str, float]:
    """One kill; which phase it fell into, and the seconds until all ranks had ended."""
    name, ranks = list(PHASES)[number % len(PHASES)], 3 - number % 2
    resuming = 1 if number % 5 == 4 - number // 5 % 5 else ranks
    model = "moving" if resuming == ranks else "still"
    whole, run = whole_run(place, resuming, model), place / f"killed-{number}"
    victim, phase = chance.randrange(ranks), PHASES[name]
    prepare = partial(die, victim, name, chance.choice(phase.calls), chance.random() * phase.delay_s)
    command = [*FLAGS, "--model", model, "--out", run.name]
    processes = start(place, ranks, *command, prepare=prepare)
    seconds = seconds_to_the_end(place, processes, victim, terminate=name == "start" or chance.random() < 0.5)
    said = "".join(errors_of(place, ranks))
    assert "Traceback" not in said, said
    codes = [process.exitcode for process in processes]
    assert set(codes) <= {0, 1, 2, 143, -signal.SIGTERM, -signal.SIGKILL}, (codes, said)
    saved = newest_checkpoint(run)
    print(f"{number}: {ranks} ranks, {name}, {victim=}, {codes}, {seconds:.1f} s, {saved}, on {resuming}; {said!r}")
    finish(place, start(place, resuming, *(["run", "--resume", run.name] if begun(run) else command)))
    if resuming != ranks:
        check_alike(whole, run)
        return name, seconds
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (run / file).read_bytes() == (whole / file).read_bytes(), (number, name, file)
    return name, seconds


def begun(run: Path) -> bool:
    return (run / "settings.json").exists()


def newest_checkpoint(run: Path) -> str | None:
    """The name of a run's newest checkpoint, every byte of which is right; None where there is none."""
    if not (run / CHECKPOINTS).exists():
        return None
    with open_run(run) as folder, folder.folder(CHECKPOINTS) as root:
        for name in checkpoints(root)[:1]:
            read_checkpoint(root, name)
            return name
    return None


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.faults)])
def test_a_killed_rank_ends_all_of_them_and_the_run_goes_on_from_a_sound_checkpoint(place: Path, kills: int) -> None:
    """On as many ranks to the same bits, with dropout; on one process, without, to weights within rounding."""
    chance = random.Random(kills)
    outcomes = [kill_and_resume(place, number, chance) for number in range(kills)]
    phases, seconds = zip(*outcomes, strict=True)
    print(f"{kills} kills: {dict(Counter(phases))}; all ranks had ended after at most {max(seconds):.1f} s")
