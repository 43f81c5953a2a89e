"""A csv of reviews to the same csv with predictions, as whole processes: `train predict` beside transformers' pipeline.

    python -m benchmarks.predict --quick

Everybody has the same 6-layer MiniLM with a trained head, cuts texts at 400 tokens, and computes batches of 32 in fp32.
The pipeline gets the texts once in their order, once in that of their lengths in characters, and its results are put
back. Before anything is timed, the labels and probabilities of all are compared row by row.
"""

import csv
import sys
from pathlib import Path
from typing import Any

from . import timing
from .timing import WORK, Json, apart, interleave, measure, ratio, say, usage_of

TRAIN = Path(sys.executable).parent / "train"
OURS, INPUT_ORDER, LENGTH_ORDER = "train predict", "pipeline, input order", "pipeline, length order"
TARGETS = {INPUT_ORDER: 3.0, LENGTH_ORDER: 1.5}
"""How many times as many rows per second as each is aimed at."""
BATCH_SIZE = 32
TOLERANCE = 1e-4
"""Of probabilities, which differ by rounding."""


def main() -> None:
    settings = timing.arguments(__doc__, rows=2000).parse_args()
    rows = min(settings.rows, 64) if settings.quick else settings.rows
    rounds = settings.rounds or (1 if settings.quick else 3)
    apart("predict", "prepare", rows)
    for name in (OURS, INPUT_ORDER, LENGTH_ORDER):
        say(f"to compare: {name}")
        _predict(name)
    _compare()
    samples = interleave((OURS, INPUT_ORDER, LENGTH_ORDER), rounds, _predict, say)
    table = [_row(name, found, rows) for name, found in samples.items()]
    ratios = {
        f"{part} of {name} / {OURS}{f' (target: {target:.1f} or more)' if key == 'wall_s' else ''}": ratio(
            samples, name, OURS, key
        )
        for name, target in TARGETS.items()
        for part, key in (("seconds", "wall_s"), ("CPU seconds", "cpu_s"))
    }
    columns = {"peer": "", "wall_s": "seconds", "cpu_s": "CPU s", "rows_per_s": "rows/s", "peak_mib": "peak, MiB"}
    title = f"Predict: a csv of {rows:,} reviews, whole processes, fp32; medians of {rounds}"
    timing.report("predict", title, table, columns, ratios, settings)


def _predict(name: str) -> Json:
    out = _out(name)
    out.unlink(missing_ok=True)
    if name == OURS:
        return measure([TRAIN, "predict", _model(), "--file", _source(), "--out", out, "--device", "cpu", "--quiet"])[0]
    return apart("predict", "pipe", name == LENGTH_ORDER, _model(), _source(), out)[0]


def _row(name: str, found: list[Json], rows: int) -> Json:
    usage = usage_of(found)
    return {"peer": name, **usage, "rows_per_s": rows / usage["wall_s"]}


def _compare() -> None:
    ours, *others = (_read(_out(name)) for name in (OURS, INPUT_ORDER, LENGTH_ORDER))
    for other in others:
        for number, (one, two) in enumerate(zip(ours, other, strict=True)):
            chances = [name for name in one if name.startswith("probability_")]
            apart = max(abs(float(one[name]) - float(two[name])) for name in chances)
            if one["text"] != two["text"] or apart > TOLERANCE:
                raise SystemExit(f"row {number}: probabilities are {apart:.2g} apart, or the texts differ")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _model() -> Path:
    return WORK / "predict" / "run" / "model"


def _source() -> Path:
    return WORK / "predict" / "reviews.csv"


def _out(name: str) -> Path:
    return WORK / "predict" / f"{name.replace(' ', '-').replace(',', '')}.csv"


# --- in processes of their own


def prepare(rows: int) -> None:
    """Train the head for a few steps, and write the reviews to predict: every so many of all, in their order."""
    from .corpus import imdb_cache, reviews_csv, small_bert

    if not _model().exists():
        cache, run = imdb_cache("predict-head", limit=200), _model().parent
        flags = ["--model", small_bert(6), "--lr", "1e-4", "--max-steps", "4", "--eval-split", "none", "--out", run]
        measure([TRAIN, "run", "--cache", cache, *flags, "--device", "cpu"])
    every = _read(reviews_csv())
    chosen = every[:: len(every) // rows][:rows]
    _write(_source(), chosen)


def pipe(by_length: bool, model: str, source: str, out: str) -> None:
    """What users write: the whole file through transformers' pipeline."""
    from transformers import pipeline

    rows = _read(Path(source))
    places = list(range(len(rows)))
    if by_length:
        places.sort(key=lambda place: len(rows[place]["text"]))
    classify: Any = pipeline("text-classification", model=model, device="cpu", top_k=None)
    texts = [rows[place]["text"] for place in places]
    for place, found in zip(
        places, classify(texts, batch_size=BATCH_SIZE, truncation=True, max_length=400), strict=True
    ):
        rows[place]["predicted_label"] = found[0]["label"]
        scores = {one["label"]: one["score"] for one in found}
        rows[place] |= {f"probability_{label}": scores[label] for label in sorted(scores)}
    _write(Path(out), rows)


if __name__ == "__main__":
    main()
