"""The command `train predict`: texts from the arguments, standard input or a file, and their labels."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.common.table_files import Cells
from cache.console.command_line import complete_folder, print_json, quiet_option, quotes_option
from cache.console.progress import ConsoleProgress
from cache.errors import InputError

from .libraries import load_libraries
from .settings import PRECISIONS

if TYPE_CHECKING:
    from .predict import Predictor


@click.command()
@click.argument("model", shell_complete=complete_folder)
@click.argument("texts", nargs=-1)
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    help="Read texts from a file, one per line; with --out from a csv, tsv, jsonl, parquet or txt file.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the rows of --file and their predictions to a csv, tsv, jsonl or parquet file.",
)
@click.option("--text", metavar="COLUMN", help="Column of the text.  [default: text, or the only one]")
@click.option("--text-pair", metavar="COLUMN", help="Column of the second text, for a model of pairs.")
@click.option("--delimiter", help="What separates the cells of a csv file.  [default: as its name says]")
@quotes_option
@click.option("--force", is_flag=True, help="Replace the file of --out.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Texts of a batch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@quiet_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines; with --out one object, a summary.")
def predict(
    model: str,
    texts: tuple[str, ...],
    file: Path | None,
    out: Path | None,
    text: str | None,
    text_pair: str | None,
    delimiter: str | None,
    quotes: bool | None,
    force: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Label texts: from the arguments, from a file, or from standard input, one per line.

    A model that was trained on pairs takes both texts on one line, separated by a tab; one that was trained on words
    gives each word of a text, split at spaces, a tag.

    With --out the rows of a file are written again, in order, each with its label and the probability of every class.

    \b
    Examples:
      train predict runs/imdb-1 "A film one will not forget." "Two hours too long."
      train predict runs/imdb-1 --file reviews.txt --json
      train predict runs/imdb-1 --file reviews.csv --text review --out labelled.csv
    """
    from .tables.reading import open_table, read_texts
    from .tables.writing import check_out

    if texts and file is not None:
        raise InputError("texts and --file are both given, expected one of them")
    if out is not None and file is not None:  # what is wrong with the files shows before torch is loaded
        check_out(out, file, force)
        table = open_table(file, Cells.typed(delimiter, quotes))
        columns = table.text_columns(text, text_pair)
        predictor = _predictor(model, quiet, **options)
        from .predict_file import predict_file

        done = predict_file(predictor, table, columns, out, ConsoleProgress(quiet))
        if as_json:
            print_json(done.to_json())
        elif not quiet:
            click.echo("\n".join(done.lines()))
        return
    cells = {"--delimiter": delimiter, "--quotes": quotes, "--no-quotes": quotes is False}
    of_rows = {"--text": text, "--text-pair": text_pair, **cells, "--force": force}
    _check_lines(file, {"--out": out, **of_rows})
    if not texts and file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError('no text was given; pass texts, --file FILE, or pipe them in: echo "…" | train predict MODEL')
    given = texts or read_texts(file)
    predictor = _predictor(model, quiet, **options)
    from .run_folder.records import finite

    for result in predictor(given):
        if as_json:
            print_json(finite(result.to_json()))
        elif not quiet:
            click.echo(result.to_line())


def _predictor(model: str, quiet: bool, batch_size: int, device: str, precision: str) -> "Predictor":
    load_libraries(quiet)
    from .predict import Predictor
    from .runtime.device import pick_device, pick_precision

    on = pick_device(device)
    return Predictor(model, on, pick_precision(precision, on), batch_size)


def _check_lines(file: Path | None, given: dict[str, object]) -> None:
    """Where lines of text are read, refuse a file of rows and the options that go with one."""
    from .tables.reading import TEXT, format_of

    if flags := [flag for flag, value in given.items() if value]:
        others = "--file" if flags[0] == "--out" else "--file and --out"
        raise InputError(f"{flags[0]} goes with {others}; pass {'--out' if file else '--file'} FILE too")
    if file is None:
        return
    if file.suffix.lower() == ".gz":
        raise InputError(
            f"--file {file} is packed; pass --out with a file to write its rows to, such as --out out.csv, or unpack "
            f"it: gzip -dc {shlex.quote(str(file))} | train predict MODEL"
        )
    if (kind := format_of(file)) not in (None, TEXT):
        raise InputError(
            f"--file {file} is {kind}, a file of rows; pass --out with a file to write them to, such as --out out.csv"
        )
