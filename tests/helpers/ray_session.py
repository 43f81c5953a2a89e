"""A process that builds on a real Ray cluster of its own, while its workers are killed.

    python -m tests.helpers.ray_session SOURCE TOKENIZER BUILDS KILLS SEED

Builds SOURCE so many times into ray-0, ray-1, …; during each build it kills so many of Ray's workers, at random. Prints
a line of JSON per build: the kills, and what the build raised if anything.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cache import LengthwiseError
from cache.console.progress import ConsoleProgress
from prep.build import build
from prep.settings import BuildSettings

PART_BYTES = 30_000


def workers() -> list[int]:
    """The worker processes of Ray that descend from this one, by their process numbers; not those that they fork to
    read files, whose end a build takes for the file's fault."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            forked = Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"ray::")
            session = os.getsid(int(folder.name))
        except OSError:
            continue
        if title.startswith((b"ray::perform", b"ray::IDLE")) and session == os.getsid(0) and not forked:
            found.append(int(folder.name))
    return found


def kill_workers(kills: int, seed: int, over: threading.Event, killed: list[str]) -> None:
    """Kill random workers at random moments."""
    choose = random.Random(seed)
    while len(killed) < kills and not over.wait(choose.uniform(0.05, 0.6)):
        alive = workers()
        if alive:
            number = choose.choice(alive)
            title = Path(f"/proc/{number}/cmdline")
            try:
                killed.append(title.read_bytes().rstrip(b"\0").decode())
                os.kill(number, signal.SIGKILL)
            except OSError:
                continue


def run(source: str, tokenizer: str, number: int, kills: int, seed: int) -> dict[str, Any]:
    """One build."""
    over, killed = threading.Event(), list[str]()
    killer = threading.Thread(target=kill_workers, args=(kills, seed, over, killed))
    killer.start()
    started, error = time.monotonic(), None
    settings = BuildSettings(
        source, name="a", out=f"ray-{number}", tokenizer=tokenizer, executor="ray", part_bytes=PART_BYTES, epochs=1,
        holdout=0.2, shard_bytes=40_000,
    )  # fmt: skip
    try:
        build(settings, ConsoleProgress(quiet=True))
    except LengthwiseError as raised:
        error = str(raised)
    over.set()
    killer.join()
    return {"kills": killed, "error": error, "seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    source, tokenizer, builds, kills, seed = sys.argv[1:]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    for number in range(int(builds)):
        print(json.dumps(run(source, tokenizer, number, int(kills), int(seed) + number)), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
