"""Opening and reading a cache: memory-mapped shards, rows, plans, padded batches.

    imdb = open_cache("cache/imdb")
    for batch in imdb["train"].batches(epoch=0): ...

Opening reads the manifest and looks at the files' sizes: milliseconds. A shard is mapped when a row of it is first
wanted, and its header, offsets and labels are checked then; `verify` reads every byte.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CorruptCacheError, InputError, NotACacheError, StorageError
from .format import (
    TOKENIZER,
    FileInfo,
    Manifest,
    SplitInfo,
    read_manifest,
    sha256_file,
    shard_tensors,
)
from .padding import gather_rows
from .planfiles import StoredPlan, store_plan, stored_plans
from .plans import EpochPlan, Ints, PlanSpec, plan_epoch
from .publishing import recover
from .tensors import MappedFile

if TYPE_CHECKING:
    import torch

    from .batches import Batches


@dataclass(frozen=True)
class Row:
    """One tokenized example.

    Attributes:
        input_ids: (length,) uint16 or uint32, special tokens included, no padding.
        label: its class id.
        source_row: its index in the source split.
    """

    input_ids: Ints
    label: int
    source_row: int


def open_cache(folder: str | Path, *, verify: bool = False) -> "Cache":
    """Open the cache in `folder`.

    Args:
        folder: for example "cache/imdb".
        verify: also check every byte against its checksum, as `prep verify` does.

    Raises:
        NotACacheError: the folder holds no cache.
        FormatVersionError: another version wrote it.
        CorruptCacheError: the manifest or a file's size is not as written, or with `verify` any byte.
    """
    path = Path(folder)
    try:
        manifest = read_manifest(path)
    except NotACacheError:
        if not recover(path):
            raise
        manifest = read_manifest(path)
    cache = Cache(path, manifest)
    if verify:
        for _ in cache.verify():
            pass
    return cache


class Cache(Mapping[str, "Split"]):
    """An open cache: a mapping from split name to `Split`.

    Attributes:
        folder: where it lies.
        manifest: everything it says of itself.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._splits = {name: Split(self, name, info) for name, info in manifest.splits.items()}
        for info in self._files():
            _check_size(folder, info)

    def __getitem__(self, split: str) -> "Split":
        if split not in self._splits:
            raise InputError(f"{self.folder} has no split {split!r}; it has {', '.join(self._splits) or 'none'}")
        return self._splits[split]

    def __contains__(self, split: object) -> bool:
        return split in self._splits

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name}: {len(split):,} rows" for name, split in self._splits.items())
        return f"Cache({str(self.folder)!r}, {splits})"

    @property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer that made the ids; `AutoTokenizer.from_pretrained` reads it."""
        return self.folder / TOKENIZER

    def _files(self) -> Iterator[FileInfo]:
        """Every file the manifest lists, relative to the cache."""
        for info in self.manifest.tokenizer.files:
            yield FileInfo(f"{TOKENIZER}/{info.file}", info.bytes, info.sha256)
        for split in self.manifest.splits.values():
            yield from split.shards

    def verify(self) -> Iterator[FileInfo]:
        """Check every byte of every file, plans included; yields each file once it is found sound.

        Raises:
            CorruptCacheError: a file is missing, of another size, or differs from its checksum.
        """
        plans = [(split, plan) for split in self.values() for plan in split.stored_plans().values()]
        files = list(self._files())
        for _, plan in plans:
            prefix = plan.folder.relative_to(self.folder).as_posix()
            files += [FileInfo(f"{prefix}/{info.file}", info.bytes, info.sha256) for info in plan.epochs]
        for info in files:
            _check_size(self.folder, info)
            if sha256_file(self.folder / info.file) != info.sha256:
                raise CorruptCacheError(
                    f"{self.folder / info.file}: its bytes differ from the checksum in the manifest; {self._remedy()}"
                )
            yield info
        for split in self.values():
            split.check_rows()
        for split, plan in plans:
            for epoch in range(len(plan.epochs)):
                plan.load(epoch, split.lengths, self.manifest.max_length)

    def _remedy(self) -> str:
        return f"build it anew: prep build {self.manifest.source.get('argument', '…')} --force"


def _check_size(folder: Path, info: FileInfo) -> None:
    path = folder / info.file
    try:
        found = path.stat().st_size
        inside = path.resolve().is_relative_to(folder.resolve())
    except OSError:
        raise CorruptCacheError(f"{path}: the file is missing, though the manifest lists it") from None
    if not inside:
        raise CorruptCacheError(f"{path}: is a link that leaves the cache")
    if found != info.bytes:
        raise CorruptCacheError(f"{path}: is {found:,} bytes, the manifest says {info.bytes:,}")


class Split:
    """One split of a cache. Rows are numbered 0..len-1 in ascending length.

    Attributes:
        cache: the cache it belongs to.
        name: "train", "test", …
        info: what the manifest says of it.
    """

    def __init__(self, cache: Cache, name: str, info: SplitInfo) -> None:
        self.cache, self.name, self.info = cache, name, info
        self.first_rows = np.cumsum([0, *(shard.rows for shard in info.shards)])
        self._shards: dict[int, MappedFile] = {}

    def __len__(self) -> int:
        return self.info.rows

    def __getitem__(self, row: int) -> Row:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a split of {len(self)} rows")
        row %= len(self)
        index = int(np.searchsorted(self.first_rows, row, side="right")) - 1
        tensors, local = self.shard(index), row - int(self.first_rows[index])
        begin, end = tensors["offsets"][local : local + 2]
        ids = tensors["input_ids"][begin:end]
        self.check_ids(ids)
        return Row(ids, int(tensors["labels"][local]), int(tensors["source_rows"][local]))

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} rows, {self.info.tokens:,} tokens)"

    @functools.cached_property
    def lengths(self) -> Ints:
        """(rows,) int32, tokens of each row, ascending."""
        histogram = np.array(self.info.length_histogram, np.int64)
        return np.repeat(np.arange(len(histogram), dtype=np.int32), histogram)

    @property
    def labels(self) -> Ints:
        """(rows,) int64, each row's class id."""
        return self._column("labels")

    @property
    def source_rows(self) -> Ints:
        """(rows,) int64, each row's index in the source split."""
        return self._column("source_rows")

    def _column(self, name: str) -> Ints:
        parts = [self.shard(index)[name] for index in range(len(self.info.shards))]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int64), *parts])

    def shard(self, index: int) -> dict[str, Ints]:
        """The tensors of a shard, mapped and checked when first asked for."""
        if index not in self._shards:
            self._shards[index] = self._map(index)
        return self._shards[index].tensors

    def _map(self, index: int) -> MappedFile:
        info = self.info.shards[index]
        path = self.cache.folder / info.file
        shard = MappedFile(path, shard_tensors(info.rows, info.tokens, self.cache.manifest.tokenizer.vocab_size))
        first = int(self.first_rows[index])
        lengths = np.diff(shard.tensors["offsets"])
        labels = shard.tensors["labels"]
        classes = len(self.cache.manifest.task.label_names)
        if shard.tensors["offsets"][0] != 0 or not np.array_equal(lengths, self.lengths[first : first + info.rows]):
            raise CorruptCacheError(f"{path}: its rows do not have the lengths the manifest gives them")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise CorruptCacheError(f"{path}: holds a label outside 0..{classes - 1}")
        return shard

    def check_ids(self, ids: Ints) -> None:
        """Refuse ids outside the vocabulary: a model would read past its embedding table.

        Raises:
            CorruptCacheError: there is one.
        """
        if ids.size and int(ids.max()) >= self.cache.manifest.tokenizer.vocab_size:
            raise CorruptCacheError(
                f"{self.cache.folder}: split {self.name!r} holds the id {int(ids.max())}, its vocabulary ends at "
                f"{self.cache.manifest.tokenizer.vocab_size - 1}; run `prep verify {self.cache.folder}`"
            )

    def check_unchanged(self) -> None:
        """Check that no mapped shard was changed under the mapping; see `MappedFile.check_unchanged`."""
        for shard in self._shards.values():
            shard.check_unchanged()

    def check_rows(self) -> None:
        """Check the content of every row as far as its meaning goes: ids, labels, source rows.

        Raises:
            CorruptCacheError: an id is outside the vocabulary, or a source row is negative.
        """
        for index, info in enumerate(self.info.shards):
            tensors = self.shard(index)
            self.check_ids(tensors["input_ids"])
            if info.rows and int(tensors["source_rows"].min()) < 0:
                raise CorruptCacheError(f"{self.cache.folder / info.file}: holds a negative source row")

    # --- plans

    def stored_plans(self) -> dict[PlanSpec, StoredPlan]:
        """The plans that lie beside the shards."""
        return stored_plans(self.cache.folder / self.name, self.cache.manifest.fingerprint, len(self))

    def default_spec(self) -> PlanSpec:
        """The plan settings the build was asked for."""
        return PlanSpec(**self.cache.manifest.plan)

    def plan(self, spec: PlanSpec, epoch: int) -> EpochPlan:
        """The plan of one epoch: read where it is stored, drawn where it is not. Both give the same batches."""
        stored = self.stored_plans().get(spec)
        if stored and epoch < len(stored.epochs):
            return stored.load(epoch, self.lengths, self.cache.manifest.max_length)
        return self.draw(spec, epoch)

    def draw(self, spec: PlanSpec, epoch: int) -> EpochPlan:
        """Draw the plan of one epoch, whether or not it is stored."""
        return plan_epoch(self.lengths, spec, epoch, self.cache.manifest.max_length)

    def keep_plan(
        self, spec: PlanSpec, epochs: int, progress: Callable[[int], Any] = lambda epoch: None
    ) -> tuple[int, int]:
        """Make sure that a plan of at least so many epochs is stored.

        Args:
            spec: its settings.
            epochs: how many epochs are wanted.
            progress: called with the number of each epoch before it is drawn.

        Returns:
            Epochs that were there, and epochs added.

        Raises:
            StorageError: the cache's folder cannot be written.
        """
        stored = self.stored_plans().get(spec)
        there = len(stored.epochs) if stored else 0

        def draw(epoch: int) -> EpochPlan:
            progress(epoch)
            return self.draw(spec, epoch)

        if there < epochs:
            folder = self.cache.folder / self.name
            store_plan(folder, self.cache.manifest.fingerprint, len(self), spec, epochs, draw)
        return there, max(0, epochs - there)

    def try_keep_plan(self, spec: PlanSpec, epochs: int) -> bool:
        """`keep_plan`, but False where the cache is read-only; its plans are then drawn in memory."""
        try:
            self.keep_plan(spec, epochs)
        except StorageError:
            return False
        return True

    # --- batches

    def padded(self, rows: Ints, lengths: Ints, width: int) -> tuple[Ints, Ints]:
        """Rows laid out as a rectangle, and their labels.

        Args:
            rows: (B,) row numbers, ascending.
            lengths: (B,) their lengths.
            width: W, at least the longest.

        Returns:
            (B, W) ids as stored, padded with the tokenizer's pad id; (B,) int64 labels.

        Raises:
            CorruptCacheError: an id is outside the vocabulary.
        """
        tokenizer = self.cache.manifest.tokenizer
        first = int(np.searchsorted(self.first_rows, rows[0], side="right")) - 1
        last = int(np.searchsorted(self.first_rows, rows[-1], side="right")) - 1
        parts = []
        for index in range(first, last + 1):
            base, end = self.first_rows[index : index + 2]
            chosen = slice(*np.searchsorted(rows, (base, end))) if first < last else slice(None)
            tensors, local = self.shard(index), rows[chosen] - base
            ids = gather_rows(
                tensors["input_ids"],
                tensors["offsets"][local],
                lengths[chosen],
                width,
                tokenizer.pad_id,
                tokenizer.padding_side == "left",
            )
            parts.append((ids, tensors["labels"][local]))
        ids, labels = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        self.check_ids(ids)
        return ids, labels

    def batches(
        self,
        epoch: int = 0,
        spec: PlanSpec | None = None,
        *,
        device: "str | torch.device" = "cpu",
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        start: int = 0,
        pad_to_multiple_of: int = 1,
        always_mask: bool = False,
    ) -> "Batches":
        """The padded batches of one epoch as tensors; `cache.batches.Batches` explains each option.

        Example:
            for batch in split.batches(epoch=0, spec=PlanSpec("tight", 32), device="cuda"):
                loss = model(**batch.model_inputs()).loss
        """
        from .batches import Batches

        return Batches(
            self,
            epoch,
            spec,
            device=device,
            rank=rank,
            world_size=world_size,
            accumulation=accumulation,
            start=start,
            pad_to_multiple_of=pad_to_multiple_of,
            always_mask=always_mask,
        )
