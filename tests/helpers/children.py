"""Commands in processes of their own, to be stopped and killed for real, or to write to a terminal.

They are forked from a server that has the slow imports behind it, so that each starts within milliseconds.
"""

import faulthandler
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import prep.cli
import train.cli
from cache.common.folder import Folder

if TYPE_CHECKING:
    from train.loop.setup import TrainingSetup
    from train.loop.state import State

MAINS: dict[str, Callable[[], object]] = {"train": train.cli.main, "prep": prep.cli.main}

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.server_imports"])


def fork_server() -> None:
    """Make the server a fork of this process, which has imported what it needs and run no test yet: a Python of its own
    would import it all again."""
    CONTEXT.set_forkserver_preload([])
    multiprocessing.resource_tracker.ensure_running()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.util, "spawnv_passfds", _fork)
        multiprocessing.forkserver.ensure_running()


def _fork(_: str, arguments: Sequence[str], files: Sequence[int]) -> int:
    """Run the code of `python … -c CODE` in a fork that keeps these files and the standard ones alone; its number."""
    if process := os.fork():
        return process
    try:
        faulthandler.disable()
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        for handler in [reference() for reference in logging._handlerList]:
            if type(handler) is logging.StreamHandler:  # of a library, which was imported as output was captured
                handler.setStream(sys.stderr)
        _silence(files)
        exec(arguments[-1])
    finally:
        os._exit(0)


def _silence(files: Sequence[int]) -> None:
    """Let all open files but these and the standard ones be the null device: were their numbers free, new files would
    get them, and what still writes to old ones would write to these."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in {int(path.name) for path in Path("/dev/fd").iterdir()} - {0, 1, 2, null, *files}:
        os.dup2(null, number, inheritable=False)


def spawn(
    folder: Path, *arguments: str, prepare: Callable[[], None] | None = None, command: str = "train"
) -> ForkServerProcess:
    """Start `train <arguments>` or `prep` in `folder`; what it prints goes to `out.txt` and `err.txt` there."""
    return call(folder, run_command, command, arguments, prepare)


def call(folder: Path, function: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Start a function in `folder`; what it prints goes to `out.txt` and `err.txt` there."""
    process = CONTEXT.Process(target=_child, args=(folder, dict(os.environ), function, arguments))
    process.start()
    return process


def _child(
    folder: Path, environment: dict[str, str], function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    print_to("out.txt", "err.txt")
    function(*arguments)


def print_to(out: str, err: str) -> None:
    """Let what this process prints go to files, or to one."""
    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)


def run_command(command: str, arguments: tuple[str, ...], prepare: Callable[[], None] | None) -> None:
    """Be the command `train` or `prep`."""
    if prepare:
        prepare()
    sys.argv = [command, *arguments]
    MAINS[command]()


def ended(process: ForkServerProcess, seconds: int = 120) -> int:
    """Wait for a child; its exit code, negative where a signal killed it."""
    process.join(seconds)
    assert process.exitcode is not None, f"the child did not end within {seconds} seconds"
    return process.exitcode


def wait_for_lines(path: Path, count: int, process: ForkServerProcess) -> None:
    """Wait until a file has so many lines, or the process has ended."""
    while process.is_alive() and (not path.exists() or path.read_bytes().count(b"\n") < count):
        time.sleep(0.002)


def kill_in_second_checkpoint() -> None:
    """Make this process die while it writes its second checkpoint, all files but the last rename done."""
    rename, calls = Folder.rename, []

    def dying(folder: Folder, old: str, new: str) -> None:
        calls.append(new)
        if sum(name.startswith("step-") for name in calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(folder, old, new)

    Folder.rename = dying


def slow_steps(*_: object) -> None:
    """Let each optimizer step of this process take a tenth of a second, busy or not, so that a signal meets the run
    before its end however long it takes to come."""
    import train.run

    update = train.run.update

    def slowed(setup: "TrainingSetup", state: "State") -> None:
        time.sleep(0.1)
        update(setup, state)

    train.run.update = slowed
