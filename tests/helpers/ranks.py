"""Several ranks of one training run, as a launcher starts them: forked children that find each other by environment
variables."""

import os
import socket
from collections.abc import Mapping
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from .children import ended, print_to, spawn


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def spawn_ranks(folder: Path, world_size: int, *arguments: str, **more: str) -> list[ForkServerProcess]:
    """Start `train <arguments>` in `folder` as so many ranks; rank r prints to `out-r.txt` and `err-r.txt` there.

    Args:
        folder: where.
        world_size: how many.
        arguments: of the command.
        more: other environment variables.
    """
    port = free_port()
    return [
        spawn(folder, *arguments, prepare=partial(_become, rank, world_size, port, more)) for rank in range(world_size)
    ]


def _become(rank: int, world_size: int, port: int, more: Mapping[str, str]) -> None:
    """Set what torchrun sets for a rank."""
    print_to(f"out-{rank}.txt", f"err-{rank}.txt")
    numbers = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1", **more)


def errors_of(folder: Path, world_size: int) -> list[str]:
    """What each rank printed to stderr."""
    return [(folder / f"err-{rank}.txt").read_text() for rank in range(world_size)]


def run_ranks(folder: Path, world_size: int, *arguments: str, **more: str) -> list[int]:
    """`spawn_ranks`, to the end; the exit code of each."""
    return [ended(process) for process in spawn_ranks(folder, world_size, *arguments, **more)]
