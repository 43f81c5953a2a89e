"""The folder of a run: its files, opening it, and the two files that are sealed with a checksum; `creating` makes it.

    runs/imdb-1/
      settings.json       the resolved settings; written before the first step
      metrics.jsonl       losses, learning rates, tokens, scores: the same in two equal runs
      timing.jsonl        seconds, tokens per second, memory
      checkpoints/        see `train.loop.checkpoint`
      model/              the fine-tuned model, written at the end
      tensorboard/, wandb/, wandb.json    only with the settings of these names, see `trackers`
      summary.json        written last: a run that has it is finished

A run to resume may be a stranger's: it is read and written through a `Folder`, which follows no link.
"""

import platform
from collections.abc import Collection
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CacheError, CorruptCacheError, FormatVersionError, InputError
from cache.format.checksummed_json import MAX_COUNT, Fields, seal, unseal
from cache.format.files import FileInfo, file_entry
from cache.plans.spec import PlanSpec

from ..settings import Settings

SETTINGS = "settings.json"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
MODEL = "model"
CHECKPOINTS = "checkpoints"
RUNS = "runs"
FORMAT = "lengthwise-run"
SUMMARY_FORMAT = "lengthwise-summary"
VERSION = 1
MAX_BYTES = 1 << 20
"""Limit on the size of settings.json."""

MAX_SUMMARY_BYTES = 1 << 26
"""Limit on the size of summary.json, which counts each class of the labels."""

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


def open_run(path: Path) -> Folder:
    """The folder of a run; an InputError if there is none, a StorageError if it cannot be opened."""
    with storage_errors(path, "open"):
        try:
            return Folder.open(path)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_run(path, "there is no such folder") from None


def _no_run(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is not a run: {reason}; `train run` makes runs, under {RUNS}/")


def open_shared_run(path: Path, settings: bytes) -> Folder:
    """The folder of a run that another rank has just made, perhaps on another machine, with this settings.json.

    Raises:
        InputError: it is not there, or another run's is.
    """
    with suppress(InputError, FileNotFoundError), ExitStack() as stack:
        run = stack.enter_context(open_run(path))
        if run.read(SETTINGS, MAX_BYTES) == settings:
            stack.pop_all()
            return run
    raise InputError(
        f"the run folder {path} that the first rank made is not there on {platform.node()}, but all ranks use it; "
        "pass --out FOLDER on a file system that the machines share"
    )


def read_run(run: Folder) -> RunInfo:
    """Read the settings of a run.

    Raises:
        InputError: the folder holds no run that this release reads.
    """
    path = run.path / SETTINGS
    if run.stat(SETTINGS) is None:
        raise _no_run(run.path, f"it holds no {SETTINGS}")
    try:
        with storage_errors(path, "read"):
            content = Fields(unseal(run.read(SETTINGS, MAX_BYTES), path, FORMAT, VERSION), path)
        environment = content.mapping("environment")
        Fields(environment, path).text("device")
        settings = Settings.from_json(content.mapping("settings"))
        PlanSpec(str(settings.strategy), settings.batch_size, settings.max_tokens)  # a run records what it resolved
        return RunInfo(
            settings=settings,
            cache_name=content.name("cache_name"),
            cache_fingerprint=content.digest("cache_fingerprint"),
            model_digest=content.digest("model_digest"),
            max_length=content.integer("max_length", 1, MAX_COUNT),
            total_steps=content.integer("total_steps", 0, MAX_COUNT),
            environment=environment,
            metric=content.text("metric"),
        )
    except FormatVersionError:
        raise InputError(f"{path}: another release wrote it; install that one, or start a new run") from None
    except (CacheError, InputError) as error:
        raise InputError(
            f"{path} cannot be read as a run's settings ({error}); put a sound copy there, or start a new run"
        ) from None


class Summary(NamedTuple):
    """What `summary.json` holds.

    Attributes:
        facts: steps, seconds, memory, scores.
        records: size and checksum of metrics.jsonl and timing.jsonl.
    """

    facts: Json
    records: dict[str, FileInfo]


def read_summary(run: Folder) -> Summary | None:
    """The summary of a finished run; None where the run is not finished.

    Raises:
        CorruptCacheError: it is damaged.
    """
    path = run.path / SUMMARY
    if run.stat(SUMMARY) is None:
        return None
    try:
        with storage_errors(path, "read"):
            content = unseal(run.read(SUMMARY, MAX_SUMMARY_BYTES), path, SUMMARY_FORMAT, VERSION)
        records = listed_files(Fields(content, path), "records", (METRICS, TIMING))
    except CacheError as error:
        raise CorruptCacheError(
            f"{error}; to write it anew from the last checkpoint: rm {path} && train run --resume {run.path}"
        ) from None
    return Summary({name: content[name] for name in content if name not in ("format", "version", "records")}, records)


def write_settings(run: Folder, info: RunInfo) -> bytes:
    """Write settings.json, complete or not at all; returns its content."""
    content = seal(info.to_json())
    with storage_errors(run.path / SETTINGS):
        run.write(SETTINGS, content)
    return content


def write_summary(run: Folder, summary: Summary) -> None:
    """Write summary.json, complete or not at all."""
    records = [asdict(summary.records[name]) for name in (METRICS, TIMING)]
    with storage_errors(run.path / SUMMARY):
        run.write(SUMMARY, seal({"format": SUMMARY_FORMAT, "version": VERSION, **summary.facts, "records": records}))


def listed_files(fields: Fields, key: str, names: Collection[str]) -> dict[str, FileInfo]:
    """A list of files with their sizes and checksums; a CorruptCacheError unless they are those called `names`."""
    expected = f"a list of {', '.join(names)}"
    found = [FileInfo(**file_entry(item, expected, lambda name: name in names)) for item in fields.objects(key)]
    if sorted(info.file for info in found) != sorted(names):
        raise fields.wrong(key, expected)
    return {info.file: info for info in found}


def set_aside(run: Folder, name: str) -> str:
    """Give what cannot be used another name, so that nothing is lost; returns that name."""
    number = 1
    while run.stat(f"{name}.damaged-{number}") is not None:
        number += 1
    run.rename(name, f"{name}.damaged-{number}")
    return f"{name}.damaged-{number}"
