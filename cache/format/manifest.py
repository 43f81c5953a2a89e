"""The cache format, version 1: the manifest's fields, its file names, its fingerprint.

    cache/imdb/
      manifest.json                    written last; no manifest = no cache
      tokenizer/                       tokenizer.json and its config
      train/shard-00000.safetensors …
      train/plans/<plan id>/plan.json, epoch-0000.safetensors …

A manifest is JSON in one canonical layout, and ends with the sha256 of everything before it: a single flipped
byte is noticed at open. It is parsed as if a stranger had written it, with every count bounded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import FormatVersionError, InputError
from ..plans.spec import PlanSpec
from .checksummed_json import MAX_COUNT, NAME_PATTERN, Fields, Json, seal, unseal
from .files import FileInfo, file_entry
from .tasks import CLASSIFICATION, KINDS, MAX_MULTI_LABELS, MAX_TOKEN_LABELS, MLM, TOKENS, Task

FORMAT = "lengthwise-cache"
VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
MISSING_ROWS = "missing_rows"
"""Key of a source, there if rows were left out that have no text or label: split to how many."""
LONG_TEXTS = "long_texts"
"""Key of a source, there if texts longer than the max length are several rows."""

MAX_MANIFEST_BYTES = 32 * 1024 * 1024
MAX_TOKENIZER_BYTES = 256 * 1024 * 1024
"""Most bytes of a file of the tokenizer, all of which are read at once."""
MAX_LENGTH = 1 << 20
"""Longest row a cache may hold, tokens."""

DEFAULT_SHARD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class ShardInfo(FileInfo):
    """One shard: `rows` rows of together `tokens` tokens."""

    rows: int
    tokens: int


@dataclass(frozen=True)
class SplitInfo:
    """One split. `length_histogram[n]` counts its rows of n tokens; the rows being sorted, it gives every length."""

    rows: int
    tokens: int
    shortest: int
    longest: int
    length_histogram: tuple[int, ...]
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer that made the ids.

    Attributes:
        name: what the user asked for: a Hub id, a folder's name, `minilm`.
        revision: commit on the Hub, or None.
        sha256: of its tokenizer.json.
        vocab_size: ids are 0..vocab_size-1, added tokens included.
        pad_id: the id that fills padded batches.
        padding_side: "right" or "left".
        files: what lies in `tokenizer/`.
    """

    name: str
    revision: str | None
    sha256: str
    vocab_size: int
    pad_id: int
    padding_side: str
    files: tuple[FileInfo, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything a cache says of itself; see the module's docstring and docs/format.md.

    Attributes:
        name: the cache's name.
        fingerprint: sha256 over what determines the content; see `fingerprint_of`.
        source: where the text came from: kind, name, revision or file hashes, columns, selection.
        max_length: texts were truncated to this many tokens, or cut into rows of so many.
        plan: settings of the plan the build was asked for, the default of `train run`.
        build: how it was built (engine, versions); not part of the fingerprint.
        created: UTC time, ISO 8601; not part of the fingerprint.
    """

    name: str
    fingerprint: str
    source: Json
    tokenizer: TokenizerInfo
    max_length: int
    task: Task
    plan: PlanSpec
    splits: dict[str, SplitInfo]
    build: Json = field(default_factory=dict)
    created: str = ""

    @property
    def files(self) -> list[FileInfo]:
        """Every file that it lists, by the paths below the cache: those of the tokenizer, the shards."""
        tokenizer = [replace(info, file=f"{TOKENIZER}/{info.file}") for info in self.tokenizer.files]
        return [*tokenizer, *(shard for split in self.splits.values() for shard in split.shards)]

    @property
    def chunked(self) -> bool:
        """Whether texts longer than the max length are several rows; else they were truncated."""
        return LONG_TEXTS in self.source

    def to_bytes(self) -> bytes:
        """The manifest's file content."""
        return seal({"format": FORMAT, "version": VERSION, **asdict(self)})

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> "Manifest":
        """Parse and check a manifest; `path` is named in errors.

        Raises:
            FormatVersionError: another version wrote it.
            CorruptCacheError: anything else is not as `to_bytes` writes it.
        """
        try:
            raw = unseal(data, path, FORMAT, VERSION)
        except FormatVersionError as error:
            raise FormatVersionError(
                f"{error}; build the cache anew with `prep build … --force`, or install the release that wrote it"
            ) from None
        fields = Fields(raw, path)
        splits = fields.check("splits", "an object of one split or more", lambda v: isinstance(v, dict) and bool(v))
        max_length = fields.integer("max_length", 1, MAX_LENGTH)
        return cls(
            name=fields.name("name"),
            fingerprint=fields.digest("fingerprint"),
            source=_source(Fields(fields.mapping("source"), path)),
            tokenizer=_tokenizer(Fields(fields.mapping("tokenizer"), path)),
            max_length=max_length,
            task=_task(Fields(fields.mapping("task"), path)),
            plan=_plan(fields),
            splits={name: _split(name, Fields(splits, path), max_length) for name in splits},
            build=fields.mapping("build"),
            created=fields.text("created"),
        )


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """The identity of a cache's content: sha256 over the source's hashes, columns and selection, the tokenizer's
    bytes, truncation, special tokens and the format version. Never over a live object or a time."""
    canonical = json.dumps({"format": FORMAT, "version": VERSION, **content}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def shard_name(split: str, index: int) -> str:
    """The path of a split's shard, relative to the cache."""
    return f"{split}/shard-{index:05d}.safetensors"


def shard_tensors(
    rows: int, tokens: int, vocab_size: int, task: Task = CLASSIFICATION
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a shard: name to (safetensors dtype, shape)."""
    labels: dict[str, tuple[str, tuple[int, ...]]] = {
        "classification": ("I64", (rows,)),
        "regression": ("F32", (rows,)),
        "multi-label": ("U8", (rows, len(task.label_names))),
        "token-classification": ("I8" if len(task.label_names) <= 1 << 7 else "I16", (tokens,)),
    }
    return {
        "input_ids": ("U16" if vocab_size <= 1 << 16 else "U32", (tokens,)),
        "offsets": ("I64", (rows + 1,)),
        "source_rows": ("I64", (rows,)),
        **({"labels": labels[task.kind]} if task.labelled else {}),
        **({"first_lengths": ("I32", (rows,))} if task.pair else {}),
    }


# --- the parts of a manifest


def _tokenizer(fields: Fields) -> TokenizerInfo:
    vocab_size = fields.integer("vocab_size", 1, 1 << 31)
    plain = NAME_PATTERN.fullmatch
    files = [
        FileInfo(**file_entry(item, "a file name inside the cache", lambda v: bool(plain(v)), MAX_TOKENIZER_BYTES))
        for item in fields.objects("files")
    ]
    digests = {info.file: info.sha256 for info in files}
    if len(digests) != len(files) or digests.get("tokenizer.json") != fields.digest("sha256"):
        raise fields.wrong("files", "each file once, tokenizer.json with the tokenizer's sha256 among them")
    return TokenizerInfo(
        name=fields.text("name"),
        revision=fields.check("revision", "text or null", lambda v: v is None or isinstance(v, str)),
        sha256=fields.digest("sha256"),
        vocab_size=vocab_size,
        pad_id=fields.integer("pad_id", 0, vocab_size - 1),
        padding_side=fields.check("padding_side", '"right" or "left"', lambda v: v in ("right", "left")),
        files=tuple(files),
    )


def _source(fields: Fields) -> Json:
    """Where the text came from: of what is read of it, the types."""
    kind = str(fields.raw.get("kind"))
    for key in {"hub": ("dataset", "revision"), "package": ("argument", "package")}.get(kind, ()):
        fields.text(key)
    if MISSING_ROWS in fields.raw:
        missing = Fields(fields.mapping(MISSING_ROWS), fields.path)
        for split in missing.raw:
            missing.integer(split, 1, MAX_COUNT)
    return fields.raw


def _task(fields: Fields) -> Task:
    kind = fields.check("kind", f"one of {', '.join(KINDS)}", lambda v: v in KINDS)
    names = fields.texts("label_names")
    if kind in ("regression", MLM) and names:
        raise fields.wrong("label_names", f"none, for {kind} has no classes")
    most = {"multi-label": MAX_MULTI_LABELS, TOKENS: MAX_TOKEN_LABELS}.get(kind)
    if most and not 0 < len(names) <= most:
        raise fields.wrong("label_names", f"1 to {most:,} classes")
    pair = fields.check("pair", "true or false", lambda v: type(v) is bool)
    if kind == TOKENS and pair:
        raise fields.wrong("pair", "false, for words come without a second text")
    return Task(kind, names, pair)


def _plan(fields: Fields) -> PlanSpec:
    try:
        return PlanSpec(**fields.mapping("plan"))
    except (InputError, TypeError):
        raise fields.wrong("plan", "settings of a plan") from None


def _split(name: str, parent: Fields, max_length: int) -> SplitInfo:
    if not NAME_PATTERN.fullmatch(name) or name == TOKENIZER:
        raise parent.wrong(name, "a split with a plain name")
    fields = Fields(parent.mapping(name), parent.path)
    rows, tokens = fields.integer("rows", 0, MAX_COUNT), fields.integer("tokens", 0, MAX_COUNT)
    counts = fields.check("length_histogram", "a list of counts", _is_histogram)
    lengths = [length for length, count in enumerate(counts) if count] or [0]
    shards = tuple(_shard(name, i, item) for i, item in enumerate(fields.objects("shards")))
    sums = (
        ("rows", sum(counts), rows),
        ("tokens", sum(length * count for length, count in enumerate(counts)), tokens),
        ("shortest", lengths[0], fields.integer("shortest", 0, max_length)),
        ("longest", lengths[-1], fields.integer("longest", 0, max_length)),
        ("rows", sum(shard.rows for shard in shards), rows),
        ("tokens", sum(shard.tokens for shard in shards), tokens),
    )
    for key, found, stated in sums:
        if found != stated:
            raise fields.wrong(key, f"{found:,} (from the histogram or the shards)")
    return SplitInfo(rows, tokens, lengths[0], lengths[-1], tuple(counts), shards)


def _is_histogram(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > MAX_LENGTH + 1:
        return False
    return all(type(count) is int and 0 <= count <= MAX_COUNT for count in value) and sum(value) <= MAX_COUNT


def _shard(split: str, index: int, fields: Fields) -> ShardInfo:
    name = shard_name(split, index)
    return ShardInfo(
        **file_entry(fields, "a file name inside the cache", lambda v: v == name),
        rows=fields.integer("rows", 0, MAX_COUNT),
        tokens=fields.integer("tokens", 0, MAX_COUNT),
    )
