"""The records of a run: metrics.jsonl and timing.jsonl, one JSON object per line, in the order of the steps.

A checkpoint and the summary of a finished run state size and sha256 of both files, so that damage is noticed.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CorruptCacheError
from cache.format.checksummed_json import MAX_COUNT, Fields
from cache.format.files import FileInfo

from ..metrics.scores import is_better
from ..settings import Settings
from .folder import METRICS, TIMING, Json, read_summary, set_aside

MAX_LINE_BYTES = 1 << 20

_COUNTS = ("rows", "real_tokens", "padded_tokens")

_NUMBERS = {
    (METRICS, "step"): ("loss", "learning_rate", "grad_norm", *_COUNTS),
    (METRICS, "epoch"): ("loss", *_COUNTS),
    (METRICS, "eval"): ("loss", "rows"),
    (METRICS, "test"): ("loss", "rows"),
    (TIMING, "step"): ("seconds", "tokens_per_second", "peak_memory_bytes"),
    (TIMING, "epoch"): ("seconds", "eval_seconds"),
}
"""File and kind of a record to the numbers that it must have; it may have more."""

_NEVER_NULL = {"step", "epoch", "seconds", *_COUNTS}


class Records:
    """An append-only JSON lines file of a run.

    Args:
        run: the run folder.
        name: of the file, created if it does not exist.
        kept: what `sync` returned at the checkpoint; later records are cut off. None: start an empty file.
        warn: prints a warning; a file that is not as `kept` says is renamed, and an empty one started.

    Attributes:
        results: its records of epochs and evaluations.

    Raises:
        StorageError: the file system refused.
    """

    def __init__(self, run: Folder, name: str, kept: FileInfo | None, warn: Callable[[str], None]) -> None:
        self.path, self.name = run.path / name, name
        empty = FileInfo(name, 0, hashlib.sha256().hexdigest())
        with storage_errors(self.path):
            try:
                self._open(run, kept or empty)
            except (CorruptCacheError, IsADirectoryError) as error:
                aside = set_aside(run, name)
                warn(f"warning: {error}; it is now called {aside}, and the run goes on without the records in it")
                self._open(run, empty)

    def _open(self, run: Folder, kept: FileInfo) -> None:
        self.file = run.append(self.name)
        try:
            self.file.seek(0)
            self.digest, records = _read(self.file, self.path, kept)
            self.results = [record for record in records if record["kind"] != "step"]
            self.file.seek(kept.bytes)
            self.file.truncate()
        except BaseException:
            self.file.close()
            raise

    def add(self, record: Json) -> None:
        """Append a record; a number that is not finite becomes null."""
        content = finite(record)
        line = json.dumps(content, allow_nan=False).encode() + b"\n"
        self.digest.update(line)
        if content["kind"] != "step":
            self.results.append(content)
        with storage_errors(self.path):
            self.file.write(line)
            self.file.flush()

    def sync(self) -> FileInfo:
        """Flush to disk; returns the file's name, size and checksum."""
        with storage_errors(self.path):
            os.fsync(self.file.fileno())
            return FileInfo(self.name, self.file.tell(), self.digest.hexdigest())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def finite(value: Any) -> Any:
    """A copy of JSON in which every number that is not finite is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_records(run: Folder, name: str) -> list[Json]:
    """The records of metrics.jsonl or timing.jsonl; an incomplete last line is left out.

    Raises:
        CorruptCacheError: a line is not a record, or the run is finished and the file is not as it was then.
        StorageError: it cannot be read.
    """
    summary = read_summary(run)
    with storage_errors(run.path / name, "read"):
        if summary is None and run.stat(name) is None:
            return []
        with run.open_file(name) as file:
            return _read(file, run.path / name, summary and summary.records[name])[1]


def _read(file: BinaryIO, path: Path, expected: FileInfo | None) -> tuple["hashlib._Hash", list[Json]]:
    """The records in the part of a file that `expected` describes, or in all of it, and the digest of its bytes."""
    digest, size = hashlib.sha256(), 0
    records: list[Json] = []
    while expected is None or size < expected.bytes:
        line = file.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
            break
        records.append(_record(line, path, len(records) + 1))
        digest.update(line)
        size += len(line)
    if expected is not None and (size, digest.hexdigest()) != (expected.bytes, expected.sha256):
        raise CorruptCacheError(f"{path}: it was cut, damaged or edited: its bytes differ from their checksum")
    return digest, records


def _record(line: bytes, path: Path, number: int) -> Json:
    """A line of a file of records, checked."""
    try:
        record = json.loads(line)
        fields = Fields(record if isinstance(record, dict) else {}, path)
        needed = _NUMBERS[path.name, fields.text("kind")]
        if fields.raw["kind"] in ("eval", "test"):
            fields.text("split")
        for name in ("step", "epoch", *needed, *fields.raw.keys() - {"kind", "split"}):
            null = name in fields.raw and fields.raw[name] is None and name not in _NEVER_NULL
            if not null and not is_number(fields.raw.get(name)):
                raise fields.wrong(name, "a number")
    except (ValueError, KeyError, RecursionError, CorruptCacheError) as error:
        raise CorruptCacheError(f"{path}: line {number} is not a record of a run ({error})") from None
    return fields.raw


def exported_evaluation(records: Sequence[Json], settings: Settings) -> Json | None:
    """The record of what the exported model did, among those of a run's metrics: on the test split at the end, else
    after its epoch; None if it was not evaluated."""
    if tests := [record for record in records if record["kind"] == "test"]:
        return tests[-1]
    best: Json | None = None
    name = settings.keep_best
    for record in records:
        if record["kind"] == "eval":
            before = None if best is None or name is None else best.get(name)
            best = record if name is None or is_better(name, record.get(name), before) else best
    return best


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return math.isfinite(value) if isinstance(value, float) else type(value) is int and abs(value) <= MAX_COUNT


def joined_records(metrics: Sequence[Json], timing: Sequence[Json]) -> list[Json]:
    """The records of metrics.jsonl, each with the fields of its record in timing.jsonl."""
    times = {(record["kind"], record["step"]): record for record in timing}
    return [{**record, **times.get((record["kind"], record["step"]), {})} for record in metrics]
