"""The tokenizer that a cache carries: the files that its manifest lists, and nothing else."""

import contextlib
import hashlib
import os
from typing import Any

from ..common.folder import Folder
from ..common.panics import panics_as_errors
from ..errors import CorruptCacheError
from ..format.files import open_listed
from ..format.manifest import TOKENIZER, TokenizerInfo


class StoredTokenizer:
    """The files of a cache's tokenizer, held open: they can be read after the cache was replaced.

    Raises:
        CorruptCacheError: a file is missing, or of another size.
        StorageError: the system does not let it be read.
    """

    def __init__(self, cache: Folder, info: TokenizerInfo) -> None:
        self.folder = cache.path / TOKENIZER
        self._open = contextlib.ExitStack()
        self._files = [
            (file, self._open.enter_context(open_listed(cache, f"{TOKENIZER}/{file.file}", file.bytes)))
            for file in info.files
        ]

    def __del__(self) -> None:
        self._open.close()

    def read(self) -> dict[str, bytes]:
        """The content of each file, by name.

        Raises:
            CorruptCacheError: a file differs from its checksum.
        """
        found = {}
        for info, file in self._files:
            found[info.file] = data = os.pread(file.fileno(), info.bytes, 0)
            if hashlib.sha256(data).hexdigest() != info.sha256:
                raise CorruptCacheError(f"{self.folder / info.file}: its bytes differ from their checksum")
        return found

    def load(self) -> Any:
        """Its tokenizer.json as a `tokenizers.Tokenizer`.

        Raises:
            CorruptCacheError: a file differs from its checksum, or is not a tokenizer.
        """
        from tokenizers import Tokenizer

        data = self.read()["tokenizer.json"]
        try:
            with panics_as_errors():
                return Tokenizer.from_buffer(data)
        except Exception as error:  # noqa: BLE001  # the library raises bare ones
            raise CorruptCacheError(f"{self.folder / 'tokenizer.json'}: not a tokenizer ({error!s:.300})") from None
