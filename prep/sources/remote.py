"""Finding the files and folders that URLs and globs in them name."""

from glob import has_magic
from pathlib import Path

from cache.common.forked import Forked
from cache.common.hub import user_path
from cache.errors import InputError
from cache.remote.hub import HubDataset
from cache.remote.transfer import Report, transfer, watched
from cache.remote.urls import StoreUrl, is_url, parse_url

from ..parsing.formats import may_be_table
from ..parsing.remote_path import Listed, RemotePath, SourcePath, below, connected, is_meant


def is_remote_glob(argument: str) -> bool:
    """Whether an argument is a URL with a glob in it."""
    return is_url(argument) and has_magic(argument)


def without_scheme(argument: str) -> str:
    """A file:// URL as the path that it stands for; every other argument as it is.

    Raises:
        InputError: it is such a URL, and names no path.
    """
    return "/" + parse_url(argument).path if argument.lower().startswith("file://") else argument


def source_path(argument: str, forked: Forked) -> SourcePath:
    """The file or folder that an argument names, which may be a URL; only a local one may not be there.

    Raises:
        InputError: nothing is at the URL, or it is not one.
        StorageError: the store or the network refuses.
    """
    if not is_url(argument):
        return user_path(argument)
    return _found(parse_url(argument), "", forked)


def matching(pattern: str, forked: Forked) -> list[RemotePath]:
    """The files that a glob in a URL means, by name.

    Raises:
        InputError: there are none, or it is no URL.
        StorageError: the store or the network refuses.
    """
    url = parse_url(pattern)
    parts = url.path.split("/")
    fixed = next((number for number, part in enumerate(parts) if has_magic(part)), len(parts))
    if url.scheme == "hf" and fixed < 3:
        raise InputError(f"{url}: a glob may stand behind the dataset's name only: hf://datasets/USER/NAME/*.parquet")
    folder, rest = StoreUrl(url.scheme, url.host, "/".join(parts[:fixed])), "/".join(parts[fixed:])
    return list(_found(folder, rest, forked).glob(rest))


def _found(url: StoreUrl, pattern: str, forked: Forked) -> RemotePath:
    """See `_find`. What it and reading import takes long, and is imported once here rather than in each child."""
    import pyarrow.fs  # noqa: F401

    if url.scheme == "hf":
        from huggingface_hub import HfApi  # noqa: F401

    found: RemotePath = forked.call(url, _find, url, pattern)
    return found


def _find(url: StoreUrl, pattern: str) -> RemotePath:
    """What is at a URL: a file; or a folder with the files below it that a pattern means, of known kinds without one.
    Runs in a forked process.

    Raises:
        InputError: nothing.
        StorageError: the store or the network refuses.
    """
    store = connected(url)
    name = below(url)
    if isinstance(store, HubDataset):  # all that follows is read from the commit that is the newest now
        dataset = f"datasets/{store.repository}@{watched(lambda _: store.commit, url)}"
        url = StoreUrl("hf", "", f"{dataset}/{name}" if name else dataset)
    if name and not pattern:
        try:
            file = watched(lambda _: store.ranges(name), url)
        except FileNotFoundError:
            pass
        else:
            return RemotePath(url, Listed(file.size, file.version))
    names = [
        file
        for file in store.sizes(name)
        if not any(part.startswith(".") for part in file.split("/"))
        and (is_meant(file, pattern) if pattern else may_be_table(Path(file)))
    ]
    if not names:
        watched(lambda _: store.check(), url)
        what = f"file that {pattern!r} means" if pattern else "file, and no folder of files of known kinds"
        raise InputError(f"{url}: there is no {what}; check the name")
    files: dict[str, Listed] = {}

    def look(file: str, report: Report) -> None:
        found = store.ranges(f"{name}/{file}" if name else file)
        files[file] = Listed(found.size, found.version)
        report(0)

    transfer(names, look, url)
    return RemotePath(url, files={file: files[file] for file in names})
