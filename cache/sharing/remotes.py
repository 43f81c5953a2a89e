"""From a URL to the remote folder that it names, and the caches in it."""

from ..errors import CacheError
from ..format.manifest import Manifest
from .bucket import Bucket
from .hub import HubDataset
from .listing import find_cache
from .mounted import MountedFolder
from .remote import Remote
from .transfer import Report, transfer, watched
from .urls import StoreUrl, parse_url


def open_remote(url: StoreUrl) -> Remote:
    """The remote folder at a URL. Nothing is contacted, and no library loaded, before it is used."""
    if url.scheme == "hf":
        return HubDataset(url)
    return MountedFolder(url) if url.scheme == "file" else Bucket(url)


def find_remote_caches(url: str) -> list[tuple[str, Manifest]]:
    """The URLs and manifests of the caches at a URL or directly below it, by name; those that are damaged are left out.

    Raises:
        InputError: `url` is none, or names no bucket.
        StorageError: the store or the network refuses.
    """
    root = open_remote(parse_url(url))
    found: dict[str, Manifest] = {}

    def look(folder: Remote, report: Report) -> None:
        try:
            cache = find_cache(folder, report)
        except CacheError:
            cache = None
        if cache is not None:
            found[str(folder.url)] = cache.manifest

    names = watched(lambda _: root.folders(), root.url)
    transfer([root, *(root.below(name) for name in names)], look, root.url)
    return sorted(found.items())
