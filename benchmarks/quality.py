"""Same accuracy, less time? Every strategy with several seeds; and how often two rows meet in a batch again.

    python -m benchmarks.quality --quick

Real reviews, the first layers of MiniLM. Strategies share seeds, so they start from the same head: differences are
taken seed by seed against random order (`dynamic`), and given with 95% confidence intervals (Student's t).
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from statistics import fmean, stdev

from . import timing
from .runs import worker
from .timing import Json, interleave, measure, median_of, python, say

STRATEGIES = ("fixed", "dynamic", "smart", "tight", "budget")
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t at 97.5% for 1, 2, 3, … degrees of freedom."""
BUDGET = 4096
"""Padded tokens of a `budget` batch: about 16 reviews of average length."""
EPOCHS_TO_MEET = 10


def main() -> None:
    flags = {"layers": 2, "rows": 2000, "epochs": 2, "precision": "auto", "lr": 1e-4, "device": "cpu", "holdout": 0.4}
    settings = timing.arguments(__doc__, **flags, seeds=5).parse_args()
    meetings(settings)
    accuracy(settings)


# --- accuracy and loss


def accuracy(settings: argparse.Namespace) -> None:
    """Train with every strategy and every seed, taking turns."""
    if settings.quick:
        settings.rows, settings.epochs, settings.seeds = min(settings.rows, 320), 1, min(settings.seeds, 2)
    samples = _train(settings)
    rows = [
        {
            "strategy": strategy,
            "accuracy": interval([run["accuracy"] for run in found]),
            "difference": interval(_differences(samples, strategy)),
            "loss": interval([run["curve"][-1][3] for run in found]),
            "steps": found[0]["steps"],
            "padded_tokens": found[0]["padded_tokens"],
            "seconds": median_of(found, "seconds"),
            "accuracies": [run["accuracy"] for run in found],
        }
        for strategy, found in samples.items()
    ]
    columns = {
        "strategy": "strategy",
        "accuracy": "held-out accuracy",
        "difference": "minus dynamic's",
        "loss": "last training loss",
        "steps": "steps",
        "padded_tokens": "padded tokens",
        "seconds": "training, s",
    }
    seconds = {strategy: median_of(found, "seconds") for strategy, found in samples.items()}
    ratios = {f"{name} / dynamic, seconds": seconds[name] / seconds["dynamic"] for name in STRATEGIES}
    title = f"Quality: {settings.seeds} seeds, mean and 95% confidence interval"
    timing.report("quality", title, rows, columns, ratios, settings)
    _curves(samples, settings)


def _train(settings: argparse.Namespace) -> dict[str, list[Json]]:
    trainer = worker()
    folders = trainer.ask(do="prepare", layers=settings.layers, limit=settings.rows, holdout=settings.holdout)
    task = {key: getattr(settings, key) for key in ("precision", "lr", "device", "epochs")}
    task |= {"eval_split": "test", "logging_steps": 5}
    trainer.ask(do="run", strategy="fixed", batch_size=16, max_steps=2, **folders, **{**task, "eval_split": "none"})
    seeds = {strategy: iter(range(1, settings.seeds + 1)) for strategy in STRATEGIES}

    def once(strategy: str) -> Json:
        seed = next(seeds[strategy])
        size = {"max_tokens": BUDGET} if strategy == "budget" else {"batch_size": 16}
        return trainer.ask(do="run", strategy=strategy, seed=seed, plan_seed=seed, **size, **folders, **task)

    samples = interleave(STRATEGIES, settings.seeds, once, say)
    trainer.close()
    return samples


def _differences(samples: dict[str, list[Json]], strategy: str) -> list[float]:
    pairs = zip(samples[strategy], samples["dynamic"], strict=True)
    return [one["accuracy"] - other["accuracy"] for one, other in pairs]


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95% confidence interval, as text."""
    if len(values) < 2:
        return f"{values[0]:.4f}"
    degrees = len(values) - 1
    t = T_975[degrees - 1] if degrees <= len(T_975) else 1.96
    return f"{fmean(values):.4f} ± {t * stdev(values) / math.sqrt(len(values)):.4f}"


def _curves(samples: dict[str, list[Json]], settings: argparse.Namespace) -> None:
    """The training loss at each quarter of the run, against tokens and against seconds."""
    rows = []
    for strategy, found in samples.items():
        for quarter in range(1, 5):
            points = [_quarter(run["curve"], quarter) for run in found]
            tokens, seconds, loss = (fmean(point[i] for point in points) for i in range(3))
            row = {"strategy": strategy, "part": f"{quarter}/4", "tokens": round(tokens)}
            rows.append({**row, "seconds": seconds, "loss": loss})
    columns = {
        "strategy": "strategy",
        "part": "of the steps",
        "tokens": "real tokens so far",
        "seconds": "s so far",
        "loss": "mean loss in this quarter",
    }
    title = f"Loss against tokens and seconds, means over {settings.seeds} seeds"
    timing.report("quality-curves", title, rows, columns, {}, settings)


def _quarter(curve: Sequence[Sequence[float]], quarter: int) -> tuple[float, float, float]:
    """Tokens and seconds at the end of a quarter of the steps, and the mean loss within it."""
    last = curve[-1][0]
    inside = [point for point in curve if last * (quarter - 1) / 4 < point[0] <= last * quarter / 4] or [curve[-1]]
    return inside[-1][1], inside[-1][2], fmean(point[3] for point in inside)


# --- how random


def meetings(settings: argparse.Namespace) -> None:
    """How often two rows that meet in a batch had met before, over ten epochs of the 25,000 reviews."""
    rows: list[Json] = json.loads(measure(python("quality", "--meetings"))[1])
    columns = {
        "strategy": "strategy",
        "meetings": "pairs in a batch, 10 epochs",
        "distinct": "different pairs",
        "again": "share that had met before",
        "times_random": "x random order",
    }
    ratios = {f"{row['strategy']}, met before / random order": row["times_random"] for row in rows}
    title = f"How random: {EPOCHS_TO_MEET} epochs of the 25,000 reviews, batch 16 (budget {BUDGET:,} tokens)"
    timing.report("quality-meetings", title, rows, columns, ratios, settings)


def count_meetings() -> list[Json]:
    """Draw ten epochs with each strategy and count."""
    import numpy as np

    from cache.plans.spec import PlanSpec
    from cache.plans.strategies import plan_epoch

    from .corpus import MAX_LENGTH, ROWS, review_lengths

    lengths = review_lengths(ROWS)
    rows: list[Json] = []
    for strategy in ("dynamic", "smart", "tight", "budget"):
        spec = PlanSpec(strategy, None, BUDGET) if strategy == "budget" else PlanSpec(strategy, 16)
        pairs = []
        for epoch in range(EPOCHS_TO_MEET):
            plan = plan_epoch(lengths, spec, epoch, MAX_LENGTH)
            for size in np.unique(plan.sizes).tolist():
                starts = plan.batch_offsets[:-1][plan.sizes == size]
                batches = plan.rows[starts[:, None] + np.arange(size)].astype(np.int64)  # (batches, size)
                one, other = np.triu_indices(size, 1)
                pairs.append((batches[:, one] * ROWS + batches[:, other]).ravel())
        every = np.concatenate(pairs)
        distinct = len(np.unique(every))
        row = {"strategy": strategy, "meetings": len(every), "distinct": distinct, "again": 1 - distinct / len(every)}
        rows.append({**row, "times_random": row["again"] / rows[0]["again"] if rows else 1.0})
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--meetings"]:
        print(json.dumps(count_meetings()))
    else:
        main()
