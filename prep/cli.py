"""The command `prep`: parse, call one function, print. Only click is imported before a command runs."""

import time
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.shell_completion import CompletionItem

from cache.common.command_line import (
    CONTEXT,
    complete_folder,
    json_option,
    print_json,
    quiet_option,
    run_command,
)
from cache.common.sizes import parse_bytes
from cache.format.tasks import KINDS
from cache.plans.spec import STRATEGIES, PlanSpec

from .sharing_cli import gc, pull, push
from .tokenization import ENGINES

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


def plan_options(command: Any) -> Any:
    """The options that determine a plan."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="Seed of the plan."),
        click.option("--epochs", default=3, show_default=True, help="Epochs to plan ahead."),
        click.option("--max-tokens", type=int, help="Most padded tokens of a batch (strategy budget)."),
        click.option("--batch-size", type=int, help="Rows of a batch, over all ranks.  [default: 16]"),
        click.option(
            "--strategy", type=click.Choice(STRATEGIES), default="smart", show_default=True, help="How to make batches."
        ),
    ):
        command = option(command)
    return command


def _sources(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of a source: presets with their descriptions, else files and folders."""
    from .sources.presets import PRESETS

    found = [CompletionItem(name, help=preset.about) for name, preset in PRESETS.items() if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


cache_argument = click.argument("cache", shell_complete=complete_folder)


@cli.command()
@click.argument("source", nargs=-1, required=True, metavar="SOURCE...", shell_complete=_sources)
@click.option("--name", help="Name of the cache.  [default: the source's]")
@click.option("--out", default="cache", show_default=True, shell_complete=complete_folder, help="Folder of the caches.")
@click.option("--delimiter", help="What separates the cells of csv and text files.  [default: as their names say]")
@click.option(
    "--missing",
    type=click.Choice(("error", "drop")),
    default="error",
    show_default=True,
    help="What becomes of rows whose text or label is missing or empty.",
)
@click.option("--text", help="Column of the text.  [default: text, review, sentence, …]")
@click.option("--text-pair", help="Column of a second text, for pairs.  [default: sentence2, hypothesis, …]")
@click.option(
    "--label", multiple=True, help="Column of the label; repeated, a column per class.  [default: label, class, …]"
)
@click.option(
    "--task",
    type=click.Choice(("auto", *KINDS)),
    default="auto",
    show_default=True,
    help="What the labels are; mlm takes none.",
)
@click.option("--tokenizer", help="Hub id, folder, or minilm.  [default: bert-base-uncased]")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="Library that tokenizes; the fast ones are checked on every build.",
)
@click.option("--max-length", type=int, help="Truncate rows to this many tokens.  [default: the preset's, else ≤ 512]")
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
@click.option(
    "--executor",
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="Where to encode: here, or on the Ray cluster of RAY_ADDRESS.",
)
@click.option("--force", is_flag=True, help="Replace a different cache of the same name.")
@quiet_option
@json_option
def build(source: tuple[str, ...], quiet: bool, as_json: bool, memory: str, **options: Any) -> None:
    """Build the cache of SOURCE: a preset, a Hub dataset id, files (csv, tsv, jsonl, json, parquet, conll; packed as
    .gz, .zst, .bz2 or .zip) or globs of them, perhaps as SPLIT=FILE, - for JSON lines from stdin, or a folder: of such
    files, of split/label/*.txt, or as datasets' save_to_disk writes it.

    \b
    Examples:
      prep build imdb
      prep build reviews.csv --text review --label stars --holdout 0.1
      prep build train=a.csv test=b.csv --name reviews
      prep build 'data/*.parquet'
      prep build stanfordnlp/sst2 --tokenizer roberta-base --max-length 128
      prep build pairs.jsonl --text premise --text-pair hypothesis
      prep build sentences.jsonl --text tokens --label ner_tags
      prep build comments.csv --label toxic --label insult --label threat
      prep build saved_dataset --tokenizer bert-base-cased
      prep build notes.jsonl --task mlm
    """
    from cache.common.progress import ConsoleProgress, clock

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
        plans = f", {result.planned} epochs of {spec.id} planned" if result.planned else ""
        click.echo(f"{result.cache.folder} is up to date{plans}")
    else:
        _print_cache(result.cache)
        click.echo(f"\nbuilt {result.cache.folder} in {took}")
    click.echo(f"next: train run --cache {result.cache.folder}")


