"""One split of an open cache: its rows; `plans` has its plans.

Shards are mapped when the cache is opened. Their offsets, edges apart, and their labels are read and checked when a
row of the shard is first wanted; ids are checked batch by batch, on their way to the model.
"""

import contextlib
import functools
import operator
from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np

from ..common.arrays import Array
from ..common.folder import Folder
from ..console.text import counted
from ..errors import CorruptCacheError, InputError
from ..format.files import listed_errors
from ..format.labels import fault, labelled
from ..format.manifest import Manifest, ShardInfo, shard_tensors
from ..format.safetensors_file import MappedFile
from .manifest import naming_remedy
from .plans import PlannedSplit
from .row import Row
from .tokenizer import StoredTokenizer


def expect_split(given: object) -> None:
    """Raise an `InputError` where something else than a split is given, such as the cache around it."""
    if not isinstance(given, SplitReader):
        raise InputError(f"{given!r} is not a split, expected one of a cache, such as open_cache(FOLDER)['train']")


class SplitReader(PlannedSplit):
    """One split of a cache. Rows are numbered 0..len-1 in ascending length.

    Attributes:
        folder, name, info, max_length, fingerprint: see `PlannedSplit`.
        task: what its labels mean.
        tokenizer: facts of the tokenizer that made its ids: vocabulary size, pad id, padding side.
        first_rows: the first row of each shard, then the number of rows.
        checked: by shard, which pieces of its ids were found to be in the vocabulary; see `gather.check_once`.
    """

    def __init__(self, files: Folder, manifest: Manifest, name: str, tokenizer: StoredTokenizer) -> None:
        super().__init__(files, manifest, name)
        self.task, self.tokenizer, self._tokenizer = manifest.task, manifest.tokenizer, tokenizer
        self.first_rows = np.cumsum([0, *(shard.rows for shard in self.info.shards)])
        self.checked: dict[int, Array] = {}
        self._shards = self._map()
        self._sound: set[int] = set()

    def __getitem__(self, row: SupportsIndex) -> Row:
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of a split of {counted(len(self), 'row')}")
        row %= len(self)
        index = int(self.shards_of(np.array(row)))
        tensors, local = self.shard(index), row - int(self.first_rows[index])
        begin, end = tensors["offsets"][local : local + 2]
        ids = tensors["input_ids"][begin:end]
        self.check_ids(ids)
        first = int(tensors["first_lengths"][local]) if self.task.pair else None
        label = None
        if self.task.labelled:
            label = tensors["labels"][slice(begin, end) if self.task.per_token else local].tolist()
        return Row(ids, label, int(tensors["source_rows"][local]), first)

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        size = f"{counted(len(self), 'row')}, {counted(self.info.tokens, 'token')}"
        return f"{type(self).__name__}({self.name!r}, {size})"

    @property
    def labels(self) -> Array:
        """Labels as stored: by task (rows,) int64 class ids, (rows,) float32, (rows, classes) uint8, or (tokens,) int8
        or int16, class ids and -100 of all tokens end to end.

        Raises:
            InputError: the cache holds no labels.
        """
        if not self.task.labelled:
            raise InputError(
                f"{self.folder} holds no labels, for it was built with --task mlm; build one that does, under "
                "another name: prep build SOURCE --label COLUMN --name OTHER"
            )
        return self._column("labels")

    @functools.cached_property
    def label_counts(self) -> Array | None:
        """(rows,) int64, labelled tokens of each row; None where a row has a label of its own."""
        if not self.task.per_token:
            return None
        counts = (labelled(tensors["labels"], tensors["offsets"]) for tensors in self.shards())
        return np.concatenate([np.zeros(0, np.int64), *counts])

    @property
    def first_lengths(self) -> Array:
        """(rows,) int32, in a cache of pairs each row's tokens of token type 0."""
        return self._column("first_lengths")

    @property
    def source_rows(self) -> Array:
        """(rows,) int64, each row's index in the source split."""
        return self._column("source_rows")

    def _column(self, name: str) -> Array:
        parts = [tensors[name] for tensors in self.shards()]
        return np.concatenate(parts) if len(parts) > 1 else parts[0] if parts else np.zeros(0, np.int64)

    def shards_of(self, rows: Array) -> Array:
        """The shards that hold rows of these numbers."""
        return np.searchsorted(self.first_rows, rows, side="right") - 1

    def shard(self, index: int) -> dict[str, Array]:
        """The tensors of a shard, its lengths and labels checked when first asked for."""
        if index not in self._sound:
            self.check_unchanged(index)
            with naming_remedy(self._built_from):
                self._check(index)
            self._sound.add(index)
        return self._shards[index].tensors

    def shards(self) -> Iterator[dict[str, Array]]:
        """The tensors of each shard, as `shard` gives them."""
        return map(self.shard, range(len(self._shards)))

    def _map(self) -> list[MappedFile]:
        """Map all shards at opening: they stay as they are though the cache be replaced later."""
        if not self.info.shards:
            return []
        with listed_errors(self.folder / self.name):
            folder = self._files.folder(self.name)
        with folder:
            return [self._map_shard(folder, info) for info in self.info.shards]

    def _map_shard(self, folder: Folder, info: ShardInfo) -> MappedFile:
        expected = shard_tensors(info.rows, info.tokens, self.tokenizer.vocab_size, self.task)
        shard = MappedFile(folder, info.file.removeprefix(f"{self.name}/"), expected, info.bytes)
        edges = shard.tensors["offsets"][[0, -1]].tolist()
        if edges != [0, info.tokens]:
            raise CorruptCacheError(
                f"{shard.path}: its offsets run from {edges[0]} to {edges[1]}, expected 0 to {info.tokens}"
            )
        return shard

    def _check(self, index: int) -> None:
        tensors, path = self._shards[index].tensors, self._shards[index].path
        first, last = (int(row) for row in self.first_rows[index : index + 2])
        lengths = self.lengths[first:last]
        if not np.array_equal(np.diff(tensors["offsets"]), lengths):
            raise CorruptCacheError(f"{path}: its rows do not have the lengths the manifest gives them")
        wrong = fault(self.task, tensors, lengths)
        if wrong:
            raise CorruptCacheError(f"{path}: {wrong}")

    def check_ids(self, ids: Array) -> None:
        """Refuse ids outside the vocabulary: a model would read past its embedding table.

        Raises:
            CorruptCacheError: there is one.
        """
        vocab_size = self.tokenizer.vocab_size
        if ids.size and int(ids.max()) >= vocab_size:
            with naming_remedy(self._built_from):
                raise CorruptCacheError(
                    f"{self.folder / self.name}: holds the id {int(ids.max())}, its vocabulary ends at "
                    f"{vocab_size - 1}; `prep verify {self.folder}` names the file"
                )

    def check_unchanged(self, index: int | None = None) -> None:
        """Check that no mapped shard, or not this one, was changed; see `MappedFile.check_unchanged`."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._files.folder(self.name) as folder:
            for shard in self._shards if index is None else [self._shards[index]]:
                shard.check_unchanged(folder)

    def check_rows(self) -> None:
        """Check the content of every row as far as its meaning goes: ids, labels, source rows.

        Raises:
            CorruptCacheError: an id is outside the vocabulary, or a source row is negative.
        """
        for info, tensors in zip(self.info.shards, self.shards(), strict=True):
            self.check_ids(tensors["input_ids"])
            if info.rows and int(tensors["source_rows"].min()) < 0:
                raise CorruptCacheError(f"{self.folder / info.file}: holds a negative source row")

    def tokenizer_files(self) -> dict[str, bytes]:
        """The files of the tokenizer that made the ids; see `Cache.tokenizer_files`."""
        with naming_remedy(self._built_from):
            return self._tokenizer.read()

    def load_tokenizer(self) -> Any:
        """The tokenizer that made the ids, as a `tokenizers.Tokenizer`; see `StoredTokenizer.load`."""
        with naming_remedy(self._built_from):
            return self._tokenizer.load()
