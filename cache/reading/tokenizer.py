"""Reading the tokenizer that a cache carries: the files that its manifest lists, and nothing else."""

import hashlib

from ..errors import CorruptCacheError
from ..format.manifest import TOKENIZER, TokenizerInfo
from ..format.safetensors_file import opened
from .location import CacheLocation


def read_tokenizer(location: CacheLocation, tokenizer: TokenizerInfo) -> dict[str, bytes]:
    """The content of each of a tokenizer's files, by name.

    Raises:
        CorruptCacheError: one is missing, or differs from its checksum.
        StorageError: the system does not let it be read.
    """
    found = {}
    for info in tokenizer.files:
        path = location.path_of(f"{TOKENIZER}/{info.file}")
        with opened(path, info.bytes) as file:
            found[info.file] = data = file.read()
        if hashlib.sha256(data).hexdigest() != info.sha256:
            raise CorruptCacheError(f"{path}: its bytes differ from their checksum")
    return found