@cli.command()
@cache_argument
@click.option("--split", default="train", show_default=True, help="Split to plan.")
@plan_options
@quiet_option
@json_option
def plan(cache: str, split: str, epochs: int, quiet: bool, as_json: bool, **options: Any) -> None:
    """Plan batches for CACHE, and keep them in it.

    \b
    Examples:
      prep plan cache/imdb --strategy tight --batch-size 32
      prep plan cache/imdb --strategy budget --max-tokens 8192 --epochs 5
    """
    from cache import open_cache
    from cache.common.progress import ConsoleProgress

    from .inspect.summary import TokenRow, format_token_table, plan_facts, token_table

    spec = PlanSpec.of(**options)
    rows = open_cache(cache)[split]
    with ConsoleProgress(quiet).bar("planning", epochs, "epochs") as bar:
        there, added = rows.keep_plan(spec, epochs, lambda _: bar.update(1))
    if as_json:
        print_json({"folder": cache, "split": split, "planned_epochs": added, **plan_facts(rows, spec)})
    if quiet or as_json:
        return
    table: list[TokenRow] = [row for row in token_table(rows) if row.spec == spec or row.spec.strategy == "fixed"]
    click.echo(format_token_table(table))
    click.echo(f"\n{cache}: {added} epochs of {spec.id} planned for {split!r}, {there} were there")
    click.echo(f"next: train run --cache {cache} {_plan_flags(spec)}")


def _plan_flags(spec: "PlanSpec") -> str:
    size = f"--max-tokens {spec.max_tokens}" if spec.max_tokens else f"--batch-size {spec.batch_size}"
    return f"--strategy {spec.strategy} {size}"


@cli.command()
@cache_argument
@click.option(
    "--model",
    shell_complete=complete_folder,
    help="Predict the memory of training this model on a CPU: folder, Hub id, or minilm.",
)
@click.option("--ranks", type=int, help="Predict how well so many ranks, the processes of one training, are used.")
@json_option
def info(cache: str, model: str | None, ranks: int | None, as_json: bool) -> None:
    """Print what CACHE holds, and what each way of batching it costs.

    \b
    Examples:
      prep info cache/imdb
      prep info cache/imdb --ranks 8
      prep info cache/imdb --model bert-base-uncased
    """
    from cache import open_cache

    from .inspect.memory import format_memory, memory_facts
    from .inspect.ranks import format_ranks, rank_facts
    from .inspect.summary import cache_facts

    opened = open_cache(cache)
    used = rank_facts(opened, ranks, model) if ranks is not None else None
    memory = memory_facts(opened, model) if model is not None else None
    if as_json:
        more = {"ranks": used, "memory": memory}
        print_json(cache_facts(opened) | {name: facts for name, facts in more.items() if facts})
        return
    _print_cache(opened)
    if used:
        click.echo(f"\n{format_ranks(used)}")
    if memory:
        click.echo(f"\n{format_memory(memory)}")


def _print_cache(cache: Any) -> None:
    from cache.common.progress import ConsoleProgress

    from .inspect.summary import first_split, format_splits, format_token_table, packed_row, table_specs, token_table
    from .sources.corpus import describe_missing, describe_source

    manifest = cache.manifest
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    click.echo(f"{manifest.name}  {describe_source(manifest.source)}, tokenizer {manifest.tokenizer.name}")
    click.echo(f"{size / 1e6:,.1f} MB in {cache.folder}, fingerprint {manifest.fingerprint[:12]}")
    click.echo(f"task {manifest.task.kind}{' of pairs' * manifest.task.pair}\n")
    click.echo(format_splits(cache))
    if missing := describe_missing(manifest.source):
        click.echo(missing)
    split = first_split(cache)
    with ConsoleProgress().bar("planning", len(table_specs(split)), "plans") as bar:
        rows = token_table(split, lambda: bar.update(1))
    click.echo(f"\nAn epoch of {split.name!r}, {split.info.tokens:,} real tokens:")
    click.echo(format_token_table([*rows, packed_row(rows)]))


