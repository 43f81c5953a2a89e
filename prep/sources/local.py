"""Files as sources: a file, files and globs, perhaps with the names of their splits, a folder."""

import contextlib
import glob
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from cache.common.forked import Forked
from cache.common.hub import path_text, user_path
from cache.common.table_files import BY_NAME
from cache.console.text import listed
from cache.errors import InputError
from cache.format.checksummed_json import Json
from cache.format.files import sha256_file

from ..columns import Columns
from ..corpus.source import Source, cache_name, check_split_name
from ..corpus.splits import by_split, check_all_named, split_of_folder
from ..corpus.usual_columns import settle_columns
from ..parsing.diagnose import reading
from ..parsing.formats import ARCHIVE, EXPECTED, FORMATS, LINES, check_known, format_of, not_csv
from ..parsing.remote_path import RemotePath, SourcePath
from .files import table_columns, table_stream, text_files_stream
from .remote import is_remote_glob, matching, source_path, without_scheme
from .saved import is_saved, open_saved

DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json"}
"""Files beside a dataset's tables that hold none."""

# --- files


def open_file(argument: str, path: SourcePath, asked: Columns, forked: Forked) -> Source:
    """A table file, which is the split `train`.

    Raises:
        InputError: it cannot be read, or its columns are not there.
    """
    return open_tables(argument, path.name.split(".")[0], {"train": [path]}, asked, forked)


def names_files(argument: str) -> bool:
    """Whether an argument is a glob or names a split, unless there is a file of that name."""
    return _split_and_files(argument)[0] != "" or glob.has_magic(argument)


def open_files(arguments: Sequence[str], asked: Columns, forked: Forked) -> Source:
    """Table files, globs and folders of table files: `train=a.csv test=b.csv`, or such without splits, whose names say
    them or which are parts of `train`.

    Raises:
        InputError: there is no such file, or one twice; the splits are not plain; or as `open_file`.
    """
    given = [_split_and_files(argument) for argument in arguments]
    found = [_matching(without_scheme(pattern), asked.cells.delimiter, forked) for _, pattern in given]
    paths = [path for files in found for path in files]
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice; name each file once")
    if any(split for split, _ in given):
        check_all_named({pattern: split or None for split, pattern in given})
    splits: dict[str, list[SourcePath]] = {}
    for (split, _), files, argument in zip(given, found, arguments, strict=True):
        if split:
            check_split_name(split, Path(argument))
            splits.setdefault(split, []).extend(files)
    folders = [str(path.parent.resolve()) for path in paths]
    folder = os.path.commonpath(folders) if len({*map(type, paths)}) == 1 else "corpus"
    source = open_tables(" ".join(arguments), Path(folder).name, splits or by_split(paths), asked, forked)
    return replace(source, arguments=tuple(arguments) if len(arguments) > 1 else ())


def _split_and_files(argument: str) -> tuple[str, str]:
    """`train=a.csv` as train and a.csv; an empty name of a split, and all of it, where it names none."""
    split, equals, pattern = argument.partition("=")
    if equals and pattern and not set("/*?[") & set(split) and not user_path(argument).exists():
        return split, pattern
    return "", argument


def _matching(pattern: str, delimiter: str | None, forked: Forked) -> list[SourcePath]:
    """The table files that are meant by a path, a URL or a glob."""
    if is_remote_glob(pattern):
        return [*matching(pattern, forked)]
    path = source_path(pattern, forked)
    if path.is_dir():
        tables = tables_in(path, delimiter) or lines_in(path)
        if not tables:
            raise InputError(f"{path} holds no table files; expected some of the kinds {EXPECTED}")
        return tables
    if path.exists():
        return [path]
    found = glob.glob(str(path), recursive=True) if glob.has_magic(pattern) else []  # noqa: PTH207  # no hidden files
    files: list[SourcePath] = [file for file in map(Path, sorted(found)) if file.is_file()]
    if not files:
        raise InputError(f"there is no file {pattern!r}; of several sources each is a file, a folder of them or a glob")
    return files


