"""What the commands `prep` and `train` share: options, completion, sizes, JSON output, exit codes."""

import json
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from ..errors import InputError, LengthwiseError
from .output import guard_streams

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "color": False}
"""Settings of both command groups. Nothing is coloured, by no library either: `Output` would show the codes."""

BYTE_UNITS = {"b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}

quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print errors and warnings only.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else on stdout.")


def complete_folder(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of an argument or option that takes a folder."""
    return [CompletionItem(incomplete, type="dir")]


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON, in ASCII where stdout is not UTF-8; numbers that are not finite are an error."""
    click.echo(json.dumps(content, allow_nan=False, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))


def parse_bytes(size: str) -> int:
    """A size such as 512MiB or 2GB in bytes.

    Raises:
        InputError: `size` is not written like one.
    """
    number = size.lower().rstrip("bkmgi ")
    unit = size.lower()[len(number) :].strip() or "b"
    try:
        found = int(float(number) * BYTE_UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        found = 0
    if found < 1:
        raise InputError(f"--memory {size!r} is not a size; expected for example 512MiB or 16GiB")
    return found


def run_command(command: Callable[..., Any]) -> NoReturn:
    """Run a click command and exit.

    A typed error becomes a message on stderr and its own exit code, a refusal of the system exits with 1. Ctrl-C exits
    with 130, SIGTERM with 143, output without a reader with 141, as shells report processes that these signals end.
    """
    guard_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = command(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        code = 130
    except LengthwiseError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except MemoryError as error:
        click.echo(f"error: not enough memory {error}".rstrip(), err=True)
        code = 1
    except (OSError, ImportError) as error:  # what the system refuses, for example to load a library
        click.echo(f"error: {error}", err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
