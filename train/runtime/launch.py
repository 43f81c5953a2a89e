"""How the processes of a run were started: one by hand, or ranks by torchrun, `accelerate launch` or SLURM's srun.

Each launcher tells a process its number by environment variables. torchrun also starts all ranks anew when one of them
failed; what it says then names the launch, so that the run that an earlier attempt began is found.
"""

import os
import platform
import re
from collections.abc import MutableMapping

from cache.errors import InputError

from .distributed import ALONE, ATTEMPT, Ranks

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun and `accelerate launch` set for each rank."""

SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
"""What srun sets for each task; without a step number, as in a batch script, there are no tasks."""

GPUS_PER_TASK = "SLURM_GPUS_PER_TASK"
"""What srun sets if each task has GPUs of its own and sees no others."""

MPI = "OMPI_COMM_WORLD_SIZE"
"""The number of processes of Open MPI's mpirun, each of which would train a run of its own."""

FIRST_PORT, PORTS = 20_000, 10_000
"""The port at which ranks of SLURM meet follows from the numbers of job and step."""

EXAMPLE = "torchrun --nproc-per-node 2 --no-python train run --cache CACHE"

RUN_ID = "TORCHELASTIC_RUN_ID"


def launched_ranks(environment: MutableMapping[str, str] = os.environ) -> Ranks:
    """This process as one of the ranks of its run.

    Under SLURM the variables by which torch's process group finds the other ranks are set.

    Raises:
        InputError: a launcher's variables are incomplete or contradict each other.
    """
    if "RANK" not in environment and "SLURM_STEP_NUM_TASKS" in environment:
        _as_torchrun(environment)
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        if environment.get(MPI, "1") != "1":
            raise InputError(
                f"this process is one of {environment[MPI]} of mpirun, which says no address at which they meet; start "
                f"them with torchrun instead: {EXAMPLE}"
            )
        return ALONE
    missing = [name for name in TORCHRUN if not environment.get(name)]
    if missing and environment.get("WORLD_SIZE") != "1":
        raise InputError(
            f"this process is said to be one of several ranks, but {', '.join(missing)} is not set; start it with a "
            f"launcher that does so, such as: {EXAMPLE}"
        )
    rank, world_size, local_rank = (_number(environment, *item) for item in zip(TORCHRUN, (0, 1, 0), strict=False))
    if not 0 <= rank < world_size:
        raise InputError(
            f"RANK is {rank}, expected 0 to {world_size - 1}, for WORLD_SIZE is {world_size}; start with: {EXAMPLE}"
        )
    return Ranks(rank, world_size, local_rank)


def _number(environment: MutableMapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit():
        raise InputError(f"the environment variable {name} is {text!r}, expected a number; start with: {EXAMPLE}")
    return int(text)


def _as_torchrun(environment: MutableMapping[str, str]) -> None:
    """Translate srun's variables into torchrun's."""
    rank, size, local, nodes, job = (environment.get(name, "") for name in SRUN)
    if size in ("", "1"):
        return
    found = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)  # such as node7, or node[003-006,9],other1
    number = int(job or 0) + 100 * int(environment.get("SLURM_STEP_ID", "0"))
    if environment.get(GPUS_PER_TASK):
        local = "0"  # of the devices that this task may use, which are numbered from 0
    environment.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=local)
    environment.setdefault("MASTER_ADDR", "" if found is None else found[1] + (found[2] or ""))
    environment.setdefault("MASTER_PORT", str(FIRST_PORT + number % PORTS))


def launch_id() -> str | None:
    """What all attempts of one torchrun have in common, on the machine of the first rank; None without torchrun."""
    if ATTEMPT not in os.environ:
        return None
    return f"{os.environ.get(RUN_ID, 'none')} {platform.node()} {os.getppid()}"


def is_restarted() -> bool:
    """Whether torchrun started this process anew because a rank failed."""
    return os.environ.get(ATTEMPT, "0") != "0"
