"""Training: seconds per million real tokens, ours beside the Trainer, the tutorial's loop and fixed padding.

    python -m benchmarks.training --quick
    python -m benchmarks.training --peers ours,ours_free,trainer_grouped --steps 10

The batches of each are drawn evenly over the widths of its own epoch over all 25,000 reviews; weights, precision,
batch size, clipping, optimizer and schedule are the same. Every process has all cores while it is its turn.
"""

import argparse
import itertools
import json
import statistics

from . import timing
from .timing import Json, Worker, interleave, median_of, python, ratio, say

PEERS = {
    "ours": "train run, tight",
    "ours_smart": "train run, smart",
    "ours_free": "train run, dynamic, --padding-free",
    "ours_every_token": "train run, tight, --no-pooled-only",
    "ours_plain": "train run, tight, --no-pooled-only --no-cpu-kernels",
    "trainer_grouped": "Trainer, group_by_length",
    "trainer_random": "Trainer, random order",
    "trainer_rebalanced": "Trainer, random order, batch_rebalance over 4 micro-batches",
    "tutorial": "the tutorial's loop, smart batches",
    "fixed": "the same loop, fixed padding to 400",
}
TARGETS = (
    ("ours", "trainer_grouped", "0.75 or less"),
    ("ours_every_token", "trainer_grouped", "0.90 or less"),
    ("ours", "fixed", "0.50 or less"),
    ("ours_free", "ours", "1.05 or less"),
    ("ours_free", "trainer_grouped", "0.50 or less in fp32, 0.30 in bf16"),
)
OVERHEAD = {
    "ours_every_token": "train run: the epoch's wall time",
    "parts": "forward + backward + optimizer, batches in memory",
}


def main() -> None:
    settings = parser().parse_args()
    compare(settings)
    if not settings.peers:
        overhead(settings)


def parser() -> argparse.ArgumentParser:
    """Flags of this stage."""
    flags = {"peers": "", "layers": 0, "steps": 0, "batch_size": 16, "precision": "auto", "lr": 1e-4, "device": "cpu"}
    return timing.arguments(__doc__, **flags, stage="training")


def compare(settings: argparse.Namespace) -> None:
    """Every peer in turn."""
    rounds = settings.rounds or (1 if settings.quick else 3)
    layers = settings.layers or (2 if settings.quick else 6)
    steps = settings.steps or (12 if settings.quick else 40)
    names = settings.peers.split(",") if settings.peers else list(PEERS)
    workers = start(names, settings, layers, steps)
    precision = workers[names[0]].ready["precision"]
    samples = interleave(list(workers), rounds, lambda name: _per_million(workers[name].ask(steps=steps)), say)
    close(workers)
    rows = [
        {
            "peer": PEERS[name],
            "s_per_million": median_of(found, "s_per_million"),
            "seconds": median_of(found, "seconds"),
            "real_tokens": found[0]["real_tokens"],
            "padding": found[0]["padded_tokens"] / found[0]["real_tokens"] - 1,
            "of_last": ratio(samples, name, names[-1], "s_per_million"),
            "losses": _quarters(found[-1]["losses"]),
        }
        for name, found in samples.items()
    ]
    columns = {
        "peer": f"{layers} layers, batch {settings.batch_size}, {precision}, {settings.device}",
        "s_per_million": "s per million real tokens",
        "seconds": "s",
        "real_tokens": "real tokens",
        "padding": "padding / real",
        "of_last": f"x {names[-1]}",
        "losses": "mean loss by quarter",
    }
    ratios = {
        f"{one} / {other} (target: {target})": ratio(samples, one, other, "s_per_million")
        for one, other, target in TARGETS
        if one in names and other in names
    }
    title = f"Train: {steps} batches drawn evenly from an epoch of 25,000 reviews, medians of {rounds}"
    timing.report(settings.stage, title, rows, columns, ratios, settings)


def overhead(settings: argparse.Namespace) -> None:
    """What the loop adds to forward, backward and optimizer."""
    rounds = settings.rounds or (2 if settings.quick else 7)
    steps = settings.steps or (8 if settings.quick else 30)
    workers = start(list(OVERHEAD), settings, 2, steps)
    samples = interleave(list(OVERHEAD), rounds, lambda name: workers[name].ask(steps=steps), say)
    close(workers)
    parts = ("forward", "backward", "optimizer")
    rows = [
        {
            "what": title,
            "seconds": median_of(samples[name], "seconds"),
            **{part: median_of(samples[name], part) for part in parts if part in samples[name][0]},
            "ratio": ratio(samples, name, "parts", "seconds"),
        }
        for name, title in OVERHEAD.items()
    ]
    columns = {
        "what": "2 layers, the same batches",
        "seconds": "s",
        **{part: f"{part}, s" for part in parts},
        "ratio": "ratio",
    }
    ratios = {"epoch / its parts (target: 1.01 or less)": ratio(samples, "ours_every_token", "parts", "seconds")}
    title = f"The loop itself, medians of {rounds}"
    timing.report(f"{settings.stage}-overhead", title, rows, columns, ratios, settings)


def start(names: list[str], settings: argparse.Namespace, layers: int, steps: int) -> dict[str, Worker]:
    """A worker for each peer, warmed up by a short run."""
    task = {"layers": layers, "steps": steps}
    task |= {key: getattr(settings, key) for key in ("batch_size", "precision", "lr", "device")}
    workers = {}
    for name in names:
        say(f"opening: {name}")
        workers[name] = Worker(name, python("training_peers", name, json.dumps(task)))
        workers[name].ask(steps=2)
    return workers


def close(workers: dict[str, Worker]) -> None:
    """End them."""
    for worker in workers.values():
        worker.close()


def _per_million(answer: Json) -> Json:
    return {**answer, "s_per_million": answer["seconds"] / answer["real_tokens"] * 1e6}


def _quarters(losses: list[float]) -> str:
    """The mean loss in each quarter of the run."""
    bounds = [round(len(losses) * part / 4) for part in range(5)]
    quarters = [losses[a:b] for a, b in itertools.pairwise(bounds)]
    return " ".join(f"{statistics.fmean(part):.3f}" for part in quarters if part)


if __name__ == "__main__":
    main()
