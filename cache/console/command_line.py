"""What the commands `prep` and `train` share: options, completion, sizes, JSON output, exit codes."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from ..errors import LengthwiseError
from .output import guard_streams
from .progress import ABANDONED

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "color": False}
"""Settings of both command groups. Nothing is coloured, by no library either: `Output` would show the codes."""

quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print errors and warnings only.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else on stdout.")
quotes_option = click.option(
    "--quotes/--no-quotes",
    default=None,
    help="Whether quotes around cells may hold delimiters and line breaks, or are part of the text.  [default: yes; an "
    "error where that is unlikely]",
)


def complete_folder(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of an argument or option that takes a folder."""
    return [CompletionItem(incomplete, type="dir")]


cache_argument = click.argument("cache", shell_complete=complete_folder)


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON, in ASCII where stdout is not UTF-8; numbers that are not finite are an error."""
    click.echo(json.dumps(content, allow_nan=False, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))


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
    except (MemoryError, OSError, ImportError) as error:  # what the system refuses, for example to load a library
        reason = f"not enough memory {error}".rstrip() if isinstance(error, MemoryError) else error
        click.echo(f"error: {reason}", err=True)
        code = 1
    code = code if isinstance(code, int) else 0
    if any(thread.name == ABANDONED for thread in threading.enumerate()):
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code)  # it hangs in a library that would hold up the end of the process
    sys.exit(code)


def _terminate(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
