"""The errors lengthwise raises: one small tree, so that a caller can catch as much or as little as it wants.

Each message says what failed, the value seen, what was expected and what to do next. Only
`cache.console.command_line` turns these into text on a terminal; `exit_code` is what a command exits with.
"""


class LengthwiseError(Exception):
    """Any failure that lengthwise foresees. Its text is written for the user."""

    exit_code = 1


class InputError(LengthwiseError):
    """What was asked for, or the data given, is wrong: a setting, a column, a label, a name."""

    exit_code = 2


class CacheError(LengthwiseError):
    """A cache cannot be used as asked."""


class NotACacheError(CacheError):
    """The folder holds no complete cache."""

    exit_code = 2


class FormatVersionError(CacheError):
    """The cache was written in a format version that this release does not read."""

    exit_code = 2


class CorruptCacheError(CacheError):
    """The bytes of a cache are not what its writer wrote."""


class MismatchError(CacheError):
    """The cache is sound, but does not belong to what it is used with: a model, a plan, a checkpoint."""

    exit_code = 2


class StorageError(LengthwiseError):
    """The file system refused: disk full, no permission, no file handles."""
