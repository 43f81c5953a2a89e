"""Folders written by `save_to_disk` of `datasets`, read as the Arrow streams they hold, without `datasets`."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from cache.common.files import open_regular
from cache.common.forked import BATCH_ROWS, Forked
from cache.errors import InputError

from ..columns import Columns, Stream, plain
from ..corpus.source import Source, check_split_name
from ..parsing.diagnose import reading
from ..parsing.remote_path import SourcePath
from .files import watch
from .tables import Classes, Frame, class_names, frames_source

DICT, INFO, STATE = "dataset_dict.json", "dataset_info.json", "state.json"
MAX_JSON_BYTES = 64 << 20


def is_saved(folder: SourcePath) -> bool:
    """Whether the folder holds a `Dataset` or a `DatasetDict`."""
    return (folder / DICT).is_file() or ((folder / STATE).is_file() and (folder / INFO).is_file())


def open_saved(argument: str, folder: Path, asked: Columns, forked: Forked) -> Source:
    """Open such a folder; a lone `Dataset` is the split `train`.

    Raises:
        InputError: it is damaged, or its columns, texts or labels are not as they should be.
    """
    folders = {"train": folder}
    if (folder / DICT).is_file():
        names = _read(folder / DICT, "splits", list)
        folders = {str(split): folder / str(split) for split in names}
        for split, path in folders.items():
            check_split_name(split, path)
    if not folders:
        raise InputError(f"{folder} holds no splits; save a dataset that has some")
    frames = {split: _frame(path, forked) for split, path in folders.items()}
    return frames_source(argument, folder.resolve().name, frames, asked)


def _frame(folder: Path, forked: Forked) -> Frame:
    files = [folder / _file_name(folder, entry) for entry in _read(folder / STATE, "_data_files", list)]
    features = _read(folder / INFO, "features", dict)
    return arrow_frame(files, list(features), class_names(features), forked)


def arrow_frame(files: list[Path], names: list[str], classes: Mapping[str, Classes], forked: Forked) -> Frame:
    """A split in Arrow stream files as `datasets` writes them: its columns, and the classes of those that have some."""
    watched = watch(files)

    def select(names: list[str]) -> Stream:
        return watched(lambda: chain.from_iterable(forked.stream(path, _batches, path, names) for path in files))

    parts = tuple(arrow_frame([file], names, classes, forked) for file in files) if len(files) > 1 else ()
    return Frame(names, select, classes, parts)


def _batches(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    # Not mapped: a mapped file that shrinks is a SIGBUS.
    with reading(path), open_regular(path) as file, pa.ipc.open_stream(file) as stream:
        missing = [name for name in names if name not in stream.schema.names]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r}, though {INFO} lists it; save the dataset again")
        for batch in stream:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                part = batch.select(names).slice(start, BATCH_ROWS)
                part.validate(full=True)
                yield plain(part)


def _file_name(folder: Path, entry: Any) -> str:
    name = entry.get("filename") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"{folder / STATE} lists the file {name!r}, expected a name in this folder")
    return name


def _read(path: Path, key: str, kind: type[Any]) -> Any:
    """A value of a JSON file."""
    with reading(path), open_regular(path) as file:
        text = file.read(MAX_JSON_BYTES + 1).decode("utf-8")
    try:
        found = json.loads(text)[key] if len(text) <= MAX_JSON_BYTES else None
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise InputError(f"{path} holds no {key!r} as `datasets` writes it; save the dataset again with save_to_disk")
    return found
