"""The same build in this process and on a Ray cluster of this machine with 1, 2 and 4 workers; beside them `datasets`
and the tokenizer of datatrove.

    python -m benchmarks.executors --quick

Text is salted copies of the reviews as parquet, so that all can read it in parts. A cluster is started before the
clock: what counts is the build. The shards of all builds must be equal to the byte. datatrove reads files whole, so it
gets the same rows in two; it writes the same ids, does not sort them and keeps no labels.
"""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

from . import timing
from .timing import WORK, Json, Worker, apart, calling, interleave, median_of, ratio, say

OUT = WORK / "executors"
LOCAL = "prep build"
PEERS = {
    "datasets.map(num_proc=2), sort, save_to_disk": "datasets",
    "datatrove: ParquetReader, DocumentTokenizer, 2 processes": "datatrove",
}
PART_BYTES = 16 << 20
"""An eighth of the usual, so that a few hundred megabytes make parts enough."""


def main() -> None:
    settings = timing.arguments(__doc__, memory="1GiB").parse_args()
    copies = 2 if settings.quick else 10
    rounds = settings.rounds or (1 if settings.quick else 3)
    path = Path(apart("executors", "make", copies)[1])
    names = {LOCAL: "local", **{f"{LOCAL} --executor ray, {n} workers": f"ray-{n}" for n in (1, 2, 4)}, **PEERS}
    if not (timing.ROOT / ".peers" / "datatrove").is_dir():
        say("left out: datatrove; run: pip install --no-deps --target .peers -r benchmarks/peers.txt")
        names = {name: short for name, short in names.items() if short != "datatrove"}
    workers = {name: Worker(name, calling("executors", "serve", short)) for name, short in names.items()}
    samples = interleave(list(workers), rounds, lambda name: workers[name].ask(path=str(path)), say)
    digests = {found["digest"] for name, rows in samples.items() if name not in PEERS for found in rows}
    if len(digests) != 1:
        sys.exit(f"the shards differ: {digests}")
    rows: list[Json] = [
        {
            "executor": name,
            "wall_s": median_of(found, "wall_s"),
            "mb_per_s": path.stat().st_size / 1e6 / median_of(found, "wall_s"),
            "times_local": ratio(samples, name, LOCAL, "wall_s"),
        }
        for name, found in samples.items()
    ]
    columns = {"executor": "25,000 reviews, copies", "wall_s": "wall, s", "mb_per_s": "MB/s", "times_local": "x local"}
    one = f"{LOCAL} --executor ray, 1 workers"
    ratios = {"1 worker / local (target: 1.2 or less)": ratio(samples, one, LOCAL, "wall_s")}
    title = f"Executors: {copies} copies of the reviews in parquet, medians of {rounds}; shards equal"
    timing.report("executors", title, rows, columns, ratios, settings)


def serve(what: str) -> None:
    """Be one of the peers."""
    workers = int(what.removeprefix("ray-")) if what.startswith("ray-") else 0
    if workers:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    peers = {"datasets": by_datasets, "datatrove": by_datatrove}
    timing.serve(peers.get(what) or (lambda path: by_prep(path, bool(workers))))


def make(copies: int) -> Path:
    """The reviews so many times, a different word put before each of each copy; whole, and in two files beside it."""
    import pyarrow.parquet

    from .corpus import salted_parquet

    path = salted_parquet(copies)
    folder = path.with_suffix("")
    if not folder.exists():
        folder.mkdir()
        table = pyarrow.parquet.read_table(path)
        half = len(table) // 2
        for number in range(2):
            part = table.slice(number * half, half)
            pyarrow.parquet.write_table(part, folder / f"{number}.parquet", row_group_size=5000)
    return path


def by_prep(path: str, ray: bool) -> Json:
    """Build, planning nothing."""
    from cache.console.progress import ConsoleProgress
    from prep.build import build
    from prep.settings import BuildSettings

    folder = OUT / ("ray" if ray else "local")
    shutil.rmtree(folder, ignore_errors=True)
    settings = BuildSettings(
        path, name="a", out=folder, tokenizer="minilm", max_length=400, epochs=0, executor="ray" if ray else "local",
        part_bytes=PART_BYTES,
    )  # fmt: skip
    start = time.perf_counter()
    build(settings, ConsoleProgress(quiet=True))
    wall_s = time.perf_counter() - start
    digest = hashlib.sha256()
    for shard in sorted(folder.glob("a/*/shard-*.safetensors")):
        digest.update(shard.read_bytes())
    shutil.rmtree(folder)
    return {"wall_s": wall_s, "digest": digest.hexdigest()}


def by_datasets(path: str) -> Json:
    """The usual way: load, map in two processes, sort by length, save."""
    import transformers  # noqa: F401  # before the clock starts

    from .prepare_peers import datasets

    folder = OUT / "datasets"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    datasets(path, str(folder))
    wall_s = time.perf_counter() - start
    shutil.rmtree(folder)
    return {"wall_s": wall_s, "digest": ""}


def by_datatrove(path: str) -> Json:
    """Tokenize to flat files of ids, two processes with a file each."""
    sys.path.append(str(timing.ROOT / ".peers"))
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from tokenizers import Tokenizer

    from cache.common.hub import packaged_model

    folder = OUT / "datatrove"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rules = Tokenizer.from_file(f"{packaged_model()}/tokenizer.json")
    rules.no_padding()
    rules.enable_truncation(400)
    rules.save(tokenizer := str(folder / "tokenizer.json"))
    start = time.perf_counter()
    reader = ParquetReader(path.removesuffix(".parquet"), read_metadata=False)
    writer = DocumentTokenizer(str(folder / "ids"), tokenizer, shuffle_documents=False, save_final_metadata=False)
    logs = str(folder / "logs")
    LocalPipelineExecutor([reader, writer], tasks=2, workers=2, logging_dir=logs, start_method="fork").run()
    wall_s = time.perf_counter() - start
    shutil.rmtree(folder)
    return {"wall_s": wall_s, "digest": ""}


if __name__ == "__main__":
    main()
