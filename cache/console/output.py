"""stdout and stderr of the commands: control characters are escaped, failing streams are handled.

Labels, names, texts and paths may come from strangers. What they hold reaches a terminal as text only: everything a
command or its libraries print passes `Output`.
"""

import io
import os
import re
import sys
from typing import Any, TextIO

from ..errors import StorageError

_CONTROL = re.compile(r"(?!\A)\r(?!\Z)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_CURSOR_UP = re.compile(r"(\x1b\[A)+")
"""Written by tqdm on its own, between bars."""


def printable(text: str) -> str:
    """Text with its control characters, marks of writing direction and lone surrogates escaped.

    Newlines and tabs stay, as does a carriage return at either end, by which progress bars are drawn. The escapes are
    those of JSON, so that JSON stays JSON of the same content.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Output(io.TextIOBase):
    """A stream that escapes what is not printable, and what its encoding lacks.

    After a write that failed (no reader, a full disk, a lost terminal) it writes to the null device.

    Args:
        stream: where to write.
        required: whether a write that fails ends the command: by SystemExit 141 where the reader has gone, as shells
            report it, else by StorageError.
    """

    def __init__(self, stream: TextIO, required: bool) -> None:
        self.stream, self.required = stream, required

    @property
    def buffer(self) -> io.RawIOBase:
        return _Bytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding or "utf-8"  # a StringIO has none

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.stream.errors

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        escaped = text if _CURSOR_UP.fullmatch(text) else printable(text)
        escaped = escaped.encode(self.encoding, "backslashreplace").decode(self.encoding)
        if not text:  # click tries out what a stream takes, and swallows errors
            return 0
        try:
            self.stream.write(escaped)
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if self.required:
            if isinstance(error, BrokenPipeError):
                raise SystemExit(141)
            raise StorageError(f"stdout cannot be written: {error.strerror}; send it to a file on another disk")


class _Bytes(io.RawIOBase):
    """The binary side of an `Output`, for what is written as UTF-8."""

    def __init__(self, output: Output) -> None:
        self.output = output

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.output.write(bytes(data).decode("utf-8", "backslashreplace"))
        return len(data)

    def flush(self) -> None:
        self.output.flush()


def guard_streams() -> None:
    """Make stdout and stderr an `Output`. A stream that was closed is the null device."""
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:  # else the next file opened would be the stream
        pass
    os.close(handle)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    sys.stdout, sys.stderr = Output(sys.stdout, required=True), Output(sys.stderr, required=False)


def finish_without_stdout() -> None:
    """From here on a stdout that fails does not end the command."""
    if isinstance(sys.stdout, Output):
        sys.stdout.required = False
