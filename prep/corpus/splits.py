"""Which split a table file is of, by its name or that of its folder.

train.csv  test.jsonl  dev-1.csv  reviews_valid.csv  train/a.csv   the usual names; dev, val, valid are validation
imdb.train.csv  train_data.csv                                     the same with more before or behind
train-00000-of-00003.parquet  extra-00000-of-00001.parquet         the same as the Hub has it, and with any name
validation_matched.csv  validation_mismatched.csv                  two of one usual name: splits of their own
my_train_v2.csv  testset.csv                                       perhaps a split: refused where there are several
part-0.parquet  0000.parquet  reviews.csv                          no split: parts of train
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from cache.console.text import listed
from cache.errors import InputError

from ..parsing.formats import without_endings
from ..parsing.remote_path import SourcePath
from .source import check_split_name

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
"""Usual names of splits, and the split that each means."""

_USUAL = "|".join(SPLITS)
_LISTED = 5
"""Most files that an error lists."""


def by_split(paths: Sequence[SourcePath]) -> dict[str, list[SourcePath]]:
    """Table files by the split that their names say, else their folders' names, in this order; else all are `train`.

    Raises:
        InputError: some names say a split and others do not, or two files are one split without being its parts, or
            have one name but for their endings, or no name says a split but some seem to.
    """
    named = _usual_where_one({path: _split_of(path) for path in paths})
    if not any(named.values()):
        folders = {path: split_of_folder(path.parent) for path in paths}
        if len({*folders.values()}) > 1:
            check_all_named(folders)
            _check_names_differ(paths)
            return {
                str(split): [path for path in paths if folders[path] == split]
                for split in dict.fromkeys(folders.values())
            }
        _check_no_hint(paths)
        _check_names_differ(paths)
        return {"train": list(paths)}
    named |= {path: _split_of_shard(path) for path, split in named.items() if split is None}
    check_all_named(named)
    splits: dict[str, list[SourcePath]] = {}
    for path, split in named.items():
        files = splits.setdefault(str(split), [])
        files.append(path)
        if len(files) > 1 and not all(map(_is_part, files)):
            raise InputError(
                f"{files[0]} and {path} would both be the split {split!r}; rename or move away one of them, or name "
                f"the split of each file: prep build {split}={files[0]} {split}={path}"
            )
    _check_names_differ(paths)
    for split, files in splits.items():
        check_split_name(split, files[0])
    return splits


def _usual_where_one(named: Mapping[SourcePath, str | None]) -> dict[SourcePath, str | None]:
    """Names such as train_data become the usual one that they begin with, unless other names begin with it too."""
    usual = {split: _usual_beginning(split) for split in named.values() if split}
    times = Counter(usual.values())
    alone = {split: name for split, name in usual.items() if name and times[name] == 1}
    return {
        path: split if split is None or _split_of_shard(path) else alone.get(split, split)
        for path, split in named.items()
    }


def _check_no_hint(paths: Sequence[SourcePath]) -> None:
    """Raise an `InputError` where several files would be `train` although a name holds that of a split."""
    hint = re.compile(rf"(.*[^a-z])?({_USUAL}|eval)(set|data|uation)?([^a-z].*)?", re.IGNORECASE)
    if len(paths) > 1 and any(hint.fullmatch(_stem(path)) for path in paths):
        raise InputError(
            f"{listed([*map(str, paths)], _LISTED)}: these names do not say plainly which file is which split; name "
            "the split of each: prep build train=FILE test=FILE"
        )


def _check_names_differ(paths: Sequence[SourcePath]) -> None:
    """Raise an `InputError` where files such as a.csv and a.jsonl may well hold the same rows."""
    named: dict[str, SourcePath] = {}
    for path in paths:
        other = named.setdefault(without_endings(path), path)
        if other is not path:
            raise InputError(
                f"{other} and {path} differ in their endings alone, and may hold the same rows; move one of them away, "
                f"or name the split of each file: prep build train={other} train={path}"
            )


def check_all_named(named: Mapping[SourcePath, str | None] | Mapping[str, str | None]) -> None:
    """Raise an `InputError` that lists both where some files or folders say which split they are and some do not."""
    having = [str(path) for path, split in named.items() if split]
    without = [str(path) for path, split in named.items() if split is None]
    if without:
        raise InputError(
            f"some names say which split they are ({listed(having, _LISTED)}) and some do not "
            f"({listed(without, _LISTED)}); move those away, or name the split of each: "
            "prep build train=FILE test=FILE"
        )


def split_of_folder(folder: SourcePath) -> str | None:
    """The split that the files of a folder are by its name; None where it says none."""
    return SPLITS.get(folder.name.lower())


def _split_of(path: SourcePath) -> str | None:
    """The split by a usual name at the beginning or end of the file's name."""
    stem = _stem(path)
    if found := re.fullmatch(rf"({_USUAL})([-_. ]?[0-9]+(-of-[0-9]+)?)?", stem, re.IGNORECASE):
        return SPLITS[found[1].lower()]
    if _usual_beginning(stem):
        return _split_of_shard(path) or stem
    found = re.fullmatch(rf".*[-_. ]({_USUAL})([-_. ][0-9]+(-of-[0-9]+)?)?", stem, re.IGNORECASE)
    return SPLITS[found[1].lower()] if found else None


def _usual_beginning(name: str) -> str | None:
    """The split whose usual name is the first word of a name."""
    found = re.match(rf"({_USUAL})(?![a-z0-9])", name, re.IGNORECASE)
    return SPLITS[found[1].lower()] if found else None


def _split_of_shard(path: SourcePath) -> str | None:
    """What stands before `-00000-of-00003`."""
    found = re.fullmatch(r"(.+)-[0-9]+-of-[0-9]+", _stem(path))
    return found[1] if found else None


def _stem(path: SourcePath) -> str:
    return without_endings(path).rsplit("/", 1)[-1]


def _is_part(path: SourcePath) -> bool:
    """Whether a file is one of several by its name, which ends in a number."""
    return _stem(path)[-1:].isdigit()
