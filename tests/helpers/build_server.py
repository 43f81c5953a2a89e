"""A process that builds toy caches in children of its own, so that a test can kill one at any moment.

It imports everything once and forks a child per build. On its standard input it takes lines of JSON. An order to
build has place, seed, exchange (whether the system can exchange two folders) and die_at (the file-system operation
before which the child kills itself); the answer is the child's process number. That number as a line of its own
waits for the child; the answer is its exit status, what it said and how many operations it made. Until then a dead
child keeps its number, so that a signal never reaches another process.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from . import ROOT

OPERATIONS = ("open", "os.", "shutil.", "fcntl.", "ctypes.call_function")


def build(place: Path, seed: int = 0, **_: Any) -> None:
    """Build as the command does: alone, and not again what is there."""
    from cache import NotACacheError
    from cache.format.manifest import fingerprint_of
    from cache.reading.manifest import open_folder, read_manifest
    from cache.writing.publishing import building
    from tests.helpers.caches import write_cache

    with building(place, say):
        try:
            there = read_manifest(open_folder(place)).fingerprint
        except NotACacheError:
            there = None
        if there != fingerprint_of({"seed": seed, "splits": SPLITS}):
            say("building")
            write_cache(place, SPLITS, seed=seed, shards=2, max_length=12)


SPLITS = {"train": 12, "test": 3}
said: list[str] = []
operations = 0


def say(message: str) -> None:
    said.append(message)


def die_at(operation: int | None) -> None:
    """Count the file-system operations of this process, and kill it before its n-th."""

    def count(event: str, arguments: object) -> None:
        global operations
        if event.startswith(OPERATIONS):
            operations += 1
            if operations - 1 == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def child(order: dict[str, Any]) -> None:
    if not order.get("exchange", True):
        from cache.common.folder import Folder

        Folder.exchange = lambda *_: False  # type: ignore[method-assign]
    die_at(order.get("die_at"))
    build(Path(order["place"]), order["seed"])


def serve() -> None:
    importlib.import_module("tests.helpers.caches")
    importlib.import_module("tokenizers")

    pipes: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, int):
            with os.fdopen(pipes.pop(order)) as pipe:
                heard = json.loads(pipe.read() or "{}")
            status = os.waitstatus_to_exitcode(os.waitpid(order, 0)[1])
            print(json.dumps({"exit": status, **heard}), flush=True)
            continue
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            run_child(order, writing)
        os.close(writing)
        pipes[process] = reading
        print(process, flush=True)


def run_child(order: dict[str, Any], answer: int) -> NoReturn:
    status = 1
    try:
        child(order)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os.write(answer, json.dumps({"said": said, "operations": operations}).encode())
        os._exit(status)


class Builder:
    """A running `serve`. `start` begins a build, `end` waits for it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.build_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def start(self, place: Path, seed: int = 0, **order: Any) -> int:
        """Begin a build; returns the process number of who builds."""
        return int(self._ask({"place": str(place), "seed": seed, **order}))

    def end(self, process: int) -> dict[str, Any]:
        """Wait for a build; returns its `exit` status (negative: the signal) and, if it was not killed, what it `said`
        and how many `operations` it made."""
        answer: dict[str, Any] = json.loads(self._ask(process))
        return answer

    def run(self, place: Path, seed: int = 0, **order: Any) -> dict[str, Any]:
        return self.end(self.start(place, seed, **order))

    def _ask(self, order: Any) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def close(self) -> None:
        self.process.communicate()


if __name__ == "__main__":
    serve()
