"""What the commands print: control characters are escaped, streams that fail end a command or do not."""

import io
import json
import os
import signal
import subprocess
import sys
import unicodedata
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.console.command_line import run_command
from cache.console.output import Output, printable
from cache.errors import StorageError

from ..helpers import ROOT


def terminal(text: str, encoding: str = "utf-8") -> str:
    """What `Output` writes for a text."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    output = Output(stream, required=True)
    print(text, file=output, flush=True)
    return stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@given(st.text(st.characters(), max_size=50), st.sampled_from(["utf-8", "latin-1", "ascii", "cp437"]))
@settings(deadline=None)
def test_no_control_character_is_written_whatever_the_text_and_the_encoding(text: str, encoding: str) -> None:
    written = terminal(f"> {text} <", encoding)
    assert not {character for character in written if unicodedata.category(character) == "Cc"} - {"\n", "\t"}


@given(st.recursive(st.text(), st.lists, max_leaves=5))
@settings(deadline=None)
def test_escaped_json_says_the_same(content: object) -> None:
    assert json.loads(printable(json.dumps(content, ensure_ascii=False))) == content


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\u001b]0;title\u0007"),
        ("\x9b31m", r"\u009b31m"),
        ("moc.\u202eexe", r"moc.\u202eexe"),
        ("one\u2028two\x7f", r"one\u2028two\u007f"),
        ("lone \udcff", r"lone \udcff"),
        ("a\rb", r"a\u000db"),
        ("日本語 naïve\tÅ\n", "日本語 naïve\tÅ\n"),
        ("\r 50%|█████", "\r 50%|█████"),
    ],
)
def test_what_is_not_printable_is_escaped_and_nothing_else(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_the_encoding_lacks_is_escaped() -> None:
    assert terminal("naïve €", "ascii") == "na\\xefve \\u20ac\n"


def test_a_stream_in_memory_takes_what_is_printed() -> None:
    stream = io.StringIO()
    print("café", file=Output(stream, required=True))
    assert stream.getvalue() == "café\n"


def test_bytes_are_escaped_too() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    Output(stream, required=True).buffer.write(b"\xe9\x1b")
    stream.seek(0)
    assert stream.read() == r"\xe9\u001b"


@pytest.mark.parametrize(
    ("required", "raised"), [(True, pytest.raises(StorageError, match="No space left")), (False, nullcontext())]
)
def test_a_full_disk_is_an_error_where_the_stream_is_required(
    required: bool, raised: AbstractContextManager[Any]
) -> None:
    with Path("/dev/full").open("w") as stream:
        output = Output(stream, required)
        with raised:
            print("text", file=output, flush=True)
        print("more", file=output, flush=True)


def test_a_reader_that_has_gone_ends_the_command_as_its_signal_would() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, pytest.raises(SystemExit) as stopped:
        print("text", file=Output(stream, required=True), flush=True)
    assert stopped.value.code == 141


@pytest.mark.parametrize(
    "error", [OSError(28, "no space"), ImportError("libtorch.so: failed to map segment"), MemoryError("for 3 GB")]
)
def test_what_the_system_refuses_is_a_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(**_: Any) -> None:
        raise error

    for name in ("stdout", "stderr"):  # the command puts an `Output` there
        monkeypatch.setattr(sys, name, getattr(sys, name))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run_command(refused)
    signal.signal(signal.SIGTERM, handler)
    assert stopped.value.code == 1
    assert str(error) in capsys.readouterr().err


@pytest.mark.slow
def test_no_file_takes_the_descriptor_of_a_stream_that_was_closed(tmp_path: Path) -> None:
    code = (
        "import sys; from cache.console.output import guard_streams; guard_streams(); opened = open('file', 'w');"
        "print('text'); print('text', file=sys.stderr, flush=True); assert sys.stdin.read() == '';"
        "assert opened.fileno() > 2"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""