@cli.command()
@cache_argument
@click.option("--split", default="train", show_default=True, help="Split to look at.")
@click.option("--rows", default=5, show_default=True, help="How many rows.")
@click.option("--seed", type=int, help="Seed of the choice of rows.")
@click.option("--special-tokens", is_flag=True, help="Show [CLS], [SEP] and their like.")
def show(cache: str, split: str, rows: int, seed: int | None, special_tokens: bool) -> None:
    """Print random rows of CACHE as text, with their labels.

    \b
    Example:
      prep show cache/imdb --rows 3
    """
    import shutil

    from cache import open_cache

    from .inspect.samples import format_sample, random_samples

    width = shutil.get_terminal_size().columns
    for sample in random_samples(open_cache(cache)[split], rows, seed, special_tokens):
        click.echo(format_sample(sample, width))


@cli.command()
@cache_argument
@click.option("--out", help="HTML file to write.  [default: <name of the cache>-report.html]")
@click.option("--png", help="Folder to write the pictures to as PNG files.")
@click.option("--split", help="Split to draw.  [default: train]")
@quiet_option
def report(cache: str, out: str | None, png: str | None, split: str | None, quiet: bool) -> None:
    """Draw CACHE: its lengths, its batches with their padding, what they cost, on one HTML page.

    \b
    Examples:
      prep report cache/imdb
      prep report cache/imdb --out imdb.html --png pictures
    """
    from pathlib import Path

    from cache import open_cache
    from cache.common.drawing import write_page, write_pngs

    from .inspect.report import make_report, report_page

    opened = open_cache(cache)
    drawn = make_report(opened, split)
    path = Path(out or f"{opened.manifest.name}-report.html")
    size = write_page(path, report_page(drawn))
    pictures = write_pngs(drawn.figures, Path(png)) if png else []
    if not quiet:
        click.echo(f"wrote {path} ({size / 1e3:,.0f} kB)" + (f" and {len(pictures)} pictures in {png}" if png else ""))


@cli.command()
@cache_argument
@quiet_option
@json_option
def verify(cache: str, quiet: bool, as_json: bool) -> None:
    """Check every byte of CACHE, its plans included, against its checksum.

    What lies in its folder and does not belong to it is named; nothing reads it.

    \b
    Example:
      prep verify cache/imdb
    """
    from cache import open_cache
    from cache.common.progress import ConsoleProgress

    opened = open_cache(cache)
    files = size = 0
    total = sum(shard.bytes for split in opened.values() for shard in split.info.shards)
    with ConsoleProgress(quiet).bar("verifying", total, "B") as bar:
        for checked in opened.verify():
            files, size = files + 1, size + checked.bytes
            bar.update(checked.bytes)
    unlisted = opened.unlisted()
    if as_json:
        findings = [{"name": name, "what": what} for name, what in unlisted]
        print_json({"folder": cache, "files": files, "bytes": size, "unlisted": findings})
    elif not quiet:
        click.echo(f"{cache} is sound: {files} files, {size:,} bytes, each as its checksum says")
        for name, what in unlisted[:20]:
            click.echo(f"  not part of it, and never read: {name} ({what})")
        if len(unlisted) > 20:
            click.echo(f"  and {len(unlisted) - 20:,} more")


@cli.command("list")
@click.argument("folder", default="cache", shell_complete=complete_folder)
@json_option
def list_caches(folder: str, as_json: bool) -> None:
    """Print the presets, and the caches under FOLDER (default: cache), which may be a URL.

    \b
    Examples:
      prep list
      prep list s3://bucket/caches
    """
    from .inspect.samples import find_caches
    from .inspect.summary import format_list, list_facts
    from .sources.presets import PRESETS

    caches = find_caches(folder)
    if as_json:
        print_json(list_facts(PRESETS.values(), caches))
        return
    click.echo("presets")
    for preset in PRESETS.values():
        click.echo(f"  {preset.name:16} {preset.about}; {preset.metric}; {preset.hub}")
    click.echo(f"\ncaches under {folder}" if caches else f"\nno caches under {folder}; next: prep build imdb")
    if caches:
        click.echo(format_list(caches))


for _command in (push, pull, gc):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line and exit."""
    run_command(cli)