def open_tables(
    argument: str, name: str, splits: dict[str, list[SourcePath]], asked: Columns, forked: Forked
) -> Source:
    """Table files, in order and split by split, as the corpus `name`, which the user typed as `argument`.

    Raises:
        InputError: a file cannot be read, or its columns are not there.
    """
    paths = [path for files in splits.values() for path in files]
    if asked.cells != BY_NAME and not any(
        format_of(path, asked.cells.delimiter) == "csv" or path.suffix.lower() == ARCHIVE for path in paths
    ):
        raise not_csv(asked.cells, paths[0])
    for path in paths:
        check_known(path, asked.cells.delimiter, asked.labelled)
    found = table_columns(paths, asked.cells, forked)
    asked, note, unread = settle_columns(((names, path) for (names, _), path in zip(found, paths, strict=True)), asked)
    streams = {split: table_stream(files, asked, forked) for split, files in splits.items()}
    identity = files_identity(splits, asked)
    return Source(
        argument=argument,
        name=cache_name(name),
        identity={"kind": "files", **identity},
        splits=streams,
        label_names=asked.classes,
        pair=asked.pair is not None,
        words=all(asked.text in lists for _, lists in found),
        size_bytes=sum(file["bytes"] for file in identity["files"]),
        note=note,
        unread=unread,
    )


def files_identity(splits: dict[str, list[SourcePath]], columns: Columns) -> Json:
    """What a cache's manifest says of table files: names, hashes, columns."""
    threads = ThreadPoolExecutor()
    try:
        files = [(split, path) for split, paths in splits.items() for path in paths]
        return {"files": list(threads.map(_file_identity, *zip(*files, strict=True))), **columns.identity}
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _file_identity(split: str, path: SourcePath) -> Json:
    with reading(path):
        return {"split": split, "file": path_text(path.name), "bytes": path.stat().st_size, **_content(path)}


def _content(path: SourcePath) -> Json:
    """What tells this content of a file from others: its hash, or what the store at a URL calls its version."""
    if isinstance(path, RemotePath):
        return {"version": path.listed.version if path.listed else ""}
    return {"sha256": sha256_file(path)}


# --- folders


def tables_in(folder: SourcePath, delimiter: str | None = None) -> list[SourcePath]:
    """The table files in a folder, sorted by name; without files of lines, which may be notes beside them."""
    files = _visible_files(folder)
    return [file for file in files if format_of(file, delimiter) not in (None, LINES) and file.name not in DESCRIPTIONS]


def lines_in(folder: SourcePath) -> list[SourcePath]:
    """The files of a folder that hold a text per line, sorted by name."""
    return [file for file in _visible_files(folder) if format_of(file) == LINES]


def _unread_archives(folder: SourcePath) -> str:
    """A line for the user about archives beside the tables of a folder, which may hold the same; empty if none."""
    names = [file.name for file in _visible_files(folder) if file.suffix.lower() == ARCHIVE and not format_of(file)]
    return f"not read: {listed(names, 5)}; if it holds rows, call it something like rows.csv.zip" if names else ""


def _unread_folders(folder: SourcePath, delimiter: str | None) -> str:
    """A line for the user about folders of tables beside the tables of a folder; empty if none."""
    beside = sorted(path for path in folder.iterdir() if path.name[0] != "." and path.is_dir())
    names = []
    for path in beside:
        with contextlib.suppress(OSError):  # not all that lies there can be read
            if any(format_of(file, delimiter) not in (None, LINES) for file in path.iterdir() if file.name[0] != "."):
                names.append(path.name)
    return (
        f"not read: the table files in {listed(names, 5)}; name files and folders to build from both" if names else ""
    )


def _visible_files(folder: SourcePath) -> list[SourcePath]:
    return sorted(file for file in folder.iterdir() if file.name[0] != "." and file.is_file())


