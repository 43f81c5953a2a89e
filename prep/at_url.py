"""A build whose cache goes to a URL: what is there, and the way there through the local store."""

import contextlib
import os
from pathlib import Path

from cache import Cache, PlanSpec, open_cache
from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.common.locks import locked
from cache.console.progress import ConsoleProgress
from cache.errors import CacheError, InputError, LengthwiseError, NotACacheError
from cache.format.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest
from cache.format.plan_file import PLAN_FILE, PLANS
from cache.reading.manifest import open_folder
from cache.remote.base import ObjectStore, Remote
from cache.remote.failures import DeniedError
from cache.remote.opening import open_remote
from cache.remote.transfer import Report, watched
from cache.remote.urls import StoreUrl, is_url, parse_url
from cache.sharing.listing import RemoteCache, find_cache, stored_epochs
from cache.sharing.pushing import push_goes_on
from cache.sharing.store import collect_garbage, store_limit, store_name
from cache.writing.publishing import lock_file

from .existing import different


def find_place(out: str | os.PathLike[str]) -> StoreUrl | None:
    """The URL that `--out` is, None for a folder. Asked before anything is read, so that a wrong one costs no time.

    Raises:
        InputError: it is no URL of a folder of caches, names no bucket, or is that of a cache.
        StorageError: the store or the network refuses.
    """
    if not (isinstance(out, str) and is_url(out)):
        return None
    remote = open_remote(parse_url(out))
    if watched(lambda report: _look(remote, report), remote.url):
        raise InputError(f"{remote.url} is a cache; --out is the folder around it: {_around(remote.url)}")
    return remote.url


def _around(url: StoreUrl) -> str:
    """What to pass instead of the URL of a cache."""
    if url.parent == str(url):
        return f"a bucket or dataset that is no cache itself, or a folder in it, such as --out {url / 'caches'}"
    return f"--out {url.parent} --name {url.path.rpartition('/')[2]}"


def _look(remote: Remote, report: Report) -> bool:
    """Whether there is a cache, a damaged one too."""
    try:
        if find_cache(remote, report):
            return True
    except CacheError:
        return True
    with contextlib.suppress(DeniedError, FileNotFoundError):  # who may write need not be allowed to list
        remote.check()
    return False


def existing_at_url(url: StoreUrl, wanted: Manifest, force: bool) -> bool:
    """Whether the cache wanted is there; False too where another one is to be replaced.

    Raises:
        MismatchError: another cache is there, and `force` is not set.
        CacheError: what is there is damaged, and `force` is not set.
        StorageError: the store or the network refuses.
    """
    if force:
        return False
    remote = open_remote(url)
    found = watched(lambda report: find_cache(remote, report), url)
    if found is not None and found.manifest.fingerprint != wanted.fingerprint:
        raise different(url, found.manifest, wanted)
    return found is not None


def check_other_push(url: StoreUrl, built: Path, force: bool) -> None:
    """Refuse to build a cache for hours that could not be pushed afterwards.

    Args:
        url: where it goes.
        built: where a cache lies whose push was stopped; that one goes on.
        force: take the place of another push.

    Raises:
        InputError: another push is under way there, or was stopped, and `force` is not set.
    """
    remote = open_remote(url)
    if not isinstance(remote, ObjectStore):
        return
    data = b""
    with contextlib.suppress(NotACacheError), storage_errors(built, "read"), open_folder(built) as folder:
        data = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
    watched(lambda report: push_goes_on(remote, data, report, force), url)


def lacks_epochs(url: StoreUrl, cache: Cache, plan: PlanSpec, epochs: int) -> bool:
    """Whether fewer epochs of a plan than that are at the URL of a cache; False where the store does not tell."""
    if not epochs or "train" not in cache:
        return False
    remote, name = open_remote(url), f"train/{PLANS}/{plan.id}/{PLAN_FILE}"
    try:
        return watched(lambda report: stored_epochs(remote, name, cache.manifest, report), url) < epochs
    except DeniedError:
        return False


def push_built(cache: Cache, url: StoreUrl, force: bool, console: ConsoleProgress) -> None:
    """Push a cache that was just built; where that fails it stays, and what is said names it."""
    lies = f"the cache was built and lies in {cache.folder}"
    remedy = f"{lies}; to go on: prep push {cache.folder} {url}{' --force' * force}"
    try:
        cache.push(str(url), force=force, progress=console)
    except InputError as error:  # the same push would fail again: it says itself what to change
        raise InputError(f"{error}; {lies}, for prep push") from None
    except LengthwiseError as error:
        raise type(error)(f"{error}; {remedy}") from None
    except KeyboardInterrupt:
        console.log(remedy)
        raise


def stored(cache: Cache) -> Cache:
    """Give a cache that was built in the local store, and pushed, the name of one that was pulled, and open it there:
    a command that is given its URL finds it. Others go where the store has a limit."""
    store = cache.folder.parent
    with storage_errors(store), Folder.open(store) as folder:
        with folder.folder(cache.folder.name) as own:
            data = own.read(MANIFEST, MAX_MANIFEST_BYTES)
        name = store_name(RemoteCache(data, cache.manifest))
        with locked(lock_file(store / name), lambda _: None):  # nobody pulls or removes it meanwhile
            if folder.stat(name) is None:
                folder.rename(cache.folder.name, name)
            else:
                folder.remove(cache.folder.name)
            found = open_cache(store / name)
    limit = store_limit()
    if limit is not None:
        collect_garbage(store, limit)
    return found
