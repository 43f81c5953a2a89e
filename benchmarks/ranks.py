"""The cost of ranks: `train run` alone, as the one rank of a launcher, and as two ranks of one thread each.

    python -m benchmarks.ranks --quick

The same steps of the same rows each time, in processes of their own that take turns. Seconds are those of training
alone, from the run's own records; CPU seconds those of all its processes, start included.
"""

import argparse
import os
import shutil
import sys

from . import timing
from .runs import read_run, worker
from .timing import WORK, Json, interleave, measure, median_of, ratio, say

WAYS = {
    "plain": (0, 1, "train run, 1 thread"),
    "one_rank": (1, 1, "torchrun --nproc-per-node 1, 1 thread"),
    "two_threads": (0, 2, "train run, 2 threads"),
    "two_ranks": (2, 1, "torchrun --nproc-per-node 2, 1 thread each"),
}
"""Name to ranks (0: without torchrun), threads of each, and what it is called."""


def main() -> None:
    flags = {"layers": 2, "rows": 400, "steps": 0, "batch_size": 16, "strategy": "tight"}
    compare(timing.arguments(__doc__, **flags).parse_args())


def compare(settings: argparse.Namespace) -> None:
    """Every way in turn."""
    rounds = settings.rounds or (1 if settings.quick else 3)
    steps = settings.steps or (8 if settings.quick else 20)
    trainer = worker()
    folders = trainer.ask(do="prepare", layers=settings.layers, limit=settings.rows, holdout=0.2)
    trainer.close()
    flags = ["--max-steps", steps, "--batch-size", settings.batch_size, "--strategy", settings.strategy]
    flags += ["--eval-split", "none", "--test-split", "none", "--precision", "fp32", "--device", "cpu", "--epochs", 9]

    def once(name: str) -> Json:
        return run(name, [*flags, "--cache", folders["cache"], "--model", folders["model"]])

    samples = interleave(tuple(WAYS), rounds, once, say)
    table = [
        {
            "way": WAYS[name][2],
            "seconds": median_of(found, "seconds"),
            "cpu_seconds": median_of(found, "cpu_seconds"),
            "tokens": found[0]["real_tokens"],
        }
        for name, found in samples.items()
    ]
    columns = {
        "way": f"{settings.layers} layers, {steps} steps of {settings.batch_size} reviews",
        "seconds": "training, s",
        "cpu_seconds": "CPU, s, start included",
        "tokens": "real tokens",
    }
    ratios = {
        "one rank / plain, seconds (1.02 or less)": ratio(samples, "one_rank", "plain", "seconds"),
        "2 ranks x 1 thread / 1 process x 2 threads, seconds": ratio(samples, "two_ranks", "two_threads", "seconds"),
    }
    timing.report("ranks", f"The cost of ranks: medians of {rounds}, fp32", table, columns, ratios, settings)


def run(name: str, flags: list[object]) -> Json:
    """Train in processes of their own; the numbers of the run, and the CPU seconds of its processes."""
    ranks, threads, _ = WAYS[name]
    out = WORK / f"ranks-{name}"
    shutil.rmtree(out, ignore_errors=True)
    launcher = f"-m torch.distributed.run --standalone --nproc-per-node={ranks} --no-python".split()
    train = [sys.executable, "-c", "from train.cli import main; main()", "run", "--quiet", *flags, "--out", out]
    command = [str(word) for word in ([sys.executable, *launcher, *train] if ranks else train)]
    usage, _ = measure(command, {**os.environ, "OMP_NUM_THREADS": str(threads)})
    return {**read_run(out), "cpu_seconds": usage["cpu_s"]}


if __name__ == "__main__":
    main()
