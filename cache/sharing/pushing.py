"""Pushing a cache: its files first, its manifest last, so that whoever reads meanwhile finds all of it or none.

In a bucket the manifest is copied to `manifest.pushing.json` for as long as a push is under way: the same push goes on
after it with the files that are there, another one is refused. Object stores do not let pyarrow write "only if there is
none", so that two different caches pushed at the same instant to one URL may mix; a pull then finds wrong checksums.
"""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader

from ..common.files import storage_errors
from ..common.folder import Folder
from ..console.progress import ConsoleProgress, is_terminal
from ..console.text import sized
from ..errors import CacheError, CorruptCacheError, InputError, StorageError
from ..format.checksummed_json import NAME_PATTERN
from ..format.manifest import MANIFEST, MAX_MANIFEST_BYTES, TOKENIZER, Manifest
from ..format.plan_file import PLAN_FILE, PLAN_ID, PLANS
from ..remote.base import ObjectStore, Remote
from ..remote.failures import DeniedError
from ..remote.hub import HubDataset
from ..remote.opening import open_remote
from ..remote.transfer import Report, transfer, watched
from ..remote.urls import StoreUrl
from .listing import RemoteCache, find_cache, stored_epochs

PUSHING = "manifest.pushing.json"
"""The manifest of a push that is under way."""

_FILE = re.compile(
    rf"{TOKENIZER}/{NAME_PATTERN.pattern}|{NAME_PATTERN.pattern}/shard-\d{{5,}}\.safetensors"
    rf"|{NAME_PATTERN.pattern}/{PLANS}/{PLAN_ID.pattern}/(plan\.json|epoch-\d{{4,}}\.safetensors)"
)
"""What a file of a cache is called; of an old cache nothing else is removed."""
PATIENCE_S = 600.0
"""Silence after which sending is given up, seconds: a part of 10 MB is sent in silence, several at once."""
HUB_PATIENCE_S = 6 * 3600.0
"""Longest that a commit may take, seconds: its library says nothing until it is made, and has its own time limits."""


@dataclass(frozen=True)
class Pushed:
    """A cache that was pushed.

    Attributes:
        url: where it is now.
        files: how many it has, its manifest included.
        bytes: of them.
        sent_files: those that were sent just now: 0 where all of it was there.
        sent_bytes: of them.
    """

    url: StoreUrl
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int


@dataclass(frozen=True)
class _Local:
    """What is to be pushed: the folder of a cache, its manifest, the sizes of its other files by name."""

    folder: Folder
    data: bytes
    manifest: Manifest
    sizes: dict[str, int]

    def open(self, name: str) -> BufferedReader:
        """Open a file of it for reading."""
        with storage_errors(self.folder.path / name, "read"):
            return self.folder.open_file(name)


def push_files(cache: Folder, names: Sequence[str], url: StoreUrl, force: bool, progress: ConsoleProgress) -> Pushed:
    """Send the files of a cache to a URL; see `Cache.push`. `names` are the paths of its files below its folder, each
    plan.json after what it lists; without the manifest."""
    with storage_errors(cache.path, "read"):
        data = cache.read(MANIFEST, MAX_MANIFEST_BYTES)
        sizes = {name: found.st_size for name in names if (found := cache.stat(name))}
    local = _Local(cache, data, Manifest.from_bytes(data, cache.path / MANIFEST), dict(sizes))
    remote = open_remote(url)
    old = watched(lambda report: _replaced(remote, force, report), url)
    if old is not None and old.data != data and not force:
        raise InputError(
            f"{url} holds another cache: {old.manifest.name}, built {old.manifest.created[:16].replace('T', ' ')}, "
            f"fingerprint {old.manifest.fingerprint[:12]} (this one: {local.manifest.fingerprint[:12]}); push to "
            "another URL, or replace it with --force"
        )
    if old is not None and old.data == data:
        for folder in watched(lambda report: _longer_plans(remote, local, report), url):
            progress.log(f"{url / folder} has more epochs than the plan here, and stays")
            for name in [name for name in sizes if name.startswith(f"{folder}/")]:
                del local.sizes[name]
    if isinstance(remote, HubDataset):
        sent = _commit(remote, local, old, progress)
    else:
        sent = _Push(remote, local, old, force, progress).run()
    total = sum(sizes.values()) + len(data)
    return Pushed(url, len(sizes) + 1, total, len(sent), sum(sent.values()))


def _replaced(remote: Remote, force: bool, report: Report) -> RemoteCache | None:
    """The cache that is there; a damaged one is None where it may be replaced."""
    try:
        return find_cache(remote, report)
    except CacheError:
        if force:
            return None
        raise


def _longer_plans(remote: Remote, local: _Local, report: Report) -> list[str]:
    """The folders of the plans that have more epochs there than here; none where the store does not let them be read.

    The epochs here are the first of those there: a plan of the same name is the same plan."""
    folders = [name.removesuffix(f"/{PLAN_FILE}") for name in local.sizes if name.endswith(f"/{PLAN_FILE}")]
    longer = []
    for folder in folders:
        epochs = sum(name.startswith(f"{folder}/epoch-") for name in local.sizes)
        with contextlib.suppress(DeniedError):
            if stored_epochs(remote, f"{folder}/{PLAN_FILE}", local.manifest, report) > epochs:
                longer.append(folder)
    return longer


