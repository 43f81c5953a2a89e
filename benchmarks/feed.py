"""From disk to tensors: one epoch of padded batches, ours beside every other way, all 1,563 batches and more.

    python -m benchmarks.feed --quick

One thread each (`torch.set_num_threads(1)`), a process each, taking turns. Before anything is timed each peer's
batches are taken once and compared: same rows, same masks, and the same batches where a peer can fetch any rows.
"""

import argparse
import time
from pathlib import Path

from . import timing
from .timing import ROOT, FailedError, Json, Worker, apart, interleave, median_of, python, ratio, say

PEERS = {
    "ours": "lengthwise, a mask in every batch",
    "ours_without_mask": "lengthwise, masks only where needed",
    "arrow": "Arrow under datasets, sorted on disk, contiguous, vectorized",
    "arrow_planned": "the same, the plan's batches (slice or take)",
    "numpy": "datasets numpy format, sorted on disk, contiguous",
    "mds": "MosaicML Streaming (MDS)",
    "litdata": "LitData",
    "tutorial": "the tutorial's lists in memory",
    "loader": "DataLoader + DataCollatorWithPadding",
    "loader_2": "the same, 2 worker processes",
}
PLANNED = ("ours", "ours_without_mask", "arrow_planned", "mds", "litdata", "tutorial", "loader", "loader_2")
"""Those that serve exactly the plan's batches."""
OTHERS = tuple(name for name in PEERS if not name.startswith("ours"))
BATCH_SIZES = (16, 32, 64)
SHARDS = 100


def main() -> None:
    settings = timing.arguments(__doc__, device="cpu", stage="feed").parse_args()
    compare(settings)
    first_batch(settings)


# --- an epoch, side by side


def compare(settings: argparse.Namespace) -> None:
    """An epoch at each batch size."""
    rounds = settings.rounds or (2 if settings.quick else 7)
    cache = _make("imdb")
    workers = _start(cache, settings.device)
    rows: list[Json] = []
    ratios: Json = {}
    for batch_size in BATCH_SIZES[:1] if settings.quick else BATCH_SIZES:
        _check(workers, batch_size)
        samples = interleave(
            list(workers),
            rounds,
            lambda name, size=batch_size: workers[name].ask(do="time", batch_size=size),  # type: ignore[misc]
            lambda text, size=batch_size: say(f"batch size {size}, {text}"),  # type: ignore[misc]
        )
        for name, found in samples.items():
            rows.append(_row(name, batch_size, found, ratio(samples, "ours", name, "padded_per_s")))
        ratios |= _ratios(samples, batch_size)
    for worker in workers.values():
        worker.close()
    columns = {
        "peer": "one epoch of the reviews",
        "batch_size": "batch",
        "seconds": "wall, s",
        "cpu_s": "CPU, s",
        "mtok_per_s": "M padded tokens/s",
        "padded_tokens": "padded tokens",
        "ours_is_times": "ours is x faster",
    }
    title = f"Feed: tensors on {settings.device}, one thread, medians of {rounds}; the rows of all are equal"
    timing.report(settings.stage, title, rows, columns, ratios, settings)


def _start(cache: Path, device: str) -> dict[str, Worker]:
    workers = {}
    for name, title in PEERS.items():
        if name in ("mds", "litdata") and not (ROOT / ".peers").is_dir():
            say(f"left out: {title}; run: pip install --no-deps --target .peers -r benchmarks/peers.txt")
            continue
        say(f"opening: {title}")
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            workers[name] = Worker(title, python("feed_peers", name, cache, device), threads)
        except FailedError as error:
            if name == "ours":
                raise
            say(f"left out: {error}")
    return workers


def _check(workers: dict[str, Worker], batch_size: int) -> None:
    """Compare what each peer delivers; this also warms its caches."""
    found = {}
    for name, worker in workers.items():
        say(f"batch size {batch_size}, checking: {worker.name}")
        found[name] = worker.ask(do="check", batch_size=batch_size)
    expected = found["ours"]
    for name, answer in found.items():
        keys = ["rows_digest", *(["batches_digest"] if name in PLANNED else [])]
        wrong = [key for key in keys if answer[key] != expected[key]]
        if wrong:
            raise SystemExit(f"{workers[name].name}: other {', '.join(wrong)} than ours: {answer} {expected}")


def _row(name: str, batch_size: int, found: list[Json], faster: float) -> Json:
    return {
        "peer": PEERS[name],
        "batch_size": batch_size,
        "seconds": median_of(found, "seconds"),
        "cpu_s": median_of(found, "cpu_s"),
        "mtok_per_s": median_of(found, "padded_per_s") / 1e6,
        "padded_tokens": found[0]["padded_tokens"],
        "ours_is_times": faster,
    }


def _ratios(samples: dict[str, list[Json]], batch_size: int) -> Json:
    speeds = {name: median_of(samples[name], "padded_per_s") for name in samples if name in OTHERS}
    best = max(speeds, key=lambda name: speeds[name])
    target = " (target: 40 or more)" if batch_size == 16 else ""
    return {
        f"batch {batch_size}: ours / DataLoader{target}": ratio(samples, "ours", "loader", "padded_per_s"),
        f"batch {batch_size}: ours / best other, {best} (target: 1.5 or more)": ratio(
            samples, "ours", best, "padded_per_s"
        ),
    }


# --- the first batch


def first_batch(settings: argparse.Namespace) -> None:
    """From `open_cache` to the first batch of a cache of many shards, each time in a fresh process, imports done."""
    rounds = settings.rounds or (5 if settings.quick else 15)
    caches = {"1 shard": _make("imdb"), f"{SHARDS} shards": _make("shards")}

    samples = interleave(list(caches), rounds, lambda name: apart("feed", "first", caches[name], settings.device)[1])
    rows = [
        {
            "cache": name,
            "shards": found[0]["shards"],
            "open_ms": median_of(found, "open_ms"),
            "ms": median_of(found, "ms"),
        }
        for name, found in samples.items()
    ]
    columns = {"cache": "cache", "shards": "shards", "open_ms": "open, ms", "ms": "open to first batch, ms"}
    ratios = {f"first batch of {SHARDS} shards, ms (target: 20 or less)": rows[-1]["ms"]}
    title = f"First batch: fresh processes, imports done, medians of {rounds}"
    timing.report(f"{settings.stage}-first", title, rows, columns, ratios, settings)


def _make(what: str) -> Path:
    return Path(apart("feed", "make", what)[1])


def make(what: str) -> Path:
    """Build a cache: `imdb`, or the same rows in at least 100 shards."""
    from .corpus import REAL_TOKENS, ROWS, imdb_cache

    if what == "imdb":
        return imdb_cache()
    size = REAL_TOKENS * 2 + ROWS * 24  # ids, and offset, source row and label of each row
    return imdb_cache("imdb-shards", shard_bytes=size // SHARDS)


def first(folder: str, device: str) -> Json:
    """Time one opening."""
    import torch

    import cache.batches.batches  # noqa: F401  # with torch, what a first call would import
    from cache import open_cache

    torch.set_num_threads(1)
    torch.zeros(1, device=device)
    start = time.perf_counter()
    split = open_cache(folder)["train"]
    opened = time.perf_counter()
    batch = next(iter(split.batches(device=device)))
    batch.input_ids.sum().item()
    end = time.perf_counter()
    shards = len(split.info.shards)
    return {"shards": shards, "open_ms": 1000 * (opened - start), "ms": 1000 * (end - start)}


if __name__ == "__main__":
    main()
