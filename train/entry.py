"""Where the console script `train` begins: Ctrl-C ends it with one line, also while the command line is imported."""

import sys


def main() -> None:
    """Import and run the command line, and exit; with 130 where it is stopped before it handles that itself."""
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
