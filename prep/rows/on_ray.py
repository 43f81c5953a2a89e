"""Running the tasks of a build on a Ray cluster: that of RAY_ADDRESS, else one on this machine.

Tasks share a file system and nothing else: they read the source and write sorted runs and shards, and what passes
through Ray is labels, lengths and names of files. Ray starts a task again, up to three times, whose process or machine
is lost (`docs/clusters.md`).
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cache.console.progress import ConsoleProgress
from cache.errors import InputError, LengthwiseError

from ..columns import Stream, parts
from ..tokenization.engines import ParityError
from .executors import Executor, Item, Result
from .parts import Report

AHEAD = 3
"""Tasks that are handed out for each core, so that none waits for this process."""
ANSWER_S = 10.0
"""Seconds within which a cluster must answer."""
STORE_BYTES = 512 << 20
"""Memory of a cluster on this machine for what passes through it."""


def check_ray() -> None:
    """Raise an `InputError` where Ray is not installed, or nothing answers at RAY_ADDRESS, which Ray itself would wait
    for during minutes."""
    if find_spec("ray") is None:
        raise InputError("--executor ray needs Ray, which is not installed; next: pip install 'lengthwise[ray]'")
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # "auto", or nothing
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {getattr(error, 'strerror', None) or error}; start one "
            "there with ray start, or unset RAY_ADDRESS for one on this machine"
        ) from None


@dataclass(frozen=True)
class Place:
    """What all machines must have alike.

    Attributes:
        working: the folder that the command was started in, which relative paths start from.
        building: the folder of the cache that is being built.
        version: of lengthwise.
        host: the machine of the command.
    """

    working: Path
    building: Path
    version: str
    host: str

    @classmethod
    def here(cls, building: Path) -> "Place":
        """As this process has them."""
        return cls(Path.cwd(), building.absolute(), version("lengthwise"), socket.gethostname())

    def take(self) -> None:
        """Work as the command's process would.

        Raises:
            InputError: something is not alike on this machine.
        """
        if (found := version("lengthwise")) != self.version:
            raise InputError(f"lengthwise is {found} here, expected {self.version}; install the same on all machines")
        if not self.building.is_dir():
            raise InputError(
                f"{self.building} is not there; --executor ray needs --out, or LENGTHWISE_STORE where that is a URL, "
                "on storage that all machines share"
            )
        try:
            os.chdir(self.working)
        except OSError as error:
            raise InputError(
                f"{self.working} is not there ({error.strerror}); start prep build in a folder that all machines share"
            ) from None


@dataclass(frozen=True)
class Done:
    """What a task gives: a result, or the error that it ended with; bytes and tokens that it reported."""

    result: Any
    error: Exception | None = None
    read: int = 0
    tokens: int = 0


def perform(call: tuple[Place, Callable[..., Any], Any], item: Any) -> Done:
    """Run a task in a process of the cluster."""
    place, task, shared = call
    reported = [0, 0]

    def report(read: int, tokens: int) -> None:
        reported[0] += read
        reported[1] += tokens

    try:
        place.take()
        result = task(shared, item, report)
    except ParityError as error:
        return Done(None, error)
    except LengthwiseError as error:
        host, (said, *more) = socket.gethostname(), error.args
        return Done(None, error if host == place.host else type(error)(f"{said} (on the machine {host})", *more))
    return Done(result, None, *reported)


class OnRay(Executor):
    """Runs tasks on a Ray cluster.

    Args:
        ray: the library, connected to the cluster.
        part_bytes: of a source that a task reads.
        place: what all machines must have alike.
    """

    in_place = False

    def __init__(self, ray: Any, part_bytes: int, place: Place) -> None:
        self.ray, self.part_bytes, self.place = ray, part_bytes, place
        self.perform = ray.remote(perform).options(num_cpus=1, scheduling_strategy="SPREAD")
        self.most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def parts(self, stream: Stream) -> list[Stream]:
        return parts(stream, self.part_bytes)

    def run(
        self, task: Callable[[Any, Item, Report], Result], shared: Any, items: Iterable[Item], report: Report
    ) -> Iterator[Result]:
        call = self.ray.put((self.place, task, shared))
        waiting = enumerate(items)
        running: dict[Any, int] = {}
        finished: dict[int, Done] = {}
        failed = False
        due = 0  # the item whose result comes next
        try:
            while True:
                while not failed and len(running) < self.most and (following := next(waiting, None)) is not None:
                    running[self.perform.remote(call, following[1])] = following[0]
                while due in finished:
                    done = finished.pop(due)
                    if done.error is not None:
                        raise done.error
                    yield done.result
                    due += 1
                if not running:
                    return
                for reference in self.ray.wait(list(running))[0]:
                    done = self._result(reference)
                    finished[running.pop(reference)] = done
                    failed = failed or done.error is not None
                    if done.error is None:
                        report(done.read, done.tokens)
        finally:
            for reference in running:
                with contextlib.suppress(Exception):
                    self.ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Done:
        """What a task gave; the error where Ray gave it up."""
        errors = self.ray.exceptions
        try:
            done: Done = self.ray.get(reference)
        except errors.RayTaskError:  # a defect, whose traceback it holds
            raise
        except errors.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            return Done(
                None,
                LengthwiseError(
                    f"a task was lost, and again each time that Ray repeated it: {reason}; the logs of Ray say why. "
                    "If memory ran out, pass a smaller --memory, or give Ray fewer cores for each machine"
                ),
            )
        return done


@contextlib.contextmanager
def on_ray(part_bytes: int, building: Path, console: ConsoleProgress) -> Iterator[OnRay]:
    """An executor on the cluster of RAY_ADDRESS; where that is not set, on one that is started on this machine and
    ended with the block. Each task reads about `part_bytes` of a source for the cache that is in the folder `building`.

    Raises:
        InputError: there is no such cluster, or it cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # nothing is printed later than it comes
    import ray

    address, found = os.environ.get("RAY_ADDRESS"), ray.is_initialized()
    if not found:
        settings: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if address else settings))
        except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            what = f"the Ray cluster at RAY_ADDRESS={address} cannot be used" if address else "Ray cannot be started"
            hint = ", and set RAY_AUTH_MODE=token if the cluster requires a token" * bool(address)
            raise InputError(f"{what}: {str(error).strip().partition(chr(10))[0]}; see ray status{hint}") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # Ray tells of lost workers on standard output
        if not found:
            stack.callback(ray.shutdown)
        executor = OnRay(ray, part_bytes, Place.here(building))
        cores = ray.cluster_resources().get("CPU", 0)
        console.log(f"encoding on Ray: {cores:,.0f} cores {f'at {address}' if address else 'of this machine'}")
        yield executor
