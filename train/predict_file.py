"""Predictions for a file of rows: the same rows, in order, with the prediction of each; one pass, in chunks."""

import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.console.progress import ConsoleProgress, Progress, clock
from cache.console.text import counted
from cache.errors import InputError, MismatchError
from cache.format.tasks import TOKENS

from .predict import Input, Output, Predictor
from .tables.reading import Chunk, Table
from .tables.writing import NAME, NAMES, NUMBER, NUMBERS, open_writer

LABEL, LABELS, VALUE, TAGS, TAG_PROBABILITIES = (
    "predicted_label", "predicted_labels", "predicted_value", "predicted_tags", "tag_probabilities"
)  # fmt: skip
"""Names of the columns that are added, beside `probability_` and a class for each class."""


@dataclass(frozen=True)
class FilePredictions:
    """What was predicted for a file.

    Attributes:
        out: the file that was written.
        rows: rows read and written.
        without_text: rows of them that hold no text, and got no prediction.
        labels: how often each label was predicted, the most frequent one first; empty for a regression.
        seconds: from the first row to the last.
    """

    out: Path
    rows: int
    without_text: int
    labels: dict[str, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**vars(self), "out": str(self.out)}

    def lines(self) -> list[str]:
        """The report for people."""
        speed = f"{self.rows / max(self.seconds, 1e-9):,.1f} rows/s"
        lines = [f"rows       {self.rows:,} in {clock(self.seconds)}, {speed}"]
        if self.without_text:
            lines.append(f"no text    {counted(self.without_text, 'row')}, written without a prediction")
        if self.labels:
            shown = [f"{name} {count:,}" for name, count in list(self.labels.items())[:20]]
            lines.append(f"predicted  {', '.join(shown)}{', …' if len(self.labels) > 20 else ''}")
        return [*lines, f"wrote      {self.out}"]


def predict_file(
    predictor: Predictor, table: Table, texts: tuple[str, ...], out: Path, progress: ConsoleProgress
) -> FilePredictions:
    """Write the rows of a file with their predictions, of the column of texts or the two of pairs.

    A row whose text is missing or blank is written without a prediction.

    Raises:
        InputError: a row holds something else than text, has a column named as one that is added, or does not fit the
            format of `out`.
        MismatchError: the model takes pairs and there is one column, or the other way round.
        StorageError: the file system refuses.
    """
    _check_pair(predictor, table, texts)
    columns = added_columns(predictor)
    began = time.monotonic()
    rows = predicted = 0
    counts: Counter[str] = Counter()
    with progress.bar("predicting", table.size_bytes, "B") as bar, open_writer(out, columns) as write:
        for chunk in table.chunks:
            _check_names(table, chunk, columns)
            values = []
            for output in _outputs(predictor, chunk, texts, bar):
                labels = [] if output is None else predictor.predicted_labels(output)
                values.append([None] * len(columns) if output is None else _values(predictor, labels, output))
                counts.update(label for label in labels if label is not None)
                predicted += output is not None
            write(chunk, {name: [row[number] for row in values] for number, name in enumerate(columns)})
            rows += len(chunk)
    return FilePredictions(out, rows, rows - predicted, dict(counts.most_common()), time.monotonic() - began)


def added_columns(predictor: Predictor) -> dict[str, str]:
    """Name and type of the columns that a model's predictions take."""
    probabilities = {f"probability_{name}": NUMBER for name in predictor.labels}
    return {
        "classification": {LABEL: NAME, **probabilities},
        "multi-label": {LABELS: NAMES, **probabilities},
        "regression": {VALUE: NUMBER},
        TOKENS: {TAGS: NAMES, TAG_PROBABILITIES: NUMBERS},
    }[predictor.kind]


def _check_pair(predictor: Predictor, table: Table, texts: tuple[str, ...]) -> None:
    if predictor.pair and len(texts) == 1:
        others = ", ".join(repr(name) for name in table.columns if name != texts[0]) or "none is left"
        raise MismatchError(
            f"the model {predictor.name} takes pairs of texts, and {texts[0]!r} is the first; pass --text-pair with "
            f"the column of the second one: {others}"
        )
    if predictor.pair is False and len(texts) == 2:
        raise MismatchError(f"the model {predictor.name} takes single texts; leave out --text-pair")


def _check_names(table: Table, chunk: Chunk, columns: dict[str, str]) -> None:
    if taken := [name for name in columns if name in chunk.columns]:
        raise InputError(
            f"{table.path} has a column {taken[0]!r}, which is the name of one that is added; rename or remove it"
        )


def _outputs(predictor: Predictor, chunk: Chunk, texts: tuple[str, ...], bar: Progress) -> list[Output | None]:
    """What the model says of each row of a chunk, None where there is no text; the bar moves to the chunk's end."""
    columns = [chunk.values(name) for name in texts]
    inputs = {}
    for row, values in enumerate(zip(*columns, strict=True)):
        found = _input(predictor, chunk.first_row + row, texts, values)
        if found is not None:
            inputs[row] = found
    before = bar.done

    def move(share: float) -> None:
        position = before + int(share * (chunk.end_bytes - before))
        bar.update(position - bar.done, f"{chunk.first_row + int(share * len(chunk)):,} rows")

    outputs: list[Output | None] = [None] * len(chunk)
    for row, output in zip(inputs, predictor.outputs(list(inputs.values()), move), strict=True):
        outputs[row] = output
    move(1.0)
    return outputs


def _input(predictor: Predictor, row: int, names: tuple[str, ...], values: tuple[Any, ...]) -> Input | None:
    """A row's text as the predictor takes it; None where it is missing or blank."""
    for name, value in zip(names, values, strict=True):
        words = predictor.kind == TOKENS and isinstance(value, list) and all(isinstance(word, str) for word in value)
        if not (value is None or isinstance(value, str) or words):
            expected = "text or a list of words" if predictor.kind == TOKENS else "text"
            raise InputError(
                f"row {row:,} (counted from 0) holds {value!r:.60} in the column {name!r}, expected {expected}"
            )
    if any(value is None or (isinstance(value, str) and not value.strip()) for value in values):
        return None
    return values if len(values) == 2 else values[0]


def _values(predictor: Predictor, labels: list[str | None], output: Output) -> list[Any]:
    """A row's values of the added columns."""
    if predictor.kind == TOKENS:
        return [labels, _numbers(output[:, 1])]
    if predictor.kind == "multi-label":
        return [labels, *_numbers(output)]
    return [*labels, *_numbers(output)]  # of a regression there are no labels


def _numbers(values: Output) -> list[float | None]:
    """Numbers by the shortest decimals that stand for their float32; None where one is not finite."""
    return [number if math.isfinite(number) else None for number in map(float, values.astype(str))]
