"""The commands of `prep` that look at caches: info, show, report, verify, list."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache.console.command_line import cache_argument, complete_folder, json_option, print_json, quiet_option
from cache.console.progress import ConsoleProgress
from cache.console.text import counted, sized

if TYPE_CHECKING:
    from cache import Cache


@click.command()
@cache_argument
@click.option(
    "--model",
    shell_complete=complete_folder,
    help="Predict the memory of training this model on a CPU: folder, Hub id, or minilm.",
)
@click.option("--ranks", type=int, help="Predict how busy this many ranks, the processes of one run, are kept.")
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
    used = None if ranks is None else rank_facts(opened, ranks, model)
    memory = memory_facts(opened, model) if model is not None else None
    if as_json:
        more = {"ranks": used, "memory": memory}
        print_json(cache_facts(opened) | {name: found for name, found in more.items() if found})
        return
    print_cache(opened)
    if used:
        click.echo(f"\n{format_ranks(used)}")
    if memory:
        click.echo(f"\n{format_memory(memory)}")


def print_cache(cache: "Cache") -> None:
    """Print what a cache holds, and what each way of batching its first split costs."""
    from .corpus.source import describe_missing, describe_source
    from .inspect.summary import first_split, format_splits, format_token_table, packed_row, table_specs, token_table

    manifest = cache.manifest
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    click.echo(f"{manifest.name}  {describe_source(manifest.source)}, tokenizer {manifest.tokenizer.name}")
    click.echo(f"{sized(size)} in {cache.folder}, fingerprint {manifest.fingerprint[:12]}")
    click.echo(f"task {manifest.task.kind}{' of pairs' * manifest.task.pair}\n")
    click.echo(format_splits(cache))
    if missing := describe_missing(manifest.source):
        click.echo(missing)
    split = first_split(cache)
    with ConsoleProgress().bar("planning", len(table_specs(split)), "plans") as bar:
        rows = token_table(split, lambda: bar.update(1))
    click.echo(f"\nAn epoch of {split.name!r}, {split.info.tokens:,} real tokens:")
    click.echo(format_token_table([*rows, packed_row(rows)]))


@click.command()
@cache_argument
@click.option("--split", default="train", show_default=True, help="Split to look at.")
@click.option("--rows", type=click.IntRange(1), default=5, show_default=True, help="How many rows.")
@click.option("--seed", type=click.IntRange(0), help="Seed of the choice of rows.")
@click.option("--special-tokens", is_flag=True, help="Show [CLS], [SEP] and their like.")
def show(cache: str, split: str, rows: int, seed: int | None, special_tokens: bool) -> None:
    """Print random rows of CACHE as text, with their labels.

    \b
    Example:
      prep show cache/imdb --rows 3
    """
    from cache import open_cache

    from .inspect.samples import format_sample, random_samples

    width = shutil.get_terminal_size().columns
    for sample in random_samples(open_cache(cache)[split], rows, seed, special_tokens):
        click.echo(format_sample(sample, width))


@click.command()
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
    from cache import open_cache
    from cache.common.drawing import write_page, write_pngs

    from .inspect.report import make_report, report_page

    opened = open_cache(cache)
    drawn = make_report(opened, split)
    path = Path(out or f"{opened.manifest.name}-report.html")
    size = write_page(path, report_page(drawn))
    pictures = write_pngs(drawn.figures, Path(png)) if png else []
    if not quiet:
        also = f" and {counted(len(pictures), 'picture')} in {png}" if png else ""
        click.echo(f"wrote {path} ({sized(size)}){also}")


@click.command()
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
        click.echo(f"{cache} is sound: {counted(files, 'file')}, {counted(size, 'byte')}, each as its checksum says")
        for name, what in unlisted[:20]:
            click.echo(f"  not part of it, and never read: {name} ({what})")
        if len(unlisted) > 20:
            click.echo(f"  and {len(unlisted) - 20:,} more")


@click.command("list")
@click.argument("folder", default="cache", shell_complete=complete_folder)
@json_option
def list_caches(folder: str, as_json: bool) -> None:
    """Print the presets, and the caches under FOLDER (default: cache), which may be a URL.

    \b
    Examples:
      prep list
      prep list s3://bucket/caches
    """
    from .corpus.presets import PRESETS
    from .inspect.samples import find_caches
    from .inspect.summary import format_list, list_facts

    caches = find_caches(folder, lambda error: ConsoleProgress().warn(f"not listed: {error}"))
    if as_json:
        print_json(list_facts(PRESETS.values(), caches))
        return
    click.echo("presets")
    for preset in PRESETS.values():
        click.echo(f"  {preset.name:16} {preset.about}; {preset.metric}; {preset.hub}")
    click.echo(f"\ncaches under {folder}" if caches else f"\nno caches under {folder}; next: prep build imdb")
    if caches:
        click.echo(format_list(caches))
