"""What launchers tell a process, and what it makes of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

from cache.errors import InputError
from tests.helpers.caches import write_cache
from tests.helpers.children import ended, print_to, slow_steps, spawn, wait_for_lines
from tests.helpers.hostile import at, resealed
from tests.helpers.models import write_model
from tests.helpers.ranks import errors_of, free_port, spawn_ranks
from train.runtime.device import pick_device
from train.runtime.distributed import ALONE, Ranks
from train.runtime.launch import FIRST_PORT, launched_ranks

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
}


def test_a_process_without_a_launcher_is_alone() -> None:
    assert launched_ranks({}) is ALONE
    assert ALONE.first
    assert not ALONE.several


def test_torchrun_and_accelerate_tell_a_rank_its_numbers() -> None:
    assert launched_ranks(dict(TORCHRUN)) == Ranks(3, 8, 1)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu[003-006,9],cpu1", "gpu003"),
        ("gpu[12,14]", "gpu12"),
        ("a-1,b-2", "a-1"),
        ("x[1-2]", "x1"),
    ],
)
def test_srun_tells_it_too_and_the_ranks_meet_on_its_first_node(nodes: str, first: str) -> None:
    environment = {**SRUN, "SLURM_STEP_NODELIST": nodes}
    assert launched_ranks(environment) == Ranks(5, 8, 1)
    assert environment["MASTER_ADDR"] == first
    assert environment["MASTER_PORT"] == "23456"


def test_a_task_of_slurm_with_gpus_of_its_own_takes_the_first_it_sees() -> None:
    environment = {**SRUN, "SLURM_STEP_NODELIST": "gpu7", "SLURM_GPUS_PER_TASK": "1"}
    assert launched_ranks(environment) == Ranks(5, 8, 0)


def test_the_local_rank_picks_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the rank: on the second of two machines of 4 GPUs rank 5 takes the second one."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    ranks = Ranks(5, 8, 1)
    for name in ("auto", "cuda"):
        assert pick_device(name, ranks.local_rank) == torch.device("cuda", 1)
    assert pick_device("cpu", ranks.local_rank) == torch.device("cpu")
    with pytest.raises(InputError, match=r"LOCAL_RANK is 4, but this machine has 4 cuda.*--nproc-per-node 4"):
        pick_device("auto", 4)


def test_a_batch_script_of_slurm_is_one_process() -> None:
    """It has the numbers of its job, but is no task of a step."""
    script = {name: value for name, value in SRUN.items() if "STEP" not in name}
    assert launched_ranks(script) is ALONE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"RANK": "8"}, "RANK is 8, expected 0 to 7"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', expected a number"),
    ],
)
def test_contradictions_of_a_launcher_are_refused(change: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        launched_ranks({**TORCHRUN, **change})
    assert "torchrun --nproc-per-node" in str(raised.value)


def test_mpirun_is_told_to_be_torchrun() -> None:
    with pytest.raises(InputError, match="start them with torchrun"):
        launched_ranks({"OMPI_COMM_WORLD_SIZE": "2"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache and a model."""
    folder = tmp_path_factory.mktemp("launch")
    write_cache(folder / "toy", {"train": 70})
    write_model(folder / "model")
    return folder


FLAGS = ["--cache", "toy", "--model", "model", "--device", "cpu", "--save-steps", "2", "--logging-steps", "1"]


def start_tasks(folders: Sequence[Path], *arguments: str) -> list[ForkServerProcess]:
    """`train <arguments>` as tasks of SLURM's srun, one on each node, in these working directories."""
    port = free_port()
    return [
        spawn(folder, *arguments, prepare=partial(become_task, number, len(folders), port))
        for number, folder in enumerate(folders)
    ]


def become_task(number: int, tasks: int, port: int) -> None:
    print_to(f"out-{number}.txt", f"err-{number}.txt")
    numbers = {"PROCID": number, "STEP_NUM_TASKS": tasks, "LOCALID": 0, "JOB_ID": port - FIRST_PORT, "STEP_ID": 0}
    os.environ.update({f"SLURM_{name}": str(value) for name, value in numbers.items()})
    os.environ["SLURM_STEP_NODELIST"] = "127.0.0.[1,2]"


@pytest.mark.slow
def test_tasks_of_slurm_on_two_nodes_train_if_they_share_the_run_folder(place: Path) -> None:
    """Otherwise the first says so, and leaves nothing behind; a checkpoint that each has of its own is noticed."""
    command = ["run", *FLAGS, "--cache", str(place / "toy"), "--model", str(place / "model"), "--max-steps", "3"]
    nodes = [place / "node-1", place / "node-2"]
    for node in nodes:
        node.mkdir()
    processes = start_tasks(nodes, *command, "--out", "apart")
    assert [ended(process) for process in processes] == [2, 2]
    said = (nodes[0] / "err-0.txt").read_text()
    assert said.startswith("error: rank 1: the run folder apart that the first rank made is not there on ")
    assert "pass --out FOLDER on a file system that the machines share" in said
    assert (nodes[1] / "err-1.txt").read_text() == ""
    processes = start_tasks(nodes, *command, "--out", str(place / "shared"))
    assert [ended(process) for process in processes] == [0, 0], said
    assert json.loads((place / "shared" / "settings.json").read_text())["environment"]["ranks"] == 2
    assert {path.suffix for node in nodes for path in node.iterdir()} == {".txt"}, "what they printed, nothing else"
    for node in nodes:
        shutil.copytree(place / "shared", node / "apart")
        (node / "apart" / "summary.json").unlink()
    [checkpoint] = (nodes[1] / "apart" / "checkpoints").glob("step-000003")
    resealed(checkpoint / "state.json", at("records", 0, "sha256", value="0" * 64))
    processes = start_tasks(nodes, "run", "--resume", "apart")
    assert [ended(process) for process in processes] == [2, 2]
    assert "checkpoint: ['000000000000', " in (nodes[0] / "err-0.txt").read_text()


@pytest.mark.slow
def test_the_next_attempt_of_torchrun_goes_on_from_the_newest_checkpoint(place: Path) -> None:
    """Attempt 0 is killed on one rank; attempt 1 has the same command line, and the same launcher as parent."""
    for attempt in range(2):
        more = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": str(attempt)}
        slowly = slow_steps if attempt == 0 else None
        processes = spawn_ranks(place, 2, "run", *FLAGS, "--epochs", "2", prepare=slowly, **more)
        if attempt == 0:
            wait_for_lines(place / "runs" / "toy-1" / "metrics.jsonl", 4, processes[0])
            processes[1].kill()
        codes = [ended(process, 60) for process in processes]
        assert codes == ([1, -signal.SIGKILL], [0, 0])[attempt], errors_of(place, 2)
    assert "resuming" in (place / "out-0.txt").read_text()
    assert [path.name for path in (place / "runs").iterdir()] == ["toy-1"]
    assert (place / "runs" / "toy-1" / "summary.json").exists()


@pytest.mark.faults
def test_torchrun_restarts_killed_ranks_and_the_run_ends(place: Path) -> None:
    """The real one, with a rank killed for real."""
    torchrun = Path(sysconfig.get_path("scripts")) / "torchrun"
    command = [sys.executable, torchrun, "--nproc-per-node=2", "--max-restarts=1", f"--master-port={free_port()}"]
    main = [sys.executable, "-c", "from train.cli import main; main()", "run", *FLAGS, "--out", "restarted"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--no-python", *main, "--epochs", "20"], cwd=place, env=environment, stderr=subprocess.PIPE
    )
    metrics = place / "restarted" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
    errors = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 0, errors
    assert (place / "restarted" / "summary.json").exists()
