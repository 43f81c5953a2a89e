"""The settings of a build, and what makes them invalid."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from cache.common.table_files import Cells
from cache.errors import InputError
from cache.format.checksummed_json import NAME_PATTERN
from cache.format.manifest import DEFAULT_SHARD_BYTES, MAX_LENGTH
from cache.format.tasks import MLM
from cache.plans.spec import PlanSpec

from .choices import CHUNK, DROP, ENGINES, EXECUTORS, LOCAL, LONG_TEXTS, MISSING, TASKS, TRUNCATE
from .columns import Columns
from .corpus.source import STDIN

DEFAULT_PART_BYTES = 128 << 20


class BuildOptions(TypedDict, total=False):
    """The keyword arguments of `prep.build_cache`, whose docstring says what each means."""

    name: str | None
    out: str | os.PathLike[str]
    text: str | None
    text_pair: str | None
    label: str | Sequence[str] | None
    task: str
    tokenizer: str | os.PathLike[str] | None
    engine: str
    max_length: int | None
    long_texts: str
    holdout: float | None
    validation: float
    limit: int | None
    strategy: str
    batch_size: int | None
    max_tokens: int | None
    seed: int
    epochs: int
    delimiter: str | None
    quotes: bool | None
    missing: str
    memory_bytes: int
    executor: str
    force: bool


@dataclass(frozen=True)
class BuildSettings:
    """All settings of a build. `prep.build_cache` says what each means that is not described here.

    Attributes:
        source: preset, Hub dataset id, file or folder, or several files; empty where the data comes from memory.
        shard_bytes: size limit of a shard.
        part_bytes: about what a task on other machines reads of a source.

    Raises:
        InputError: values are out of range; all of them are reported at once, by flag.
    """

    source: str | tuple[str, ...]
    name: str | None = None
    out: str | os.PathLike[str] = "cache"
    text: str | None = None
    text_pair: str | None = None
    label: str | Sequence[str] | None = None
    task: str = "auto"
    tokenizer: str | os.PathLike[str] | None = None
    engine: str = "auto"
    max_length: int | None = None
    long_texts: str = TRUNCATE
    holdout: float | None = None
    validation: float = 0.0
    limit: int | None = None
    strategy: str = "smart"
    batch_size: int | None = None
    max_tokens: int | None = None
    seed: int = 0
    epochs: int = 3
    delimiter: str | None = None
    quotes: bool | None = None
    missing: str = "error"
    memory_bytes: int = 1 << 30
    executor: str = LOCAL
    force: bool = False
    shard_bytes: int = DEFAULT_SHARD_BYTES
    part_bytes: int = DEFAULT_PART_BYTES

    def __post_init__(self) -> None:
        wrong = [*self._wrong_choices(), *self._wrong_numbers()]
        for made in ("columns", "plan"):
            try:
                getattr(self, made)
            except InputError as error:
                wrong.append(str(error))
        if self.source == STDIN and self.name is None:
            wrong.append("--name is missing, for text from standard input has none; pass --name NAME")
        if self.name is not None and not NAME_PATTERN.fullmatch(self.name):
            wrong.append(f"--name {self.name!r} is not a plain name (letters, digits, '.', '_', '-')")
        if self.task == MLM and self.label:
            wrong.append("--label is given, but --task mlm takes no labels; leave one of them out")
        if self.long_texts == CHUNK and self.task != MLM:
            wrong.append(f"--long-texts {CHUNK} is for --task {MLM}, for a label belongs to a whole text; leave it out")
        if wrong:
            raise InputError("; ".join(wrong))

    def _wrong_choices(self) -> Iterator[str]:
        for flag, value, allowed in (
            ("--task", self.task, TASKS),
            ("--engine", self.engine, ENGINES),
            ("--missing", self.missing, MISSING),
            ("--long-texts", self.long_texts, LONG_TEXTS),
            ("--executor", self.executor, EXECUTORS),
        ):
            if value not in allowed:
                yield f"{flag} {value!r} is not one of {', '.join(allowed)}"

    def _wrong_numbers(self) -> Iterator[str]:
        for flag, value, least, below, expected in (
            ("--max-length", self.max_length, 1, MAX_LENGTH + 1, f"from 1 to {MAX_LENGTH}"),
            ("--holdout", self.holdout, 0, 1, "a fraction from 0 to below 1"),
            ("--validation", self.validation, 0, 1, "a fraction from 0 to below 1"),
            ("--limit", self.limit, 1, math.inf, "1 or more"),
            ("--memory", self.memory_bytes, 1, math.inf, "1 byte or more"),
            ("--epochs", self.epochs, 0, math.inf, "0 or more"),
        ):
            if value is not None and not least <= value < below:
                yield f"{flag} {value} is not {expected}"

    @property
    def plan(self) -> PlanSpec:
        """The plan to draw for split `train`."""
        return PlanSpec.of(self.strategy, self.batch_size, self.max_tokens, self.seed)

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        labels = (self.label,) if isinstance(self.label, str) else tuple(self.label or ())
        cells = Cells.typed(self.delimiter, self.quotes)
        return Columns(self.text, self.text_pair, labels, self.task != MLM, cells, self.missing == DROP)
