"""The command `prep`: parse, call one function, print. Only click is imported before a command runs."""

import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.shell_completion import CompletionItem

from cache.console.command_line import (
    CONTEXT,
    cache_argument,
    complete_folder,
    json_option,
    print_json,
    quiet_option,
    quotes_option,
    run_command,
)
from cache.console.progress import ConsoleProgress, clock
from cache.console.sizes import parse_bytes
from cache.console.text import counted
from cache.errors import InputError
from cache.plans.spec import STRATEGIES, PlanSpec

from .address_space import check_address_space
from .choices import ENGINES, EXECUTORS, LONG_TEXTS, MISSING, TASKS, TRUNCATE
from .inspect_cli import info, list_caches, print_cache, report, show, verify
from .sharing_cli import gc, pull, push

if TYPE_CHECKING:
    from .build import BuildResult


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="lengthwise", prog_name="prep")
def cli() -> None:
    """Turn a corpus into a cache: tokenized once, without padding, sorted by length, its batches planned ahead.

    \b
    Example:
      prep build imdb
      prep info cache/imdb
      train run --cache cache/imdb
    """


def _choice(flag: str, values: Sequence[str], default: str, text: str) -> Callable[[Any], Any]:
    """An option that takes one of some values; `text` is its help."""
    return click.option(flag, type=click.Choice(values), default=default, show_default=True, help=text)


