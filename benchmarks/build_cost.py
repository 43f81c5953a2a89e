"""What each step of a build costs per GB of text, in seconds of CPU and bytes; from that, 1 TB on 32 machines on paper.

    python -m benchmarks.build_cost --quick

A build by parts, as on a cluster, each task in a process of its own, one after the other. Text is salted copies of the
reviews as parquet. CPU seconds, which other work on the machine changes little, not the clock's.
"""

import os
import resource
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import timing
from .timing import WORK, Json, apart

OUT = WORK / "build-cost"
READ, ENCODE, SORT, SPILL, REST = "read and parse", "encode", "sort", "write sorted runs", "between them"
MERGE, HASH, SHARD, DRIVER = "read slices and merge", "hash shards", "write shards", "the command itself"
SOURCE = "hash the source"
MACHINES, CORES, GBIT = 32, 16, 10
"""Of the cluster on paper."""


def main() -> None:
    parser = timing.arguments(__doc__, memory="1GiB")
    parser.add_argument("--copies", type=int, help="of the reviews; 100 are 3.3 GB")
    settings = parser.parse_args()
    copies = settings.copies or (4 if settings.quick else 100)
    path = Path(apart("corpus", "salted_parquet", copies)[1])  # apart, for its memory is not the build's
    try:
        found = build(path, settings.memory)
    finally:
        shutil.rmtree(OUT, ignore_errors=True)
        path.unlink()
    report(found, settings)


class Measured:
    """Runs tasks one after the other, each in a process of its own, and adds up what they take."""

    in_place = False

    def __init__(self, part_bytes: int) -> None:
        self.part_bytes = part_bytes
        self.reset()

    def reset(self) -> None:
        """Forget what was added up."""
        self.cpu: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.slices: list[int] = []
        self.encoding = False
        self.tasks: dict[str, list[Json]] = {}

    def parts(self, stream: Any) -> list[Any]:
        from prep.columns import parts

        return parts(stream, self.part_bytes)

    def run(self, task: Callable[..., Any], shared: Any, items: Iterable[Any], report: Any) -> Iterator[Any]:
        from cache.common.forked import Forked

        for item in items:
            result, usage, self.cpu, self.bytes = Forked(1 << 40).call("a task", self._perform, task, shared, item)
            self.tasks.setdefault(task.__name__, []).append(usage)
            if hasattr(item, "rows"):
                self.slices.append(len(item.rows.slices))
            report(0, 0)
            yield result

    def _perform(self, task: Callable[..., Any], shared: Any, item: Any) -> tuple[Any, ...]:
        before, self.encoding = self.cpu.total(), task.__name__ == "encode_part"
        result = task(shared, item, lambda *_: None)
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = {"own_s": own.ru_utime + own.ru_stime, "reader_s": children.ru_utime + children.ru_stime}
        self.cpu[READ] += spent["reader_s"]
        rest = REST if self.encoding else SHARD
        self.cpu[rest] += spent["own_s"] - (self.cpu.total() - spent["reader_s"] - before)
        peak = {"peak_bytes": own.ru_maxrss << 10, "reader_peak_bytes": children.ru_maxrss << 10}
        return result, {**spent, **peak}, self.cpu, self.bytes

    def timed(self, owner: Any, name: str, step: str, size: Callable[[Any], int] = lambda _: 0) -> None:
        """Have calls of a function add to a step; `size` gives their bytes from what they return."""
        function = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            result = function(*arguments, **named)
            own = SORT if step == MERGE and self.encoding else step  # a part that fits in memory is one sorted run
            self.cpu[own] += time.process_time() - start
            self.bytes[own] += size(result) if own == step else 0
            return result

        setattr(owner, name, call)


