"""Several ranks of one training run, as a launcher starts them: forked children that find each other by environment
variables."""

import os
import random
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from .children import call, ended, print_to, spawn
from .runs import records

PORTS = 16
"""Ports that are looked for together: one for each run that the same ranks train one after the other."""


def free_port() -> int:
    """The first of `PORTS` ports that nobody listens at, below those that the system gives to outgoing connections."""
    while True:
        first = random.randrange(10_000, 32_000, PORTS)
        with ExitStack() as stack, suppress(OSError):
            for port in range(first, first + PORTS):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def spawn_ranks(
    folder: Path, world_size: int, *arguments: str, prepare: Callable[[int], None] | None = None, **more: str
) -> list[ForkServerProcess]:
    """Start `train <arguments>` in `folder` as so many ranks; rank r prints to `out-r.txt` and `err-r.txt` there.

    Args:
        folder: where.
        world_size: how many.
        arguments: of the command.
        prepare: called by each rank with its number, before the command.
        more: other environment variables.
    """
    port = free_port()
    return [
        spawn(folder, *arguments, prepare=partial(_prepare, rank, world_size, port, more, prepare))
        for rank in range(world_size)
    ]


def _prepare(
    rank: int, world_size: int, port: int, more: Mapping[str, str], prepare: Callable[[int], None] | None
) -> None:
    _become(rank, world_size, port, more)
    if prepare is not None:
        prepare(rank)


def call_ranks(folder: Path, world_size: int, function: Callable[[], object]) -> list[ForkServerProcess]:
    """Start a function in `folder` as so many ranks, see `spawn_ranks`."""
    port = free_port()
    return [call(folder, _call, rank, world_size, port, function) for rank in range(world_size)]


def _call(rank: int, world_size: int, port: int, function: Callable[[], object]) -> None:
    _become(rank, world_size, port, {})
    function()


def _become(rank: int, world_size: int, port: int, more: Mapping[str, str]) -> None:
    """Set what torchrun sets for a rank."""
    print_to(f"out-{rank}.txt", f"err-{rank}.txt")
    numbers = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1", **more)


def meet_elsewhere() -> None:
    """Before another run of the same ranks: a new port, for some may be there while others leave the old one."""
    if "MASTER_PORT" in os.environ:
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)


def errors_of(folder: Path, world_size: int) -> list[str]:
    """What each rank printed to stderr."""
    return [(folder / f"err-{rank}.txt").read_text() for rank in range(world_size)]


def run_ranks(folder: Path, world_size: int, *arguments: str, **more: str) -> list[int]:
    """`spawn_ranks`, to the end; the exit code of each."""
    return [ended(process) for process in spawn_ranks(folder, world_size, *arguments, **more)]


# --- what ranks trained


TOLERANCE = 2e-5
"""The largest difference of a weight after some 12 steps of Adam at 1e-3, from sums in another order."""


def weights(run: Path) -> dict[str, Any]:
    """The weights of a finished run, by name."""
    return safetensors.numpy.load_file(run / "model" / "model.safetensors")


def check_alike(run: Path, other: Path) -> None:
    """The same rows and tokens at every step, losses and weights within rounding."""
    one, two = records(run), records(other)
    assert [record["kind"] for record in one] == [record["kind"] for record in two]
    for record, found in zip(one, two, strict=True):
        for name in ("step", "epoch", "rows", "real_tokens", "masked_tokens", "learning_rate", "skipped_updates"):
            assert record.get(name) == found.get(name)
        for name in ("loss", "grad_norm"):
            if record.get(name) is not None:
                assert found[name] == pytest.approx(record[name], rel=1e-4, abs=1e-6)
    theirs = weights(other)
    for name, expected in weights(run).items():
        np.testing.assert_allclose(theirs[name], expected, rtol=0, atol=TOLERANCE, err_msg=name)
