"""The tutorial's comparison: `train run --strategy smart` against `--strategy fixed`, and the accuracy of both.

    python -m benchmarks.versus_fixed --quick

Same rows, same model (the first layers of MiniLM), same number of steps, the same settings but for the strategy;
taking turns. The tutorial measured 53:14 for fixed padding and 35:06 for smart batching, on a Tesla K80.
"""

import argparse
from statistics import fmean

from . import timing
from .runs import worker
from .timing import interleave, median_of, ratio, say

STRATEGIES = ("fixed", "smart")
TUTORIAL = {"fixed": "53:14", "smart": "35:06"}
TUTORIAL_RATIO = (53 * 60 + 14) / (35 * 60 + 6)


def main() -> None:
    flags = {"layers": 2, "rows": 0, "epochs": 2, "batch_size": 16, "precision": "auto", "lr": 1e-4, "device": "cpu"}
    settings = timing.arguments(__doc__, **flags, holdout=0.4).parse_args()
    compare(settings)


def compare(settings: argparse.Namespace) -> None:
    """Both strategies, taking turns; the seed changes from round to round."""
    rounds = settings.rounds or (1 if settings.quick else 3)
    rows = settings.rows or (400 if settings.quick else 2000)
    trainer = worker()
    folders = trainer.ask(do="prepare", layers=settings.layers, limit=rows, holdout=settings.holdout)
    task = {key: getattr(settings, key) for key in ("batch_size", "precision", "lr", "device")}
    task |= {"epochs": 1 if settings.quick else settings.epochs, "eval_split": "test", "logging_steps": 5}
    trainer.ask(do="run", strategy="fixed", max_steps=2, **folders, **{**task, "eval_split": "none"})
    seeds = {strategy: iter(range(1, rounds + 1)) for strategy in STRATEGIES}

    def once(strategy: str) -> timing.Json:
        seed = next(seeds[strategy])
        return trainer.ask(do="run", strategy=strategy, seed=seed, plan_seed=seed, **folders, **task)

    samples = interleave(STRATEGIES, rounds, once, say)
    trainer.close()
    table = [
        {
            "strategy": strategy,
            "steps": found[0]["steps"],
            "padded_tokens": found[0]["padded_tokens"],
            "seconds": median_of(found, "seconds"),
            "accuracy": fmean(run["accuracy"] for run in found),
            "loss": fmean(run["curve"][-1][3] for run in found),
            "tutorial": TUTORIAL[strategy],
        }
        for strategy, found in samples.items()
    ]
    columns = {
        "strategy": f"{settings.layers} layers, {round(rows * (1 - settings.holdout)):,} reviews",
        "steps": "steps",
        "padded_tokens": "padded tokens",
        "seconds": "training, s",
        "accuracy": "held-out accuracy",
        "loss": "last training loss",
        "tutorial": "the tutorial (BERT-base, K80)",
    }
    ratios = {
        "fixed / smart, seconds": ratio(samples, "fixed", "smart", "seconds"),
        "fixed / smart in the tutorial": TUTORIAL_RATIO,
    }
    held_out = round(rows * settings.holdout)
    title = f"Smart against fixed: medians of {rounds}; accuracy on {held_out:,} reviews, the mean of the seeds"
    timing.report("versus-fixed", title, table, columns, ratios, settings)


if __name__ == "__main__":
    main()
