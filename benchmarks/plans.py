"""Planning an epoch of 25 thousand to 100 million rows: time, peak memory, growth; beside the naive list-deleting way.

    python -m benchmarks.plans --quick

Each plan is drawn in a process of its own, over lengths distributed as the reviews' are; the time is that of the
plan alone, the peak that of the whole process, imports and lengths included.
"""

import itertools
import math
import random
import sys
import time
from typing import Any

from . import timing
from .timing import Json, apart, interleave, median_of, say

BATCH_SIZE = 16
MAX_TOKENS = 4096
STRATEGIES = ("smart", "tight", "budget")
SIZES = (25_000, 1_000_000, 10_000_000, 100_000_000)
NAIVE_SIZES = (25_000, 100_000, 1_000_000)
"""As far as deleting from one list goes: at ten million rows each deletion moves tens of megabytes, 625,000 times."""
TARGETS = {("smart", 10_000_000): (60.0, None), ("tight", 100_000_000): (60.0, 4.0)}
"""Most seconds and GB."""


def main() -> None:
    settings = timing.arguments(__doc__, largest=SIZES[-1]).parse_args()
    apart("plans", "draw", "smart", 1)  # has the reviews' lengths written
    sizes = [size for size in SIZES if size <= (1_000_000 if settings.quick else settings.largest)]
    naive = [size for size in NAIVE_SIZES if size <= (100_000 if settings.quick else settings.largest)]
    jobs = [(strategy, size) for size in sizes for strategy in STRATEGIES] + [("naive", size) for size in naive]
    rounds = settings.rounds or (2 if settings.quick else 3)
    names = [f"{strategy} {size}" for strategy, size in jobs]
    samples = interleave(names, rounds, _draw, say)
    rows = [_row(name, found) for name, found in samples.items()]
    rows.sort(key=lambda row: (["naive", *STRATEGIES].index(row["strategy"]), row["rows"]))
    _add_growth(rows)
    columns = {
        "strategy": "strategy",
        "rows": "rows",
        "seconds": "seconds",
        "ns_per_row": "ns per row",
        "peak_mib": "peak, MiB",
        "growth": "growth: seconds ~ rows^x",
        "times_naive": "x faster than naive",
    }
    title = f"Plan: one epoch, batch size {BATCH_SIZE}, budget {MAX_TOKENS:,} tokens; medians of {rounds}"
    timing.report("plans", title, rows, columns, _targets(rows), settings)


def _draw(name: str) -> Json:
    strategy, size = name.split()
    usage, found = apart("plans", "draw", strategy, int(size))
    return {"peak_bytes": usage["peak_bytes"], **found}


def _row(name: str, found: list[Json]) -> Json:
    strategy, size = name.split()
    seconds = median_of(found, "seconds")
    return {
        "strategy": strategy,
        "rows": int(size),
        "seconds": seconds,
        "ns_per_row": 1e9 * seconds / int(size),
        "peak_mib": median_of(found, "peak_bytes") / 2**20,
        "batches": found[0]["batches"],
        "padded_tokens": found[0]["padded_tokens"],
    }


def _add_growth(rows: list[Json]) -> None:
    """From one size to the next the exponent of growth; and how much faster than the naive way at the same size."""
    for before, row in itertools.pairwise(rows):
        if before["strategy"] == row["strategy"]:
            row["growth"] = math.log(row["seconds"] / before["seconds"]) / math.log(row["rows"] / before["rows"])
    naive = {row["rows"]: row["seconds"] for row in rows if row["strategy"] == "naive"}
    for row in rows:
        if row["strategy"] != "naive" and row["rows"] in naive:
            row["times_naive"] = naive[row["rows"]] / row["seconds"]


def _targets(rows: list[Json]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in rows:
        seconds, gigabytes = TARGETS.get((row["strategy"], row["rows"]), (None, None))
        name = f"{row['strategy']}, {row['rows']:,} rows"
        if seconds:
            found[f"{name}: seconds (target: {seconds:.0f} or less)"] = row["seconds"]
        if gigabytes:
            found[f"{name}: GB (target: {gigabytes:.0f} or less)"] = row["peak_mib"] * 2**20 / 1e9
    return found


# --- in a process of its own


def draw(strategy: str, size: int) -> Json:
    """Draw one epoch and check that it holds every row once."""
    import numpy as np
    import numpy.random  # loaded on first use, else inside the measured time

    from cache.plans.spec import PlanSpec
    from cache.plans.strategies import plan_epoch

    from .corpus import MAX_LENGTH, review_lengths

    lengths = review_lengths(size)
    if strategy == "naive":
        return _draw_naively(lengths.tolist())
    spec = PlanSpec("budget", None, MAX_TOKENS) if strategy == "budget" else PlanSpec(strategy, BATCH_SIZE)
    start = time.perf_counter()
    plan = plan_epoch(lengths, spec, 0, MAX_LENGTH)
    seconds = time.perf_counter() - start
    peak_bytes = _peak_bytes()  # before the check below, which takes memory too
    seen = np.zeros(size, bool)
    seen[plan.rows] = True
    if not seen.all() or len(plan.rows) != size:
        raise SystemExit(f"the {strategy} plan of {size:,} rows leaves some out")
    return {"seconds": seconds, "batches": len(plan), "padded_tokens": plan.padded_tokens, "peak_bytes": peak_bytes}


def _draw_naively(lengths: list[int]) -> Json:
    """The tutorial's loop: take a random slice out of one list, again and again."""
    start = time.perf_counter()
    batches, padded_tokens = 0, 0
    while lengths:
        count = min(BATCH_SIZE, len(lengths))
        first = random.randint(0, len(lengths) - count)
        batch = lengths[first : first + count]
        del lengths[first : first + count]
        batches += 1
        padded_tokens += count * batch[-1]
    return {"seconds": time.perf_counter() - start, "batches": batches, "padded_tokens": padded_tokens}


def _peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