def build(path: Path, memory: str) -> Json:
    """Build the cache by parts; what it took."""
    from cache.console.progress import ConsoleProgress
    from cache.console.sizes import parse_bytes
    from cache.format.files import sha256_file
    from prep import build as building
    from prep.rows import encoding, external_sort
    from prep.settings import DEFAULT_PART_BYTES, BuildSettings
    from prep.tokenization.encoder import Encoder

    executor = Measured(DEFAULT_PART_BYTES)
    executor.timed(Encoder, "encode", ENCODE)
    executor.timed(encoding, "sort_rows", SORT)
    executor.timed(external_sort.SortedRunStore, "_spilled", SPILL, lambda run: len(run.ids) * run.ids.dtype.itemsize)
    executor.timed(external_sort.ShardRows, "read", MERGE, lambda found: found.nbytes)
    building.Executor = lambda: executor  # type: ignore[assignment, misc]  # the tasks of a build are the same anywhere
    start = time.process_time()
    digest_s = -start
    sha256_file(path)
    digest_s += time.process_time()
    shutil.rmtree(OUT, ignore_errors=True)
    settings = BuildSettings(
        str(path), name="a", out=OUT, tokenizer="minilm", max_length=400, epochs=0, memory_bytes=parse_bytes(memory)
    )
    building.build(replace(settings, name="warm", source=str(_two_rows())), ConsoleProgress(quiet=True))  # imports
    executor.reset()
    start = time.process_time()
    cache = building.build(settings, ConsoleProgress(quiet=True)).cache
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    executor.cpu[DRIVER] = time.process_time() - start - digest_s
    executor.cpu[SOURCE] = digest_s
    shards = sorted(cache.folder.glob("*/shard-*.safetensors"))
    start = time.process_time()
    for shard in shards:
        sha256_file(shard)
    executor.cpu[HASH] = time.process_time() - start
    executor.cpu[SHARD] -= executor.cpu[HASH]
    executor.bytes[SHARD] = executor.bytes[HASH] = sum(shard.stat().st_size for shard in shards)
    executor.bytes[SOURCE] = path.stat().st_size
    executor.bytes[READ] = text_bytes(path)
    return {"cpu": executor.cpu, "bytes": executor.bytes, "tasks": executor.tasks, "slices": executor.slices,
            "rows": cache.manifest.splits["train"].rows, "text_bytes": executor.bytes[READ],
            "driver_peak_bytes": peak_bytes}  # fmt: skip


def _two_rows() -> Path:
    path = WORK / "cost-warm.csv"
    path.write_text("text,label\nGood.,1\nBad.,0\n")
    return path


def text_bytes(path: Path) -> int:
    """Bytes of the texts themselves, unpacked."""
    import pyarrow.compute as pc
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return sum(pc.sum(pc.binary_length(batch["text"])).as_py() for batch in file.iter_batches(columns=["text"]))


def report(found: Json, settings: Any) -> None:
    """The table per GB, and what follows for 1 TB."""
    from cache.format.manifest import DEFAULT_SHARD_BYTES

    gb = found["text_bytes"] / 1e9
    steps = [READ, ENCODE, SORT, SPILL, REST, MERGE, SHARD, HASH, SOURCE, DRIVER]
    rows: list[Json] = [
        {"step": step, "cpu_s_per_gb": found["cpu"][step] / gb, "gb_per_gb": found["bytes"][step] / 1e9 / gb}
        for step in steps
    ]
    tasks = found["tasks"]
    apart = sum(found["cpu"][step] for step in steps if step not in (SOURCE, DRIVER)) / gb
    slices = max(found["slices"])
    spilled, stored = (found["bytes"][step] / 1e9 / gb for step in (SPILL, SHARD))
    encoding = [task["own_s"] + task["reader_s"] for task in tasks["encode_part"]]
    parts, shards = round(len(encoding) / gb * 1000), round(stored * 1e12 / DEFAULT_SHARD_BYTES)
    ratios = {
        "GB of text": gb,
        "tasks that encode, CPU s of one": statistics.median(encoding),
        "peak MiB of a task that encodes": max(task["peak_bytes"] for task in tasks["encode_part"]) / 2**20,
        "peak MiB of its reader": max(task["reader_peak_bytes"] for task in tasks["encode_part"]) / 2**20,
        "peak MiB of a task that writes a shard": max(task["peak_bytes"] for task in tasks["write_part"]) / 2**20,
        "peak MiB of the command": found["driver_peak_bytes"] / 2**20,
        "slices of a shard": slices,
        "1 TB: tasks, CPU hours": apart * 1000 / 3600,
        f"1 TB: minutes of CPU on {MACHINES} machines of {CORES} cores": apart * 1000 / 60 / MACHINES / CORES,
        f"1 TB: minutes to move text, sorted runs twice and shards at {GBIT} Gbit/s a machine":
            (1 + 2 * spilled + stored) * 1e12 * 8 / (GBIT * 1e9) / 60 / MACHINES,
        "1 TB: minutes of CPU of the command": found["cpu"][DRIVER] / gb * 1000 / 60,
        "1 TB: minutes of CPU to hash the source, of one core": found["cpu"][SOURCE] / gb * 1000 / 60,
        "1 TB: parts": parts,
        "1 TB: shards": shards,
        "1 TB: slices, millions": slices / len(encoding) * parts * shards / 1e6,
        "1 TB: rows, millions": found["rows"] / gb / 1000,
    }  # fmt: skip
    columns = {"step": "step", "cpu_s_per_gb": "CPU s per GB of text", "gb_per_gb": "GB per GB of text"}
    title = f"Build by parts of {gb:.1f} GB of text, --memory {settings.memory}"
    timing.report("build-cost", title, rows, columns, ratios, settings)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