def plan_options(command: Any) -> Any:
    """The options that determine a plan."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="Seed of the plan."),
        click.option("--epochs", default=3, show_default=True, help="Epochs to plan ahead."),
        click.option("--max-tokens", type=int, help="Most padded tokens of a batch (strategy budget)."),
        click.option("--batch-size", type=int, help="Rows of a batch, over all ranks.  [default: 16]"),
        _choice("--strategy", STRATEGIES, "smart", "How to make batches."),
    ):
        command = option(command)
    return command


def _sources(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of a source: presets with their descriptions, else files and folders."""
    from .corpus.presets import PRESETS

    found = [CompletionItem(name, help=preset.about) for name, preset in PRESETS.items() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


@cli.command()
@click.argument("source", nargs=-1, required=True, metavar="SOURCE...", shell_complete=_sources)
@click.option("--name", help="Name of the cache.  [default: the source's]")
@click.option(
    "--out",
    default="cache",
    show_default=True,
    shell_complete=complete_folder,
    help="Folder of the caches; a URL such as s3://bucket/caches is pushed to.",
)
@click.option("--delimiter", help="What separates the cells of csv and text files.  [default: as their names say]")
@quotes_option
@_choice("--missing", MISSING, "error", "What becomes of rows whose text or label is missing or empty.")
@click.option("--text", help="Column of the text.  [default: text, review, sentence, …]")
@click.option("--text-pair", help="Column of a second text, for pairs.  [default: sentence2, hypothesis, …]")
@click.option(
    "--label", multiple=True, help="Column of the label; repeated, a column per class.  [default: label, class, …]"
)
@_choice("--task", TASKS, "auto", "What the labels are; mlm takes none.")
@click.option("--tokenizer", help="Hub id, folder, or minilm.  [default: bert-base-uncased]")
@_choice("--engine", ENGINES, "auto", "Library that tokenizes; the fast ones are checked on every build.")
@click.option("--max-length", type=int, help="Truncate rows to this many tokens.  [default: the preset's, else ≤ 512]")
@_choice(
    "--long-texts",
    LONG_TEXTS,
    TRUNCATE,
    "What becomes of longer texts; chunk, for --task mlm, cuts them from their beginning on into several rows.",
)
@click.option("--holdout", type=float, help="Fraction to hold out as test where train is the only split.")
@click.option(
    "--validation",
    type=float,
    default=0.0,
    help="Fraction of split train to hold out as validation, to choose a model by without looking at test.",
)
@click.option("--limit", type=int, help="Take at most this many rows of each split, drawn at random.")
@plan_options
@click.option("--memory", default="1GiB", show_default=True, help="About how much memory the build may take.")
@_choice("--executor", EXECUTORS, "local", "Where to encode: here, or on the Ray cluster of RAY_ADDRESS.")
@click.option("--force", is_flag=True, help="Replace a different cache of the same name.")
@quiet_option
@json_option
def build(source: tuple[str, ...], quiet: bool, as_json: bool, memory: str, **options: Any) -> None:
    """Build the cache of SOURCE: a preset, a Hub dataset id, files (csv, tsv, jsonl, json, parquet, conll, conllu;
    packed as .gz, .zst, .bz2 or .zip; txt with a text per line for --task mlm) or globs of them, perhaps as SPLIT=FILE,
    - for JSON lines from stdin, or a folder: of such files, of split/label/*.txt, or as datasets' save_to_disk writes
    it. Files, folders and globs may be URLs (s3, gs, az, abfs, hf, file).

    \b
    Examples:
      prep build imdb
      prep build reviews.csv --text review --label stars --holdout 0.1
      prep build train=a.csv test=b.csv --name reviews
      prep build 'data/*.parquet'
      prep build s3://bucket/reviews --out s3://bucket/caches
      prep build stanfordnlp/sst2 --tokenizer roberta-base --max-length 128
      prep build pairs.jsonl --text premise --text-pair hypothesis
      prep build sentences.jsonl --text tokens --label ner_tags
      prep build comments.csv --label toxic --label insult --label threat
      prep build saved_dataset --tokenizer bert-base-cased
      prep build notes.txt --task mlm --long-texts chunk
    """
    check_address_space()

    from .build import build as build_cache
    from .inspect.summary import build_facts
    from .settings import BuildSettings

    started = time.monotonic()
    settings = BuildSettings(source[0] if len(source) == 1 else source, memory_bytes=parse_bytes(memory), **options)
    result = build_cache(settings, ConsoleProgress(quiet))
    if as_json:
        print_json(build_facts(result, time.monotonic() - started))
    elif not quiet:
        _print_built(result, settings.plan, clock(time.monotonic() - started))


def _print_built(result: "BuildResult", spec: "PlanSpec", took: str) -> None:
    if result.up_to_date:
        plans = f", {counted(result.planned, 'epoch')} of {spec.id} planned" if result.planned else ""
        click.echo(f"{result.place} is up to date{plans}")
    else:
        print_cache(result.cache)
        click.echo(f"\nbuilt {result.place} in {took}")
    place = shlex.quote(result.place)
    if "train" not in result.cache:
        click.echo(f"next: train eval MODEL --cache {place} --split {next(iter(result.cache))}")
        click.echo("no split is called train, as train run needs it; to name splits: prep build train=FILE test=FILE")
        return
    default = result.cache.manifest.plan
    flags = f" {_plan_flags(spec, default.seed)}" if spec != default else ""
    click.echo(f"next: train run --cache {place}{flags}")


@cli.command()
@cache_argument
@click.option("--split", default="train", show_default=True, help="Split to plan.")
@plan_options
@quiet_option
@json_option
def plan(cache: str, split: str, epochs: int, quiet: bool, as_json: bool, **options: Any) -> None:
    """Plan batches for CACHE, and keep them in it.

    What models learned by smart, tight and budget batches could not be told from random order (dynamic, fixed), within
    0.3 to 1.3 points of accuracy (docs/benchmarks.md).

    \b
    Examples:
      prep plan cache/imdb --strategy tight --batch-size 32
      prep plan cache/imdb --strategy budget --max-tokens 8192 --epochs 5
    """
    from cache import open_cache

    from .inspect.summary import format_token_table, plan_facts, plan_rows

    spec = PlanSpec.of(**options)
    if epochs < 1:
        raise InputError(f"--epochs {epochs} is not 1 or more")
    rows = open_cache(cache)[split]
    with ConsoleProgress(quiet).bar("planning", epochs, "epochs") as bar:
        there, added = rows.keep_plan(spec, epochs, lambda _: bar.update(1))
    if as_json:
        print_json({"folder": cache, "split": split, "planned_epochs": added, **plan_facts(rows, spec)})
    if quiet or as_json:
        return
    click.echo(format_token_table(plan_rows(rows, spec)))
    click.echo(f"\n{cache}: {counted(added, 'epoch')} of {spec.id} planned for {split!r}, {there} were there")
    if split == "train":
        click.echo(f"next: train run --cache {shlex.quote(cache)} {_plan_flags(spec, rows.default_spec().seed)}")


def _plan_flags(spec: "PlanSpec", default_seed: int) -> str:
    """The flags with which `train run` takes this plan."""
    size = f"--max-tokens {spec.max_tokens}" if spec.max_tokens else f"--batch-size {spec.batch_size}"
    seed = f" --plan-seed {spec.seed}" if spec.seed != default_seed else ""
    return f"--strategy {spec.strategy} {size}{seed}"


for _command in (info, show, report, verify, list_caches, push, pull, gc):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line and exit."""
    run_command(cli)
