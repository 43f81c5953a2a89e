"""Tokenizers of models and caches, parsed from bytes: `tokenizers` opens no file by itself."""

import hashlib
from pathlib import Path
from typing import Any

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CorruptCacheError, InputError

from .folder import MAX_TOKENIZER_BYTES, TOKENIZER
from .library_errors import library_errors


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


def cache_tokenizer(folder: Path, sha256: str) -> Any:
    """The tokenizer of a cache; None if the cache has none.

    Raises:
        CorruptCacheError: its bytes differ from their checksum.
    """
    path = folder / "tokenizer" / TOKENIZER
    with storage_errors(path, "read"), Folder.open(folder) as opened:
        name = f"tokenizer/{TOKENIZER}"
        if opened.stat(name) is None:
            return None
        data = opened.read(name, MAX_TOKENIZER_BYTES)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptCacheError(f"{path}: its bytes differ from their checksum; build the cache anew")
    return parse_tokenizer(data, path)
