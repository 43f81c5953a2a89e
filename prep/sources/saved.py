"""Folders that `datasets` has written with `save_to_disk`, read as the Arrow streams they hold; `datasets` is not
needed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError

from ..columns import Stream
from .corpus import Columns, Source, check_split_name
from .diagnose import reading
from .files import BATCH_ROWS, watch
from .tables import Frame, class_names, frames_source

if TYPE_CHECKING:
    import pyarrow as pa

DICT, INFO, STATE = "dataset_dict.json", "dataset_info.json", "state.json"


def is_saved(folder: Path) -> bool:
    """Whether the folder holds a `Dataset` or a `DatasetDict`."""
    return (folder / DICT).is_file() or ((folder / STATE).is_file() and (folder / INFO).is_file())


def open_saved(argument: str, folder: Path, asked: Columns) -> Source:
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
    frames = {split: _frame(path) for split, path in folders.items()}
    return frames_source(argument, folder.resolve().name, frames, asked)


def _frame(folder: Path) -> Frame:
    files = [folder / _file_name(folder, entry) for entry in _read(folder / STATE, "_data_files", list)]
    features = _read(folder / INFO, "features", dict)
    check = watch(files)

    def select(names: list[str]) -> Stream:
        def batches() -> Iterator["pa.RecordBatch"]:
            for path in files:
                with reading(path):
                    yield from _batches(path, names)
            check()

        return batches

    return Frame(list(features), select, class_names(features))


def _batches(path: Path, names: list[str]) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:  # a mapped file that shrinks is a SIGBUS
        missing = [name for name in names if name not in stream.schema.names]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r}, though {INFO} lists it; save the dataset again")
        for batch in stream:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.select(names).slice(start, BATCH_ROWS)


def _file_name(folder: Path, entry: Any) -> str:
    name = entry.get("filename") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise InputError(f"{folder / STATE} lists the file {name!r}, expected a name in this folder")
    return name


def _read(path: Path, key: str, kind: type[Any]) -> Any:
    """A value of a JSON file."""
    with reading(path):
        text = path.read_text("utf-8")
    try:
        found = json.loads(text)[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise InputError(f"{path} holds no {key!r} as `datasets` writes it; save the dataset again with save_to_disk")
    return found