def _there(remote: Remote, report: Report, *manifests: Manifest) -> dict[str, int]:
    """The sizes of the files of caches with these splits that are there; none where they may not be listed."""
    found: dict[str, int] = {}
    for folder in {TOKENIZER, *(split for manifest in manifests for split in manifest.splits)}:
        report(0)
        with contextlib.suppress(DeniedError):
            found |= {f"{folder}/{name}": size for name, size in remote.sizes(folder).items()}
    return {name: size for name, size in found.items() if _FILE.fullmatch(name)}


def _read(remote: Remote, name: str, report: Report) -> bytes | None:
    try:
        return remote.read(name, MAX_MANIFEST_BYTES, report)
    except FileNotFoundError:
        return None


def push_goes_on(remote: Remote, data: bytes, report: Report, force: bool) -> bool:
    """Whether the push of the cache whose manifest is `data` was stopped before.

    Raises:
        InputError: another push is under way, or was stopped, and `force` is not set.
    """
    under_way = _read(remote, PUSHING, report)
    if under_way not in (None, data) and not force:
        raise InputError(
            f"{remote.url}: another cache is being pushed there, or its push was stopped; wait for it, "
            "push to another URL, or take its place with --force"
        )
    return under_way == data


class _Push:
    """One push to a store of objects; with `force` it takes the place of what another push left."""

    def __init__(
        self, remote: ObjectStore, local: _Local, old: RemoteCache | None, force: bool, progress: ConsoleProgress
    ) -> None:
        self.remote, self.local, self.old, self.force, self.progress = remote, local, old, force, progress

    def run(self) -> dict[str, int]:
        """Send what is not there; returns the sizes of what was sent, by name."""
        published = self.old is not None and self.old.data == self.local.data
        goes_on = published or watched(self._goes_on, self.remote.url)
        manifests = (self.local.manifest, *((self.old.manifest,) if self.old else ()))
        there = watched(lambda report: _there(self.remote, report, *manifests), self.remote.url)
        if not published:
            watched(self._begin, self.remote.url)
            transfer(sorted(there.keys() - self.local.sizes.keys()), self._remove, self.remote.url)
        kept = {name for name, size in there.items() if goes_on and self.local.sizes.get(name) == size}
        sent = {name: size for name, size in self.local.sizes.items() if name not in kept}
        if kept and not published:
            self.progress.log(f"{len(kept):,} of {len(self.local.sizes):,} files were pushed before")
        with self.progress.bar("pushing", sum(self.local.sizes.values()), "B") as bar:
            bar.update(sum(self.local.sizes.values()) - sum(sent.values()))
            for plans in (False, True):
                names = [name for name in sent if name.endswith(f"/{PLAN_FILE}") == plans]
                transfer(names, self._send, self.remote.url, bar, PATIENCE_S)
        if not published:
            watched(self._publish, self.remote.url)
            sent[MANIFEST] = len(self.local.data)
        return sent

    def _write(self, name: str, report: Report) -> None:
        self.remote.write(name, io.BytesIO(self.local.data), lambda _: report(0))

    def _goes_on(self, report: Report) -> bool:
        return push_goes_on(self.remote, self.local.data, report, self.force)

    def _begin(self, report: Report) -> None:
        """Withdraw the old cache; its files go or are replaced afterwards."""
        self.remote.remove(MANIFEST)
        self._write(PUSHING, report)

    def _remove(self, name: str, report: Report) -> None:
        self.remote.remove(name)
        report(0)

    def _send(self, name: str, report: Report) -> None:
        with self.local.open(name) as file:
            self.remote.write(name, file, report)

    def _publish(self, report: Report) -> None:
        other = f"{self.remote.url}: another push to this URL came between; push again when it has ended"
        mine = _read(self.remote, PUSHING, report) == self.local.data
        if not mine or _read(self.remote, MANIFEST, report) not in (None, self.local.data):
            raise StorageError(other)
        self._write(MANIFEST, report)
        if _read(self.remote, MANIFEST, report) != self.local.data:
            raise StorageError(other)
        self.remote.remove(PUSHING)


def _commit(remote: HubDataset, local: _Local, old: RemoteCache | None, progress: ConsoleProgress) -> dict[str, int]:
    """Send everything to the Hub in one commit; files that it has are not sent again."""
    there = watched(
        lambda report: _there(remote, report, local.manifest, *((old.manifest,) if old else ())), remote.url
    )
    published = old is not None and old.data == local.data
    if published and all(there.get(name) == size for name, size in local.sizes.items()):
        return {}
    total = sum(local.sizes.values()) + len(local.data)
    progress.log(f"sending {sized(total)} to the Hub, in one commit")
    stale = [] if published else sorted(there.keys() - local.sizes.keys())
    message = f"Cache {local.manifest.name}, fingerprint {local.manifest.fingerprint[:12]}"

    def commit(names: list[str], _: Report) -> None:
        with storage_errors(local.folder.path, "read"):
            folder = local.folder.checked_path()
            if wrong := [name for name in names if not local.folder.is_file(name)]:
                raise CorruptCacheError(f"{folder / wrong[0]}: is not a regular file")
        remote.publish({name: folder / name for name in names}, stale, message, not progress.quiet and is_terminal())

    transfer([[*local.sizes, MANIFEST]], commit, remote.url, patience_s=HUB_PATIENCE_S)
    return local.sizes | {MANIFEST: len(local.data)}
