"""A model's folder: configuration, weights and tokenizer, read through one handle and checked before use.

The folder may come from a stranger. Only safetensors weights are read, no link is followed but the Hub's own, and no
library opens a file here by itself: transformers gets a configuration and tensors, `tokenizers` gets bytes. Where
lengthwise.json lists files with their checksums, as in every model that `train run` writes, each is checked.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from safetensors import safe_open

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CorruptCacheError, InputError, MismatchError
from cache.format.checksummed_json import Fields, Json, parse_json
from cache.format.files import FileInfo, file_entry, open_file_info

from .library_errors import library_errors

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"

DETAILS = "lengthwise.json"
"""File in a trained model's folder: its files with their checksums, maximum length, task, pairs or not, and the cache
it was trained on."""

MAX_JSON_BYTES = 1 << 24
MAX_TOKENIZER_BYTES = 1 << 27
MAX_WEIGHT_FILES = 1024
MAX_LENGTH = 1 << 20
"""Most tokens per row that lengthwise.json may name."""


def parse_tokenizer(data: bytes, path: Path) -> Any:
    """The `tokenizers.Tokenizer` of a tokenizer.json, without padding.

    Raises:
        InputError: it cannot be used.
    """
    from tokenizers import Tokenizer

    with library_errors(InputError, f"{path}: not a tokenizer", "; restore the file"):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
    return tokenizer


Weights = dict[str, Any]
"""Name of a tensor to a slice of its file, from which the tensor is read when indexed."""


class ModelFolder:
    """A model's folder held open.

    Args:
        path: of the folder.

    Attributes:
        max_length: tokens per row that the model was trained with; None where lengthwise.json does not say so.
        pair: whether it was trained on pairs of texts; likewise.

    Raises:
        CorruptCacheError: lengthwise.json cannot be read.
        StorageError: the file system refuses, as for every method.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path, "read"):
            self.folder = Folder.open(path)
        self.files: dict[str, FileInfo] = {}
        details = Fields(self.read_json(DETAILS, CorruptCacheError) or {}, path / DETAILS)
        given, known = details.raw, (lambda value: type(value) is bool)
        self.max_length = details.integer("max_length", 1, MAX_LENGTH) if "max_length" in given else None
        self.pair: bool | None = details.check("pair", "true or false", known) if "pair" in given else None
        entries = [file_entry(item, "a name", bool) for item in details.objects("files")] if "files" in given else []
        self.files = {entry["file"]: FileInfo(**entry) for entry in entries}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()

    def holds(self, name: str) -> bool:
        """Whether there is something of that name."""
        with storage_errors(self.path / name, "read"):
            return self.folder.stat(name) is not None

    def read(self, name: str, limit: int) -> bytes | None:
        """The content of a file, checked; None if there is none.

        Raises:
            CorruptCacheError: it is a link or no regular file, longer than `limit` bytes, or differs from its checksum.
        """
        if not self.holds(name):
            self._check(name, None)
            return None
        with storage_errors(self.path / name, "read"), self._open(name) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise CorruptCacheError(f"{self.path / name}: larger than {limit:,} bytes, which no file of this kind is")
        self._check(name, FileInfo(name, len(data), hashlib.sha256(data).hexdigest()))
        return data

    def read_json(self, name: str, kind: type[Exception] = InputError) -> Json | None:
        """The object in a JSON file, checked; None if there is no such file."""
        data = self.read(name, MAX_JSON_BYTES)
        if data is None:
            return None
        try:
            raw = parse_json(data)
        except (ValueError, RecursionError) as error:
            raise kind(f"{self.path / name}: does not parse as JSON ({error}); restore the file") from None
        if not isinstance(raw, dict):
            raise kind(f"{self.path / name}: holds {raw!r:.80}, expected an object; restore the file")
        return raw

    @contextlib.contextmanager
    def weights(self) -> Iterator[Weights]:
        """The tensors in its safetensors files, read when indexed; the files stay open meanwhile.

        Raises:
            InputError: there are no such files, or what lies here is an adapter.
            CorruptCacheError: a file differs from its checksum.
            MismatchError: a file is damaged, or named otherwise than a plain name that ends in .safetensors.
        """
        tensors: Weights = {}
        with contextlib.ExitStack() as stack:
            for name in self._weight_files():
                with storage_errors(self.path / name, "read"):
                    file = stack.enter_context(self._open(name))
                    if name in self.files:
                        self._check(name, open_file_info(name, file))
                remedy = "; copy or download the file again"
                with library_errors(MismatchError, f"{self.path / name}: the weights cannot be loaded", remedy):
                    # By the open file, not by its path; "pread": a file cut short meanwhile is an error, not a SIGBUS.
                    opened: Any = safe_open(f"/dev/fd/{file.fileno()}", framework="pt", backend="pread")
                    found = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
                if not found.keys().isdisjoint(tensors):
                    raise MismatchError(f"{self.path / name}: holds a tensor that another file of the model holds too")
                tensors.update(found)
            yield tensors

    def _weight_files(self) -> list[str]:
        if self.holds(ADAPTER):
            raise InputError(
                f"{self.path} holds an adapter ({ADAPTER}), and adapters are not loaded; merge it into its model with "
                "merge_and_unload().save_pretrained(…), and pass that folder"
            )
        if self.holds(WEIGHTS):
            return [WEIGHTS]
        self._check(WEIGHTS, None)
        index = self.read_json(WEIGHTS_INDEX, MismatchError)
        if index is None:
            raise InputError(
                f"{self.path} holds no {WEIGHTS}; only safetensors weights are read, so convert others with "
                "AutoModel.from_pretrained(…).save_pretrained(…), or with AutoModelForSequenceClassification or the "
                "like, which keep the head"
            )
        mapping = index.get("weight_map")
        names: list[Any] = list(mapping.values()) if isinstance(mapping, dict) else [mapping]
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,255}\.safetensors", name, re.ASCII):
                raise MismatchError(
                    f"{self.path / WEIGHTS_INDEX}: names {name!r:.80} as a file of weights, expected a name in the "
                    "same folder that ends in .safetensors"
                )
        found = sorted(set(names))
        if not 0 < len(found) <= MAX_WEIGHT_FILES:
            raise MismatchError(
                f"{self.path / WEIGHTS_INDEX}: names {len(found):,} files, expected 1 to {MAX_WEIGHT_FILES:,}"
            )
        return found

    def digest(self) -> str:
        """sha256 over configuration and weights, as hex digits."""
        digest = hashlib.sha256()
        with storage_errors(self.path, "read"):
            for name in sorted([CONFIG, *(name for name in self.folder.names() if name.endswith(".safetensors"))]):
                with self._open(name) as file:
                    digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    def _open(self, name: str) -> BufferedReader:
        """Open a regular file; of links only those are followed by which the Hub's cache refers to its files."""
        try:
            link = os.readlink(name, dir_fd=self.folder.handle)  # relative to a handle
        except OSError:
            return self.folder.open_file(name)
        blob = re.fullmatch(r"\.\./\.\./blobs/([0-9a-f]{40,64})", link)
        if blob is None:
            return self.folder.open_file(name)  # which refuses it
        handle = os.open("../../blobs", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.folder.handle)
        with Folder(handle, self.path.parent.parent / "blobs") as blobs:
            return blobs.open_file(blob[1])

    def _check(self, name: str, found: FileInfo | None) -> None:
        """Compare a file with what lengthwise.json says of it."""
        listed = self.files.get(name)
        if listed not in (None, found):
            what = "is missing, though" if found is None else "differs from its checksum in"
            raise CorruptCacheError(
                f"{self.path / name}: {what} {DETAILS}{' lists it' if found is None else ''}; restore the folder or, "
                f'if the change is meant, remove "files" from {DETAILS}'
            )
