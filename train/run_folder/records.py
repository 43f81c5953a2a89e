"""The files of a run folder that people and programs read: settings, metrics, timings, summary.

runs/imdb-1/
  settings.json       the resolved settings; written before the first step
  metrics.jsonl       losses, learning rates, tokens, scores: the same in two equal runs
  timing.jsonl        seconds, tokens per second, memory
  checkpoints/        see `checkpoint`
  model/              the fine-tuned model, written at the end
  tensorboard/, wandb/, wandb.json    only with the settings of these names, see `trackers`
  summary.json        written last: a run that has it is finished
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.common.files import replacing, storage_errors, sync
from cache.errors import InputError, StorageError

from ..settings import Settings

SETTINGS = "settings.json"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
MODEL = "model"
CHECKPOINTS = "checkpoints"
RUNS = "runs"
FORMAT = "lengthwise-run"
VERSION = 1

Json = dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """What `settings.json` holds.

    Attributes:
        settings: resolved, with nothing left at `auto`.
        cache_name: name of the cache.
        cache_fingerprint: its fingerprint.
        model_digest: sha256 over the files of the model it started from.
        max_length: the cache's, tokens.
        total_steps: optimizer steps of the whole run.
        environment: versions, device and threads; results are bit-identical only where these are the same.
        metric: title of the customary score of the corpus, such as "Matthews"; empty where there is none.
    """

    settings: Settings
    cache_name: str
    cache_fingerprint: str
    model_digest: str
    max_length: int
    total_steps: int
    environment: Json
    metric: str = ""

    def to_json(self) -> Json:
        """The content of settings.json."""
        fields = {name: value for name, value in vars(self).items() if name != "settings"}
        return {"format": FORMAT, "version": VERSION, "settings": self.settings.to_json(), **fields}


def read_run(folder: Path) -> RunInfo:
    """Read the settings of a run.

    Raises:
        InputError: the folder holds no run that this release reads.
    """
    path = folder / SETTINGS
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.pop("format") != FORMAT or content.pop("version") != VERSION:
            raise ValueError(f"expected format {FORMAT}, version {VERSION}")
        return RunInfo(settings=Settings.from_json(content.pop("settings")), **content)
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a run: it holds no {SETTINGS}; `train run` makes runs, under {RUNS}/"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError) as error:
        raise InputError(f"{path} cannot be read as a run's settings ({error})") from None


def create_run_folder(out: str | None, cache_name: str) -> Path:
    """Create the folder of a new run: `out`, or the first free runs/<cache name>-<n>.

    Raises:
        InputError: `out` exists and is not empty.
        StorageError: it cannot be created.
    """
    with storage_errors(Path(out or RUNS)):
        if out is not None:
            folder = Path(out)
            check_out(out)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        Path(RUNS).mkdir(exist_ok=True)
        for number in range(1, 1_000_000):
            folder = Path(RUNS, f"{cache_name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()  # of two runs that start at once, one gets it
                return folder
    raise StorageError(f"{RUNS}/ is full; pass --out FOLDER")


def check_out(out: str) -> None:
    """Refuse a run folder that exists and is not empty.

    Raises:
        InputError: it is.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        hint = f"go on with `train run --resume {out}`, or " if (folder / SETTINGS).exists() else ""
        raise InputError(f"--out {out} already exists and is not empty; {hint}pass another --out")


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes from training the same run.

    Raises:
        InputError: another process is training it.
    """
    handle = os.open(folder / SETTINGS, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder} is being trained by another process; wait for it, or stop it first") from None
        yield
    finally:
        os.close(handle)


def write_json(path: Path, content: Json) -> None:
    """Write a JSON file, complete or not at all.

    Raises:
        StorageError: the file system refused.
    """
    with storage_errors(path):
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
        sync(path.parent)


class Records:
    """An append-only JSON lines file that can be truncated to its size at a checkpoint.

    Args:
        path: the file, created if it does not exist.
        size: bytes of its content to keep.

    Raises:
        InputError: it is shorter than that.
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        with storage_errors(path):
            self.file = path.open("ab")
            found = self.file.seek(0, os.SEEK_END)
            if found < size:
                self.file.close()
                raise InputError(
                    f"{path} has {found:,} bytes, expected at least the {size:,} of its checkpoint; "
                    "it was cut or replaced"
                )
            self.file.truncate(size)

    def add(self, record: Json) -> None:
        """Append a record; a number that is not finite becomes null."""
        content = finite(record)
        with storage_errors(self.path):
            self.file.write(json.dumps(content, allow_nan=False).encode() + b"\n")
            self.file.flush()

    def sync(self) -> int:
        """Flush to disk; returns the file's size in bytes."""
        with storage_errors(self.path):
            os.fsync(self.file.fileno())
            return self.file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def finite(content: Json) -> Json:
    """A copy in which every number that is not finite is None, so that it is valid JSON."""
    return {name: _finite(value) for name, value in content.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return finite(value)
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def read_records(path: Path) -> list[Json]:
    """The records of a JSON lines file; an incomplete last line is left out."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines[:-1]]


def joined_records(folder: Path) -> list[Json]:
    """The records of a run's metrics, each with the fields of its timing record."""
    times = {(record["kind"], record["step"]): record for record in read_records(folder / TIMING)}
    return [{**record, **times.get((record["kind"], record["step"]), {})} for record in read_records(folder / METRICS)]
