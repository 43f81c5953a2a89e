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
from .timing import WORK, Json, interleave, measure, median_of, python, ratio, say

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
    measure(python("predict", "--prepare", rows))
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
    columns = {"peer": "", "seconds": "seconds", "cpu_s": "CPU s", "rows_per_s": "rows/s", "peak_mib": "peak, MiB"}
    title = f"Predict: a csv of {rows:,} reviews, whole processes, fp32; medians of {rounds}"
    timing.report("predict", title, table, columns, ratios, settings)


def _predict(name: str) -> Json:
    out = _out(name)
    out.unlink(missing_ok=True)
    ours = [TRAIN, "predict", _model(), "--file", _source(), "--out", out, "--device", "cpu", "--quiet"]
    theirs = python("predict", "--pipeline", "length" if name == LENGTH_ORDER else "input", _model(), _source(), out)
    return measure(ours if name == OURS else theirs)[0]


def _row(name: str, found: list[Json], rows: int) -> Json:
    seconds = median_of(found, "wall_s")
    peak = median_of(found, "peak_bytes") / 2**20
    return {
        "peer": name,
        "seconds": seconds,
        "cpu_s": median_of(found, "cpu_s"),
        "rows_per_s": rows / seconds,
        "peak_mib": peak,
    }


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
    with _source().open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(chosen)


def pipe(order: str, model: str, source: str, out: str) -> None:
    """What users write: the whole file through transformers' pipeline."""
    from transformers import pipeline

    rows = _read(Path(source))
    places = list(range(len(rows)))
    if order == "length":
        places.sort(key=lambda place: len(rows[place]["text"]))
    classify: Any = pipeline("text-classification", model=model, device="cpu", top_k=None)
    texts = [rows[place]["text"] for place in places]
    for place, found in zip(
        places, classify(texts, batch_size=BATCH_SIZE, truncation=True, max_length=400), strict=True
    ):
        rows[place]["predicted_label"] = found[0]["label"]
        scores = {one["label"]: one["score"] for one in found}
        rows[place] |= {f"probability_{label}": scores[label] for label in sorted(scores)}
    with Path(out).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--pipeline"]:
        pipe(*sys.argv[2:])
    else:
        main()
