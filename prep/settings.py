"""The settings of a build, and what makes them invalid."""

from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import InputError
from cache.format.checksummed_json import NAME_PATTERN
from cache.format.manifest import DEFAULT_SHARD_BYTES, MAX_LENGTH
from cache.format.tasks import KINDS, MLM
from cache.plans.spec import PlanSpec

from .sources.corpus import Columns


@dataclass(frozen=True)
class BuildSettings:
    """What `prep build` was asked for.

    Attributes:
        source: preset, Hub dataset id, file or folder.
        out: folder of the caches.
        name: of this cache; None = the source's.
        text, label: columns; None = the usual names. Several labels: one column a class.
        text_pair: column of a second text; None = texts come alone.
        task: what the labels are, one of `cache.format.manifest.KINDS`, or "auto" to find out.
        tokenizer: Hub id, folder or `minilm`; None = the default.
        engine: who tokenizes, one of `prep.tokenization.ENGINES`.
        max_length: tokens a row is truncated to; None = the preset's or the tokenizer's.
        holdout: fraction of `train` held out as `test`; None = the source's default.
        limit: most rows to take of each source split.
        plan: the plan to draw for split `train`.
        epochs: of it.
        force: replace a different cache of the same name.
        memory_bytes: about how much memory the build may take.
        shard_bytes: size limit of a shard.
    """

    source: str
    out: Path = Path("cache")
    name: str | None = None
    text: str | None = None
    label: str | tuple[str, ...] | None = None
    text_pair: str | None = None
    task: str = "auto"
    tokenizer: str | None = None
    engine: str = "auto"
    max_length: int | None = None
    holdout: float | None = None
    limit: int | None = None
    plan: PlanSpec = field(default_factory=PlanSpec)
    epochs: int = 3
    force: bool = False
    memory_bytes: int = 1 << 30
    shard_bytes: int = DEFAULT_SHARD_BYTES

    def __post_init__(self) -> None:
        wrong = []
        if self.name is not None and not NAME_PATTERN.fullmatch(self.name):
            wrong.append(f"--name {self.name!r} is no plain name (letters, digits, '.', '_', '-')")
        if self.task not in ("auto", *KINDS):
            wrong.append(f"--task {self.task!r} is none of auto, {', '.join(KINDS)}")
        if self.task == MLM and self.label:
            wrong.append("--label is given, but --task mlm takes no labels; leave one of them out")
        if self.max_length is not None and not 1 <= self.max_length <= MAX_LENGTH:
            wrong.append(f"--max-length {self.max_length} is not from 1 to {MAX_LENGTH}")
        if self.holdout is not None and not 0 <= self.holdout < 1:
            wrong.append(f"--holdout {self.holdout} is not a fraction from 0 to below 1")
        if self.limit is not None and self.limit < 1:
            wrong.append(f"--limit {self.limit} is not 1 or more")
        if self.epochs < 0:
            wrong.append(f"--epochs {self.epochs} is not 0 or more")
        if wrong:
            raise InputError("; ".join(wrong))

    @property
    def columns(self) -> Columns:
        """The columns asked for."""
        labels = (self.label,) if isinstance(self.label, str) else tuple(self.label or ())
        return Columns(self.text, self.text_pair, labels, self.task != MLM)
