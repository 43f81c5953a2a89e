"""What a library raises for a stranger's file, as one typed error."""

import contextlib
from collections.abc import Iterator

from cache.common.panics import panics_as_errors
from cache.errors import LengthwiseError

from ..runtime import device as devices


@contextlib.contextmanager
def library_errors(kind: type[LengthwiseError], what: str, remedy: str = "") -> Iterator[None]:
    """Turn any error of a library into one of ours; a lack of memory becomes a MemoryError.

    Args:
        kind: of the error.
        what: failed, the beginning of its message.
        remedy: the end of its message.
    """
    try:
        with panics_as_errors():
            yield
    except LengthwiseError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if devices.is_out_of_memory(error):
            raise MemoryError(f"({reason:.300}); a smaller --batch-size takes less") from error
        raise kind(f"{what} ({reason:.300}){remedy}") from error
