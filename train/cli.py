"""The command `train`: parse, call one function, print. Nothing slow is imported before a command runs."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cache.errors import InputError, LengthwiseError

from .signals import Stopped

if TYPE_CHECKING:
    import torch

Command = Callable[..., Any]

# Spelled out, because the modules they come from load numpy; a test compares them.
STRATEGIES = ("smart", "tight", "budget", "dynamic", "fixed")
PRECISIONS = ("auto", "fp32", "bf16")
ON_NONFINITE = ("stop", "skip")
TASKS = ("classification", "regression", "multi-label", "token-classification", "mlm")


def main() -> None:
    """Run the command line and exit."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LengthwiseError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Stopped as error:
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone; Python would complain about it at exit
        sys.exit(141)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lengthwise", prog_name="train")
def cli() -> None:
    """Fine-tune an encoder on a cache that `prep build` made.

    \b
    Example:
      train run --cache cache/imdb
    """


def _folders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completion of an option that takes a folder, and of some also something else."""
    return [CompletionItem(incomplete, type="dir")]


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and nothing else on stdout.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print errors and warnings only.")


def settings_options(command: Command) -> Command:
    """Give a command a flag for each setting; the help of each is its type, unit and default."""
    for name, metavar, text in _TRACKERS:
        options: dict[str, Any] = {"is_flag": False, "flag_value": "auto", "default": None, "metavar": metavar}
        command = click.option("--" + name, help=text, **options)(command)
    for name, kind, text in reversed(_FLAGS):
        complete: dict[str, Any] = {"shell_complete": _folders} if name in ("cache", "model", "out") else {}
        command = click.option("--" + name, type=kind, default=None, help=text, **complete)(command)
    for flag, text in _SWITCHES:
        command = click.option(f"--{flag}/--no-{flag}", default=None, help=text)(command)
    return command


_SWITCHES = (
    ("compile", "Compile the model with torch.compile. Default: no."),
    ("pooled-only", "Compute the last layer for the pooled token alone; same logits. Default: where the model can."),
    ("cpu-kernels", "On a CPU, attention by blocks and dropout from raw bits. Default: yes, unless compiled."),
)

_TRACKERS = (
    ("wandb", "[PROJECT]", "Log to Weights & Biases; WANDB_MODE=offline keeps it on this machine. Default: no."),
    ("tensorboard", "[DIR]", "Write TensorBoard's curves to DIR/<run name>, or into the run folder. Default: no."),
)

_FLAGS: tuple[tuple[str, Any, str], ...] = (
    ("cache", str, "Folder of the cache, made by `prep build`."),
    ("task", click.Choice(TASKS), "mlm adapts the model to any cache's texts. Default: as the cache was built."),
    ("model", str, "Folder, Hub id, or minilm. Default: the model whose tokenizer made the cache."),
    ("out", str, "Run folder to make. Default: the first free runs/<cache name>-<n>."),
    ("epochs", int, "Passes over the training split. Default: 3."),
    ("max-steps", int, "Most optimizer steps, over all epochs."),
    ("lr", float, "Peak learning rate of AdamW. Default: 5e-5."),
    ("eps", float, "AdamW's epsilon. Default: 1e-8."),
    ("beta1", float, "AdamW's decay of the mean of gradients. Default: 0.9."),
    ("beta2", float, "AdamW's decay of the mean of squared gradients. Default: 0.999."),
    ("weight-decay", float, "Decoupled weight decay; biases and norms are exempt. Default: 0."),
    ("warmup-steps", int, "Steps over which the learning rate rises. Default: 0."),
    ("warmup-ratio", float, "The same as a share of all steps, 0 to 1."),
    ("clip", float, "Largest norm of the gradients; 0 clips nothing. Default: 1."),
    ("accumulation", int, "Micro-batches a step is computed in; they share its batch size. Default: 1."),
    ("precision", click.Choice(PRECISIONS), "Default: auto, which is bf16 where the hardware is built for it."),
    ("device", str, "auto, cpu, cuda, cuda:1, mps, … Default: auto."),
    ("mask-probability", float, "Share of the tokens to hide in training, for --task mlm. Default: 0.15."),
    ("seed", int, "Seed of the new head, of dropout, of which tokens are hidden. Default: 321."),
    ("strategy", click.Choice(STRATEGIES), "How batches are planned. Default: as the cache was built."),
    ("batch-size", int, "Rows of one optimizer step. Default: as the cache was built."),
    ("max-tokens", int, "Most padded tokens of one step, for --strategy budget."),
    ("plan-seed", int, "Seed of the plan. Default: as the cache was built."),
    ("pad-to-multiple-of", int, "Round batch widths up to a multiple, tokens. Default: 8 on CUDA, else 1."),
    ("eval-split", str, "Split to evaluate after each epoch, or none. Default: test where there is one."),
    ("eval-rows", int, "About how many rows of it to evaluate, always the same ones. Default: all."),
    ("eval-batch-size", int, "Rows of an evaluation batch. Default: 64."),
    ("save-every", int, "Steps between checkpoints. Default: one at the end of each epoch."),
    ("keep", int, "Checkpoints kept. Default: 2."),
    ("log-every", int, "Steps between records in metrics.jsonl. Default: 10."),
    ("on-nonfinite", click.Choice(ON_NONFINITE), "When a loss is not finite. Default: stop."),
)


@cli.command()
@settings_options
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    shell_complete=_folders,
    help="Go on with this run, exactly.",
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
    """Fine-tune a model on a cache, or go on with an interrupted run.

    With --task mlm it is adapted to the cache's texts: some tokens are hidden, and it learns to say what they were.

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
    from .settings import Settings, read_settings

    given = {name: value for name, value in flags.items() if value is not None}
    if config is not None:
        if resume is not None:
            raise InputError("--config and --resume are both given, expected one of them")
        given = read_settings(config) | given
    if resume is None and "cache" not in given:
        raise InputError("--cache is missing, expected a cache's folder; `prep list` shows the caches here")
    settings = Settings.from_json(given) if resume is None else None  # what is wrong shows before torch is loaded
    from . import run as runs

    say = _warn if as_json else click.echo
    folder = Path()
    if resume is not None:
        folder = runs.resume_run(resume, given, say, _warn, quiet)
    elif settings is not None:
        folder = runs.start_run(settings, say, _warn, quiet)
    if as_json:
        _print_json(runs.run_facts(folder))