def open_folder(argument: str, path: SourcePath, asked: Columns, forked: Forked) -> Source:
    """A folder: as `save_to_disk` writes it, of table files, of folders of them, or of text files: in folders of their
    own a text each, else a text per line.

    Raises:
        InputError: it is none of them, or its files cannot be read or lack the columns.
    """
    if is_saved(path):
        if isinstance(path, RemotePath):
            raise InputError(
                f"{path} was written by save_to_disk, expected files; copy it to this machine and build from it"
            )
        return open_saved(argument, path, asked, forked)
    tables = tables_in(path, asked.cells.delimiter)
    if tables:
        source = open_tables(argument, path.resolve().name, by_split(tables), asked, forked)
        unread = (_unread_archives(path), _unread_folders(path, asked.cells.delimiter))
        return replace(source, note="; ".join(filter(None, (source.note, *unread))))
    if texts := _texts_below(path, asked.labelled):
        return _open_texts(argument, path, texts, asked, forked)
    splits = _tables_below(path, asked.cells.delimiter)
    if not splits and (lines := lines_in(path)):
        splits = by_split(lines)
    if not splits:
        more = "" if asked.labelled else ", as split/*.txt or, with a text per line, as *.txt"
        raise InputError(
            f"{path} holds neither table files ({', '.join(FORMATS)}) nor text files as split/label/*.txt{more}; "
            f"for example: {path}/train/pos/1.txt"
        )
    return open_tables(argument, path.resolve().name, splits, asked, forked)


Texts = list[tuple[SourcePath, str]]
"""Files that hold a text each, with the name of the folder that each lies in: its label, where labels are wanted."""


def _open_texts(argument: str, path: SourcePath, texts: dict[str, Texts], asked: Columns, forked: Forked) -> Source:
    """A folder of text files, by split."""
    if asked.names:
        raise InputError(f"{path} is a folder of text files, which has no columns: leave out --text and --label")
    for split in texts:
        check_split_name(split, path / split)
    streams = {split: text_files_stream(path, members, forked, asked.labelled) for split, members in texts.items()}
    files, found = [], [(split, file) for split, members in texts.items() for file, _ in members]
    for split, file in found:
        with reading(file):
            name = path_text(os.path.relpath(str(file), str(path)))
            files.append({"split": split, "file": name, **_content(file)})
    return Source(
        argument=argument,
        name=cache_name(path.resolve().name),
        identity={"kind": "texts", "files": files, **asked.missing},
        splits=streams,
        unread="" if asked.labelled or all(file.parent.parent == path for _, file in found) else "each folder's name",
    )


def _texts_below(folder: SourcePath, labelled: bool) -> dict[str, Texts]:
    """The files of text in a folder by split; no hidden ones."""
    patterns = ("[!.]*/[!.]*.txt",) if labelled else ("[!.]*/[!.]*.txt", "[!.]*.txt")
    found: dict[str, Texts] = {}
    splits: list[SourcePath] = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    for split in splits:
        files: list[SourcePath] = sorted(file for pattern in patterns for file in split.glob(pattern))
        if texts := [(file, path_text(file.parent.name)) for file in files if file.is_file()]:
            usual = split_of_folder(split)
            found[usual if usual and usual not in found else split.name] = texts
    return found


def _tables_below(folder: SourcePath, delimiter: str | None, depth: int = 2) -> dict[str, list[SourcePath]]:
    """The table files in the folders of a folder by split: those of `split/…`, or of the one folder that has some, as
    repositories of the Hub have them in `data`.

    Raises:
        InputError: which of them are wanted is not plain.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    inner = {path: tables for path in folders if (tables := tables_in(path, delimiter))}
    named = {path: split_of_folder(path) for path in inner}
    if any(named.values()):
        check_all_named(named)
        if len(set(named.values())) < len(named):
            raise InputError(f"{', '.join(map(str, named))}: two of them would be one split; rename or move one away")
        return {str(split): inner[path] for path, split in named.items()}
    found = {path: by_split(tables) for path, tables in inner.items()}
    if depth > 1:
        deeper = {path: _tables_below(path, delimiter, depth - 1) for path in folders if path not in inner}
        found |= {path: splits for path, splits in deeper.items() if splits}
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise InputError(f"{folder} holds table files in several folders ({listed}); build from one of them")
    return next(iter(found.values()), {})
