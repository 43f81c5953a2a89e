"""What does the order of batches do to learning? Every strategy with many seeds, beside fixed padding.

    python -m benchmarks.quality                  # train what is missing, then the table
    python -m benchmarks.quality --summary        # the table of what there is
    python -m benchmarks.quality --data imdb-2000 --seeds 4 --first-seed 5

Each training is kept as it ends, a line in `results/quality-runs.jsonl`, and what is there is not trained again: it
takes hours, and goes on where it was stopped. Strategies take turns with one seed before the next begins, so whatever
there is can be compared seed by seed; with one seed they start from the same head. Rotten Tomatoes takes one layer
and two epochs, a minute of one core each: 20 seeds in two hours. With all six layers, `rotten-tomatoes-6`, each takes a
quarter of an hour.

What is not about padding trains with `--padding-free`, whose logits and gradients are those of padded batches (to
1e-10 in double precision, which the tests hold): so `fixed` costs its real tokens alone. Random order trains padded
too, as a check. `fixed` draws a random order of its own, not that of `dynamic` with the same seed, so the two differ
by chance alone: what is seen between them says how much chance does.
"""

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median, stdev

from train.runtime.signals import Stopped

from . import timing
from .timing import RESULTS, WORK, Json, environment, say

FILE = "quality-runs.jsonl"
ARMS = (("fixed", True), ("dynamic", True), ("smart", True), ("tight", True), ("budget", True), ("dynamic", False))
"""(strategy, padding-free); differences are taken to the first. The last costs twice as much: it comes last."""
RANDOM = (("fixed", True), ("dynamic", True))
"""Those in random order: the mean of both says more precisely what random order gives than either alone."""
STUCK = 0.6
"""Two classes of equal size: a training that ends below this accuracy learned little."""
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t at 97.5% for 1 to 30 degrees of freedom; for more, that of 30, which errs on the wide side."""


@dataclass(frozen=True)
class Recipe:
    """How every strategy is trained; stands in each line of the results.

    Attributes:
        layers: of the packaged MiniLM, from below.
        epochs: over the training rows.
        batch_size: rows of a batch.
        max_tokens: padded tokens of a `budget` batch, which on average holds about as many rows.
        lr: peak learning rate; at it no training got stuck, of any strategy.
        warmup_ratio: fraction of all steps.
        precision: fp32 or bf16.
        holdout: fraction of the rows that is held out, of each class.
        max_steps: of a training; None for all.
    """

    layers: int
    epochs: int
    batch_size: int
    max_tokens: int
    lr: float
    warmup_ratio: float = 0.1
    precision: str = "fp32"
    holdout: float = 0.2
    max_steps: int | None = None


RECIPES = {
    "rotten-tomatoes": Recipe(layers=1, epochs=2, batch_size=32, max_tokens=896, lr=3e-4),
    "rotten-tomatoes-6": Recipe(layers=6, epochs=2, batch_size=32, max_tokens=896, lr=1e-4),
    "imdb-2000": Recipe(layers=1, epochs=3, batch_size=16, max_tokens=4096, lr=3e-4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", choices=RECIPES, default="rotten-tomatoes", help="8,530 sentences or 2,000 reviews")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    parser.add_argument("--quick", action="store_true", help="two seeds, five steps each, kept apart: minutes")
    given = parser.parse_args()
    recipe, path, seeds = RECIPES[given.data], RESULTS / FILE, range(given.first_seed, given.first_seed + given.seeds)
    if given.quick:
        recipe, path, seeds = replace(recipe, max_steps=5), WORK / "results" / FILE, range(1, 3)
    if not given.summary:
        try:
            train_missing(path, given.data, recipe, seeds)
        except (KeyboardInterrupt, Stopped):
            sys.exit("stopped; the same command goes on with the training that was cut off")
    summarize(path, given.data, recipe)


# --- training


def train_missing(path: Path, data: str, recipe: Recipe, seeds: Sequence[int]) -> None:
    """Train every strategy with every seed, seed by seed, but for what is in the file; add a line for each."""
    os.environ.update(environment())
    from .corpus import imdb_cache, sentences_cache, small_bert

    if data.startswith("rotten-tomatoes"):
        cache = sentences_cache("rotten-tomatoes", recipe.holdout)
    else:
        cache = imdb_cache(data, limit=2000, holdout=recipe.holdout)
    model = small_bert(recipe.layers)
    path.parent.mkdir(parents=True, exist_ok=True)
    turns = [*itertools.product(seeds, ARMS[:-1]), *itertools.product(seeds, ARMS[-1:])]
    for seed, (strategy, padding_free) in turns:
        identity = {"data": data, "strategy": strategy, "padding_free": padding_free, "seed": seed}
        if _key(identity) in {_key(run) for run in read_runs(path, data, recipe)}:
            continue
        say(f"{datetime.now(UTC):%H:%M:%S} {data}, seed {seed}: {_name(strategy, padding_free)}")
        found = _train(cache, model, recipe, strategy, padding_free, seed)
        with path.open("a") as file:
            file.write(json.dumps({**identity, "settings": asdict(recipe), **found}) + "\n")


def _train(cache: Path, model: Path, recipe: Recipe, strategy: str, padding_free: bool, seed: int) -> Json:
    import torch

    from .runs import run_once

    size = {"max_tokens": recipe.max_tokens} if strategy == "budget" else {"batch_size": recipe.batch_size}
    same = ("epochs", "lr", "warmup_ratio", "precision", "max_steps")
    settings = {name: value for name, value in asdict(recipe).items() if name in same}
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="quality-", dir=WORK) as folder:
        run = run_once(
            Path(folder) / "run", cache=str(cache), model=str(model), strategy=strategy, seed=seed, plan_seed=seed,
            padding_free=padding_free, device="cpu", eval_split="test", **size, **settings,
        )  # fmt: skip
    kept = ("accuracies", "eval_losses", "train_losses", "steps", "real_tokens", "padded_tokens")
    machine = {"cpu": timing.machine()["cpu"], "threads": torch.get_num_threads(), "torch": torch.__version__}
    taken = {"cpu_s": round(time.process_time() - start, 1), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    return {**{name: run[name] for name in kept}, **taken, **machine}


def read_runs(path: Path, data: str, recipe: Recipe) -> list[Json]:
    """The lines of finished trainings by this recipe; of two by one name, the first. A line with a `variant` is from
    code that trained otherwise, as it says, and stays out."""
    if not path.exists():
        return []
    runs: dict[tuple[object, ...], Json] = {}
    for line in path.read_text().splitlines():
        run = json.loads(line)
        if run["data"] == data and run["settings"] == asdict(recipe) and "variant" not in run:
            runs.setdefault(_key(run), run)
    return list(runs.values())


def _key(run: Json) -> tuple[object, ...]:
    return run["strategy"], run["padding_free"], run["seed"]


def _name(strategy: str, padding_free: bool) -> str:
    return strategy if padding_free else f"{strategy}, padded"


# --- the table


def summarize(path: Path, data: str, recipe: Recipe) -> None:
    """Print what the file says of a corpus: a table for people, a JSON line for machines."""
    runs = read_runs(path, data, recipe)
    rows = [row for arm in ARMS if (row := _row(runs, arm))]
    columns = {
        "strategy": "strategy",
        "n": "seeds",
        "accuracy": "held-out accuracy, %",
        "by_epoch": "after each epoch",
        "lowest": "lowest",
        "stuck": f"below {STUCK:.0%}",
        "to_fixed": "minus fixed",
        "to_random": "minus random order",
        "loss": "held-out loss",
        "steps": "steps",
        "cpu_s": "CPU s",
    }
    print(f"\n{data}: {recipe}\nmeans over seeds and 95% intervals (Student's t), in points of accuracy\n")
    print(timing.table(rows, columns))
    print(json.dumps({"data": data, "settings": asdict(recipe), "rows": rows}))


def _row(runs: Sequence[Json], arm: tuple[str, bool]) -> Json:
    """What there is of one arm; empty if nothing."""
    final = _final(runs, arm)
    found = [run for run in runs if (run["strategy"], run["padding_free"]) == arm]
    if not found:
        return {}
    by_epoch = zip(*(run["accuracies"] for run in found), strict=True)
    row = {
        "strategy": _name(*arm),
        "n": len(found),
        "accuracy": interval(list(final.values())),
        "by_epoch": " ".join(f"{100 * fmean(epoch):.2f}" for epoch in by_epoch),
        "lowest": f"{min(final.values()):.1f}",
        "stuck": sum(accuracy < 100 * STUCK for accuracy in final.values()),
        "loss": fmean(run["eval_losses"][-1] for run in found),
        "steps": round(fmean(run["steps"] for run in found)),
        "cpu_s": median(run["cpu_s"] for run in found),
    }
    if arm != ARMS[0]:
        row["to_fixed"] = difference(final, [_final(runs, ARMS[0])])
    if arm[0] not in ("fixed", "dynamic"):
        row["to_random"] = difference(final, [_final(runs, other) for other in RANDOM])
    return row


def _final(runs: Sequence[Json], arm: tuple[str, bool]) -> dict[int, float]:
    """Seed to accuracy after the last epoch, in %."""
    return {run["seed"]: 100 * run["accuracies"][-1] for run in runs if (run["strategy"], run["padding_free"]) == arm}


def difference(ones: dict[int, float], others: Sequence[dict[int, float]]) -> str:
    """The interval of the difference to the mean of some others, over the seeds that all of them have."""
    seeds = set(ones).intersection(*others)
    return interval([ones[seed] - fmean(other[seed] for other in others) for seed in sorted(seeds)], "+")


def interval(values: Sequence[float], sign: str = "") -> str:
    """Mean and half-width of the 95% confidence interval, as text; of one value no interval can be told."""
    if len(values) < 2:
        return "".join(f"{value:{sign}.2f}" for value in values)
    t = T_975[min(len(values) - 1, len(T_975)) - 1]
    return f"{fmean(values):{sign}.2f} ± {t * stdev(values) / math.sqrt(len(values)):.2f}"


if __name__ == "__main__":
    main()
