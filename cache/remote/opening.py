"""From a URL to the remote folder that it names."""

from .base import ObjectStore
from .bucket import Bucket
from .hub import HubDataset
from .mounted import MountedFolder
from .urls import StoreUrl


def open_remote(url: StoreUrl) -> HubDataset | ObjectStore:
    """The remote folder at a URL. Nothing is contacted, and no library loaded, before it is used."""
    if url.scheme == "hf":
        return HubDataset(url)
    return MountedFolder(url) if url.scheme == "file" else Bucket(url)
