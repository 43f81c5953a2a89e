"""The commands of `prep` that share caches: push, pull, gc."""

import os
import shlex
from typing import Any

import click

from cache.console.command_line import cache_argument, complete_folder, json_option, print_json, quiet_option
from cache.console.progress import ConsoleProgress
from cache.console.sizes import parse_bytes
from cache.console.text import counted, sized


@click.command()
@cache_argument
@click.argument("url")
@click.option("--force", is_flag=True, help="Replace another cache that is there.")
@quiet_option
@json_option
def push(cache: str, url: str, force: bool, quiet: bool, as_json: bool) -> None:
    """Upload CACHE to URL, after every byte was checked: a folder of a bucket (s3://, gs://, az://), of a dataset on
    the Hub (hf://), or one that machines share (file://).

    A push that was stopped goes on with the files that are missing.

    \b
    Examples:
      prep push cache/imdb s3://bucket/caches/imdb
      prep push cache/imdb hf://datasets/user/imdb-cache
    """
    from cache import open_cache

    pushed = open_cache(cache, quiet=quiet).push(url, force=force, progress=ConsoleProgress(quiet))
    if as_json:
        print_json({**vars(pushed), "url": str(pushed.url)})
    elif not quiet:
        if pushed.sent_files:
            click.echo(f"pushed {cache} to {pushed.url}: {_amount(pushed.sent_files, pushed.sent_bytes)}")
        else:
            click.echo(f"{pushed.url} is up to date: {_amount(pushed.files, pushed.bytes)}")
        click.echo(f"next: train run --cache {shlex.quote(str(pushed.url))}")


@click.command()
@click.argument("url")
@click.option(
    "--to", shell_complete=complete_folder, help="Folder that the cache becomes.  [default: one in the local store]"
)
@quiet_option
@json_option
def pull(url: str, to: str | None, quiet: bool, as_json: bool) -> None:
    """Download the cache at URL to this machine, check every byte, and print its folder.

    Commands that take a cache take URL itself, too, and pull what is missing. A pull that was stopped goes on with the
    files that are missing. The local store is $LENGTHWISE_STORE, or ~/.cache/lengthwise.

    \b
    Examples:
      prep pull s3://bucket/caches/imdb
      prep pull hf://datasets/user/imdb-cache --to cache/imdb
    """
    from cache.sharing.pulling import pull as pull_cache

    with pull_cache(url, to, ConsoleProgress(quiet)) as pulled:
        facts: dict[str, Any] = {name: getattr(pulled, name) for name in ("name", "files", "bytes", "fetched_bytes")}
    if as_json:
        print_json({"folder": str(pulled.folder), **facts})
    elif not quiet:
        if pulled.fetched_bytes:
            click.echo(f"pulled {pulled.name}: {_amount(pulled.files, pulled.bytes)} in {pulled.folder}")
        else:
            click.echo(f"{pulled.name} is here already: {pulled.folder}")
        click.echo(f"next: train run --cache {shlex.quote(url if to is None else to)}")


@click.command()
@click.option(
    "--store",
    shell_complete=complete_folder,
    help="Folder of the store.  [default: $LENGTHWISE_STORE, ~/.cache/lengthwise]",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    help="Maximum size of what stays, such as 50GB, or 0.  [default: $LENGTHWISE_STORE_SIZE]",
)
@quiet_option
@json_option
def gc(store: str | None, max_size: str | None, quiet: bool, as_json: bool) -> None:
    """Remove pulled caches from the local store, those unused for longest first, until it is small enough.

    What a process has open or pulls stays. Without a size only pulls and builds that were stopped are removed. A cache
    that was built for a URL and not pushed yet lies nowhere else: it stays and is not counted.

    \b
    Examples:
      prep gc
      prep gc --max-size 50GB
    """
    from cache.common.hub import user_path
    from cache.sharing.store import collect_garbage, store_folder, store_limit

    folder = user_path(store) if store else store_folder()
    most = store_limit() if max_size is None else parse_bytes(max_size, "--max-size", least=0)
    done = collect_garbage(folder, most)
    if as_json:
        found = {name: [vars(item) for item in getattr(done, name)] for name in ("removed", "in_use", "built")}
        print_json({"folder": os.fspath(folder), **found, "bytes": done.left})
    elif not quiet:
        for item in done.removed:
            click.echo(f"removed {item.name}, {sized(item.bytes)}")
        for item in done.in_use:
            click.echo(f"stays   {item.name}, {sized(item.bytes)}: in use")
        for item in done.built:
            click.echo(f"stays   {item.name}, {sized(item.bytes)}: not pushed; prep push {folder / item.name} URL")
        click.echo(f"{folder} holds {sized(done.left)}")


def _amount(files: int, size: int) -> str:
    return f"{counted(files, 'file')}, {sized(size)}"
