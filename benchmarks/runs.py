"""Whole training runs in a worker, through `train run`'s own function: `python -m benchmarks.runs`."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from .timing import WORK, Json, Worker, python, serve


def run_once(out: Path, **given: Any) -> Json:
    """Train as `train run` does, in a fresh folder.

    Args:
        out: the run folder; whatever was there goes.
        given: fields of `train.settings.Settings`; those it does not have are left out.

    Returns:
        seconds (training alone), real and padded tokens and steps of all epochs; curve: one
        (step, real tokens so far, seconds so far, mean loss since the last point) a log point; accuracy or None;
        per epoch: train_losses, and where it was evaluated accuracies and eval_losses.
    """
    from train.run import start_run
    from train.settings import Settings

    known = {field.name for field in dataclasses.fields(Settings)}
    shutil.rmtree(out, ignore_errors=True)
    settings = Settings(out=str(out), **{name: value for name, value in given.items() if name in known})
    start_run(settings, print, print, quiet=True)
    found = read_run(out)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return found


def read_run(out: Path) -> Json:
    """The numbers of a finished run; see `run_once`."""
    metrics, timing = _records(out / "metrics.jsonl"), _records(out / "timing.jsonl")
    epochs = [record for record in metrics if record["kind"] == "epoch"]
    evaluations = [record for record in metrics if record["kind"] == "eval"]
    curve, tokens, seconds = [], 0, 0.0
    laps = {record["step"]: record["seconds"] for record in timing if record["kind"] == "step"}
    for record in metrics:
        if record["kind"] == "step":
            tokens, seconds = tokens + record["real_tokens"], seconds + laps[record["step"]]
            curve.append((record["step"], tokens, seconds, record["loss"]))
    return {
        "seconds": sum(record["seconds"] for record in timing if record["kind"] == "epoch"),
        "real_tokens": sum(record["real_tokens"] for record in epochs),
        "padded_tokens": sum(record["padded_tokens"] for record in epochs),
        "steps": epochs[-1]["step"],
        "curve": curve,
        "accuracy": evaluations[-1]["accuracy"] if evaluations else None,
        "accuracies": [record["accuracy"] for record in evaluations],
        "eval_losses": [record["loss"] for record in evaluations],
        "train_losses": [record["loss"] for record in epochs],
    }


def _records(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(layers: int, limit: int, holdout: float) -> Json:
    """The folders of a cache of some reviews and of a small BERT."""
    from .corpus import imdb_cache, small_bert

    name = f"imdb-{limit}"
    return {"cache": str(imdb_cache(name, limit=limit, holdout=holdout)), "model": str(small_bert(layers))}


def worker() -> Worker:
    """A process that trains on request."""
    return Worker("train run", python("runs"))


def _handle(do: str, **given: Any) -> Json:
    return prepare(**given) if do == "prepare" else run_once(WORK / "run", **given)


if __name__ == "__main__":
    serve(_handle)
