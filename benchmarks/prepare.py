"""Text to cache, as whole processes: `prep build` beside others; by size of the text; and how soon commands answer.

    python -m benchmarks.prepare --quick

Nobody looks for the Hub (HF_HUB_OFFLINE=1). The peers read a csv of just the reviews, `prep build imdb` finds them in
the package's larger file. Rows are compared by digest in runs that are not measured.
"""

import argparse
import itertools
import shutil
import sys
from pathlib import Path

from . import timing
from .timing import WORK, Json, apart, interleave, measure, median_of, ratio, say, usage_of

PREP = Path(sys.executable).parent / "prep"
TRAIN = Path(sys.executable).parent / "train"
OUT = WORK / "prepare"
OURS = "prep build imdb"
PEERS = {
    "bare": "bare script (pyarrow, nanotoken, numpy; one file)",
    "datasets": "datasets: csv, map(num_proc=2), sort, save_to_disk",
    "tutorial": "the tutorial's loop, in memory",
}
COPIES = (1, 10, 100)
"""How many times the reviews are repeated: 33 MB, 330 MB, 3.3 GB."""


def main() -> None:
    settings = timing.arguments(__doc__, memory="1GiB").parse_args()
    apart("corpus", "reviews_csv")
    compare(settings)
    sizes(settings)
    starts(settings)


# --- 25,000 reviews, side by side


def compare(settings: argparse.Namespace) -> None:
    """Whole processes over the 25,000 reviews, taking turns."""
    rounds = settings.rounds or (2 if settings.quick else 7)
    digests = {name: _digest(name) for name in [OURS, *PEERS]}
    if len(set(digests.values())) != 1:
        raise SystemExit(f"the rows differ: {digests}")
    samples = interleave([OURS, *PEERS], rounds, _run, say)
    floor = median_of(samples["bare"], "wall_s")
    rows = [
        {
            "peer": PEERS.get(name, name),
            **usage_of(found),
            "times_ours": ratio(samples, name, OURS, "wall_s"),
            "times_floor": median_of(found, "wall_s") / floor,
        }
        for name, found in samples.items()
    ]
    columns = {
        "peer": "25,000 reviews, whole process",
        "wall_s": "wall, s",
        "cpu_s": "CPU, s",
        "peak_mib": "peak, MiB",
        "times_ours": "x ours",
        "times_floor": "x bare script",
    }
    ratios = {
        "datasets / ours (target: 11 or more)": ratio(samples, "datasets", OURS, "wall_s"),
        "tutorial / ours (target: 11 or more)": ratio(samples, "tutorial", OURS, "wall_s"),
        "ours / bare script (target: 1.5 or less)": ratio(samples, OURS, "bare", "wall_s"),
    }
    title = f"Prepare: text to disk, medians of {rounds} rounds; the rows of all are equal ({digests[OURS]})"
    timing.report("prepare", title, rows, columns, ratios, settings)


def _run(name: str) -> Json:
    """One whole process, into a fresh folder."""
    folder = _fresh(OUT / name.replace(" ", "-"))
    if name == OURS:
        return measure([PREP, "build", "imdb", "--holdout", "0", "--out", folder])[0]
    return apart("prepare_peers", name, WORK / "imdb.csv", folder)[0]


def _digest(name: str) -> str:
    """What a peer makes of the reviews; also warms the page cache for what it reads."""
    say(f"checking: {name}")
    if name == "tutorial":
        return str(apart("prepare_peers", "tutorial_digest", WORK / "imdb.csv")[1])
    _run(name)
    folder = OUT / name.replace(" ", "-")
    return str(apart("prepare_peers", "digest_of", folder / "imdb" if name == OURS else folder)[1])


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# --- from 33 MB to 3.3 GB


def sizes(settings: argparse.Namespace) -> None:
    """Throughput and peak memory of `prep build` by size of the text."""
    rounds = settings.rounds or (1 if settings.quick else 3)
    copies = COPIES[:2] if settings.quick else COPIES
    rows: list[Json] = []
    for count in copies:
        csv = Path(apart("corpus", "salted_csv", count)[1])
        usages = []
        for number in range(rounds):
            say(f"round {number + 1}/{rounds}: {csv.name}, {csv.stat().st_size / 1e6:,.0f} MB")
            usages.append(_build(csv, settings.memory))
        rows.append(_size_row(csv, count, usages))
        shutil.rmtree(OUT / "sizes", ignore_errors=True)
    columns = {
        "text_mb": "text, MB",
        "rows": "rows",
        "wall_s": "wall, s",
        "mb_per_s": "MB/s",
        "peak_mib": "peak, MiB",
        "cache_mb": "cache, MB",
    }
    ratios = {
        f"throughput at {big['text_mb']:,.0f} MB / at {small['text_mb']:,.0f} MB": big["mb_per_s"] / small["mb_per_s"]
        for small, big in itertools.pairwise(rows)
    }
    title = f"Prepare by size: prep build FILE.csv --memory {settings.memory}, medians of {rounds}"
    timing.report("prepare-sizes", title, rows, columns, ratios, settings)


def _build(csv: Path, memory: str) -> Json:
    folder = _fresh(OUT / "sizes")
    flags = ["--tokenizer", "minilm", "--max-length", "400", "--memory", memory, "--name", "salted"]
    return measure([PREP, "build", csv, *flags, "--out", folder])[0]


def _size_row(csv: Path, copies: int, usages: list[Json]) -> Json:
    wall_s = median_of(usages, "wall_s")
    size = csv.stat().st_size
    cache = sum(path.stat().st_size for path in (OUT / "sizes" / "salted").rglob("*") if path.is_file())
    return {
        "text_mb": size / 1e6,
        "rows": 25_000 * copies,
        "wall_s": wall_s,
        "mb_per_s": size / 1e6 / wall_s,
        "peak_mib": max(usage["peak_bytes"] for usage in usages) / 2**20,
        "cache_mb": cache / 1e6,
    }


# --- how soon the commands answer


def starts(settings: argparse.Namespace) -> None:
    """`prep --help` and `train --help` beside the import of click alone."""
    rounds = settings.rounds or (10 if settings.quick else 30)
    commands: dict[str, list[str | Path]] = {
        'python -c "import click"': [sys.executable, "-c", "import click"],
        "prep --help": [PREP, "--help"],
        "train --help": [TRAIN, "--help"],
    }
    samples = interleave(list(commands), rounds + 1, lambda name: measure(commands[name])[0])
    samples = {name: found[1:] for name, found in samples.items()}  # the first round may compile bytecode
    click = next(iter(commands))
    rows = [
        {
            "command": name,
            "wall_ms": 1000 * median_of(found, "wall_s"),
            "peak_mib": median_of(found, "peak_bytes") / 2**20,
            "ratio": ratio(samples, name, click, "wall_s"),
        }
        for name, found in samples.items()
    ]
    columns = {"command": "command", "wall_ms": "wall, ms", "peak_mib": "peak, MiB", "ratio": "x click alone"}
    ratios = {f"{row['command']} / click (target: 2 or less)": row["ratio"] for row in rows[1:]}
    timing.report("start", f"Start: medians of {rounds}", rows, columns, ratios, settings)


if __name__ == "__main__":
    main()
