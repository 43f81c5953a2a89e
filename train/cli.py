"""The command `train`: parse, call one function, print. Nothing slow is imported before a command runs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cache.console.command_line import CONTEXT, complete_folder, json_option, print_json, quiet_option, run_command
from cache.console.output import finish_without_stdout
from cache.console.text import sized
from cache.errors import InputError

from .declarations import declarations
from .libraries import load_libraries
from .predict_cli import predict
from .settings import PRECISIONS, Settings
from .settings_file import TRAINER_NAMES, read_settings

if TYPE_CHECKING:
    from cache import Split

    from .metrics.base import Scores

Command = Callable[..., Any]


def main() -> NoReturn:
    """Run the command line and exit."""
    run_command(cli)


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="lengthwise", prog_name="train")
def cli() -> None:
    """Fine-tune an encoder on a cache that `prep build` made.

    \b
    Example:
      train run --cache cache/imdb
    """


class RunCommand(click.Command):
    """A command that answers an option by the Trainer's name with the name it has here."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As for every command."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            given = error.option_name
            name = TRAINER_NAMES.get(given.lstrip("-").replace("-", "_"))
            if name is None:
                raise
            raise click.UsageError(f"No such option {given!r}, which is {name} here.", ctx) from None


def settings_options(command: Command) -> Command:
    """Give a command a flag for each setting."""
    for item in reversed(list(declarations(Settings))):
        name, options = item.flag, dict[str, Any](default=None, help=item.help, metavar=item.metavar)
        if item.kind is bool:
            name += f"/{item.off or '--no-' + item.flag[2:]}"
        else:
            options["type"] = click.Choice(item.choices) if item.choices else item.kind
        if item.bare is not None:
            options |= {"is_flag": False, "flag_value": item.bare}
        if item.folder:
            options["shell_complete"] = complete_folder
        command = click.option(name, **options)(command)
    return command