@cli.command("eval")
@click.argument("model", shell_complete=_folders)
@click.option("--cache", required=True, shell_complete=_folders, help="Folder of the cache.")
@click.option("--split", default="test", show_default=True, help="Split of the cache.")
@click.option("--rows", "limit", type=click.IntRange(1), help="About how many rows, always the same.  [default: all]")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Rows of a batch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True)
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

    Accuracy, F1, Matthews correlation and confusion counts; for numbers the correlations of Pearson and Spearman; for
    sets of classes micro and macro F1; for tags of words precision, recall and F1 of entities; of a masked language
    model its perplexity, on any cache.

    \b
    Example:
      train eval runs/imdb-1 --cache cache/imdb --split test
    """
    from cache import open_cache
    from cache.common.progress import Progress

    from .metrics.evaluation import evaluate as score
    from .models.finished import finished_model, load_scored
    from .models.loading import Needs

    opened = open_cache(cache)
    rows = opened[split]
    with _on(device, precision) as (place, exact):
        needs = Needs(opened.manifest, opened.folder, rows.info.longest)
        scored = load_scored(finished_model(model), place, needs)
        with Progress(f"evaluating {split}", limit or len(rows), "rows", quiet=quiet, delay_s=1) as progress:
            scores = score(scored, rows, place, exact, batch_size, limit, progress=progress.update)
    assert scores is not None
    names = opened.manifest.task.label_names
    if as_json:
        _print_json({"model": model, "cache": cache, "split": split, "labels": names, **scores.to_json()})
        return
    if quiet:
        return
    click.echo(f"rows       {scores.rows:,} of split {split}")
    click.echo(f"loss       {scores.mean_loss:.4f}")
    for title, text in scores.lines(names):
        click.echo(f"{title:10} {text}" if title else f"  {text}")


@cli.command()
@click.argument("model", shell_complete=_folders)
@click.argument("texts", nargs=-1)
@click.option("--file", type=click.Path(path_type=Path), help="Read texts from a file, one a line.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Texts of a batch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, …")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
def predict(
    model: str, texts: tuple[str, ...], file: Path | None, batch_size: int, device: str, precision: str, as_json: bool
) -> None:
    """Label texts: from the arguments, from a file, or from standard input, one a line.

    A model that was trained on pairs takes both texts on one line, a tab between them; one that was trained on words
    gives each word of a text, cut at spaces, a tag.

    \b
    Examples:
      train predict runs/imdb-1 "A film one will not forget." "Two hours too long."
      train predict runs/imdb-1 --file reviews.txt --json
    """
    if texts and file is not None:
        raise InputError("texts and --file are both given, expected one of them")
    if not texts and file is None and sys.stdin.isatty():
        raise InputError('no text was given; pass texts, --file FILE, or pipe them in: echo "…" | train predict MODEL')
    from .predict import Predictor, read_file, read_texts

    given = list(texts) or (read_file(file) if file is not None else read_texts(sys.stdin.buffer.read(), "stdin"))
    with _on(device, precision) as (place, exact):
        predictor = Predictor(model, place, exact, batch_size)
        for result in predictor(given):
            click.echo(json.dumps(result.to_json(), ensure_ascii=False) if as_json else result.to_line())


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
@click.option("--html", type=click.Path(path_type=Path), help="Also draw the runs' curves, on one HTML page.")
def compare(runs: tuple[Path, ...], as_json: bool, html: Path | None) -> None:
    """Show runs side by side, as a table in Markdown.

    \b
    Examples:
      train compare runs/imdb-1 runs/imdb-2
      train compare runs/imdb-* --html runs.html
    """
    from .compare.table import comparison, read_result, to_json

    if html is not None:
        from .compare.figures import write_comparison

        size = write_comparison(runs, html)
        click.echo(f"wrote {html} ({size / 1e3:,.0f} kB)", err=True)
    results = [read_result(folder) for folder in runs]
    if as_json:
        _print_json({"runs": [to_json(result) for result in results]})
    else:
        click.echo(comparison(results))


def _print_json(content: dict[str, Any]) -> None:
    """One line of JSON, in which a number that is not finite is null."""
    from .run_folder.records import finite

    click.echo(json.dumps(finite(content), allow_nan=False))


def _warn(text: str) -> None:
    click.echo(text, err=True)


@contextlib.contextmanager
def _on(device: str, precision: str) -> Iterator[tuple["torch.device", str]]:
    from .device import pick_device, pick_precision

    place = pick_device(device)
    yield place, pick_precision(precision, place)