@cli.command(cls=RunCommand)
@settings_options
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    shell_complete=complete_folder,
    help="Resume this run, exactly where it stopped.",
)
@quiet_option
@json_option
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take settings from a .toml or .json file, or from a run's settings.json; flags go on top.",
)
def run(resume: Path | None, quiet: bool, as_json: bool, config: Path | None, **flags: Any) -> None:
    """Fine-tune a model on a cache, or resume an interrupted run.

    With --task mlm the model is adapted to the cache's texts: it learns to predict masked tokens.

    \b
    Examples:
      train run --cache cache/imdb
      train run --cache cache/imdb --task mlm --out runs/adapted
      train run --cache cache/imdb --model runs/adapted/model
      train run --cache cache/imdb --model minilm --epochs 1 --lr 1e-4 --strategy tight
      train run --resume runs/imdb-1
      train run --config runs/imdb-1/settings.json --seed 1
      train run --cache cache/imdb --tensorboard --wandb my-project
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if config is not None:
        if resume is not None:
            raise InputError("--config and --resume are both given, expected one of them")
        given = read_settings(config) | given
    if resume is None and "cache" not in given:
        raise InputError("--cache is missing, expected a cache's folder; `prep list` shows the caches here")
    if resume is None:
        settings = Settings.from_json(given)  # what is wrong shows before torch is loaded
    load_libraries(quiet)
    from . import run as runs
    from .run_folder.records import finite
    from .runtime.launch import launched_ranks

    finish_without_stdout()
    log = _warn if as_json else click.echo
    if resume is None:
        folder = runs.start_run(settings, log, _warn, quiet)
    else:
        folder = runs.resume_run(resume, given, log, _warn, quiet)
    if as_json and launched_ranks().first:
        print_json(finite(runs.run_facts(folder)))


@cli.command("eval")
@click.argument("model", shell_complete=complete_folder)
@click.option("--cache", required=True, shell_complete=complete_folder, help="Folder or URL of the cache.")
@click.option("--split", default="test", show_default=True, help="Split of the cache.")
@click.option(
    "--rows",
    "limit",
    type=click.IntRange(1),
    help="Number of rows, drawn at random and always the same.  [default: all]",
)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Rows of a batch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="auto: fp32 for a run that was trained in it, else bf16 where the hardware computes it natively, else fp32.",
)
@quiet_option
@json_option
def evaluate(
    model: str,
    cache: str,
    split: str,
    limit: int | None,
    batch_size: int,
    device: str,
    precision: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Score a run, a model folder or a Hub model on a split.

    For classes accuracy, F1, Matthews correlation and confusion counts; for regression the Pearson and Spearman
    correlations; for multi-label micro and macro F1; for tagged words precision, recall and F1 of entities, or the
    scores of classes where the tags mark none; for a masked language model its perplexity, on any cache. The cache may
    have some of the model's classes, in any order: they are matched by name, and a prediction of a class that the cache
    lacks is wrong.

    \b
    Example:
      train eval runs/imdb-1 --cache cache/imdb --split test
    """
    from cache import open_cache
    from cache.console.progress import Progress

    opened = open_cache(cache, quiet=quiet)
    rows = opened[split]
    load_libraries(quiet)
    from .metrics.evaluation import evaluate as score
    from .models.classes import scored_classes
    from .models.fit import CacheRequirements
    from .models.trained import load_for_evaluation
    from .run_folder.export import evaluated_precision, trained_model_folder
    from .run_folder.records import finite
    from .runtime.device import pick_device, pick_precision

    on = pick_device(device)
    resolved = pick_precision(evaluated_precision(model, precision), on)
    required = CacheRequirements(opened, rows.info.longest)
    trained = load_for_evaluation(trained_model_folder(model), on, required)
    with Progress(f"evaluating {split}", limit or len(rows), "rows", quiet=quiet, delay_s=1) as progress:
        scores = score(trained, rows, on, resolved, batch_size, limit, progress=progress.update)
    assert scores is not None
    if not scores.targets:
        _warn("warning: nothing is to be predicted in these rows: no word has a tag, or no token was masked")
    elif not math.isfinite(scores.mean_loss):
        _warn("warning: the loss is not finite: some of the model's outputs are no numbers, so its scores mean nothing")
    names = scored_classes(trained.config, rows.task)
    if as_json:
        facts = {"model": model, "cache": cache, "split": split, "labels": names, **scores.to_json()}
        print_json(finite(facts))
    elif not quiet:
        _print_scores(scores, rows, names)


def _print_scores(scores: "Scores", rows: "Split", names: tuple[str, ...]) -> None:
    """Print what a model of the classes `names` did on a split."""
    click.echo(f"rows       {scores.rows:,} of split {rows.name}")
    click.echo(f"loss       {scores.mean_loss:.4f}")
    if names != rows.task.label_names:
        click.echo(f"classes    {len(rows.task.label_names):,} of the model's {len(names):,}, matched by name")
    for title, text in scores.lines(names):
        click.echo(f"{title:10} {text}" if title else f"  {text}")


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
@click.option("--html", type=click.Path(path_type=Path), help="Also draw the runs' curves, on one HTML page.")
def compare(runs: tuple[Path, ...], as_json: bool, html: Path | None) -> None:
    """Print runs side by side, as a table in Markdown, and the means of those that differ only by seed. What cannot be
    read as a run is left out with a warning.

    \b
    Examples:
      train compare runs/imdb-1 runs/imdb-2
      train compare runs/imdb-* --html runs.html
    """
    from .compare.results import read_results, to_json
    from .compare.table import comparison, groups_to_json
    from .run_folder.records import finite

    results = read_results(runs, _warn)
    if html is not None:
        from .compare.figures import write_comparison

        size = write_comparison(results, html)
        click.echo(f"wrote {html} ({sized(size)})", err=True)
    if as_json:
        print_json(finite({"runs": [to_json(result) for result in results], "groups": groups_to_json(results)}))
    else:
        click.echo(comparison(results))


def _warn(text: str) -> None:
    click.echo(text, err=True)


cli.add_command(predict)
