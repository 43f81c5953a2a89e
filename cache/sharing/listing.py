"""Which caches are at a URL, and what one consists of: its manifest, the files that it lists, the plans beside them.

All of it may be a stranger's. Names and sizes are those that the parsers of manifests and plans let pass, and a file
is fetched only if it is listed with a checksum.
"""

from dataclasses import dataclass
from pathlib import Path

from ..errors import CacheError, CorruptCacheError, MismatchError, NotACacheError
from ..format.files import FileInfo
from ..format.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest
from ..format.plan_file import MAX_PLAN_BYTES, PLAN_FILE, PLAN_ID, PLANS, PlanOwner, parse_plan
from ..remote.base import Remote
from ..remote.failures import DeniedError
from ..remote.opening import open_remote
from ..remote.transfer import Report, transfer, watched
from ..remote.urls import parse_url

MAX_PLANS = 1000
"""Most plans of a split that are taken."""


@dataclass(frozen=True)
class RemoteCache:
    """A cache elsewhere.

    Attributes:
        data: its manifest's bytes.
        manifest: what they say.
    """

    data: bytes
    manifest: Manifest


@dataclass(frozen=True)
class RemotePlan:
    """A plan elsewhere.

    Attributes:
        folder: its path below the cache.
        data: the bytes of its plan.json.
        files: of its epochs.
    """

    folder: str
    data: bytes
    files: list[FileInfo]


def find_cache(remote: Remote, report: Report) -> RemoteCache | None:
    """The cache at the URL of `remote`, None where there is no manifest.

    Raises:
        CorruptCacheError, FormatVersionError: the manifest is not as one is written.
    """
    try:
        data = remote.read(MANIFEST, MAX_MANIFEST_BYTES, report)
    except FileNotFoundError:
        return None
    try:
        return RemoteCache(data, Manifest.from_bytes(data, Path(MANIFEST)))
    except CacheError as error:
        raise type(error)(f"{remote.url}: {error}") from None


def read_cache(remote: Remote, report: Report) -> RemoteCache:
    """The cache at the URL of `remote`.

    Raises:
        NotACacheError: there is none.
        InputError: there is no such bucket.
        CorruptCacheError, FormatVersionError: see `find_cache`.
    """
    found = find_cache(remote, report)
    if found is None:
        remote.check()
        raise NotACacheError(
            f"{remote.url} has no manifest, so it is not a cache; `prep list {remote.url.parent}` shows those beside "
            f"it, `prep push CACHE {remote.url}` puts one there"
        )
    return found


def stored_epochs(remote: Remote, name: str, manifest: Manifest, report: Report) -> int:
    """How many epochs of a plan a remote cache has; 0 where its plan.json cannot be used, whose name is such as
    train/plans/smart-b16-s0/plan.json.

    Raises:
        DeniedError: the store does not let these credentials look.
    """
    split = name.partition("/")[0]
    try:
        data = remote.read(name, MAX_PLAN_BYTES, report)
        plan = parse_plan(data, Path(name), PlanOwner(manifest.fingerprint, split, manifest.splits[split].rows))
    except (FileNotFoundError, CacheError):
        return 0
    return len(plan.epochs)


def read_plans(remote: Remote, manifest: Manifest, report: Report) -> list[RemotePlan]:
    """The complete plans of a remote cache; none where the files of a folder may not be listed.

    Those of another cache, which a push that was stopped may have left, are passed over: plans can be drawn anew.

    Raises:
        CorruptCacheError, FormatVersionError: a plan.json is damaged.
    """
    found = []
    for split, info in manifest.splits.items():
        report(0)
        try:
            names = remote.sizes(f"{split}/{PLANS}")
        except DeniedError:
            continue
        ids = [name.removesuffix(f"/{PLAN_FILE}") for name in sorted(names) if name.endswith(f"/{PLAN_FILE}")]
        for plan_id in list(filter(PLAN_ID.fullmatch, ids))[:MAX_PLANS]:
            folder = f"{split}/{PLANS}/{plan_id}"
            try:
                data = remote.read(f"{folder}/{PLAN_FILE}", MAX_PLAN_BYTES, report)
                owner = PlanOwner(manifest.fingerprint, split, info.rows)
                plan = parse_plan(data, Path(plan_id, PLAN_FILE), owner)
            except (MismatchError, FileNotFoundError):
                continue
            except CorruptCacheError as error:
                raise CorruptCacheError(
                    f"{remote.url / folder}: {error}; remove it there: plans are drawn anew"
                ) from None
            files = [FileInfo(f"{folder}/{epoch.file}", epoch.bytes, epoch.sha256) for epoch in plan.epochs]
            found.append(RemotePlan(folder, data, files))
    return found


def find_remote_caches(url: str) -> list[tuple[str, Manifest]]:
    """The URLs and manifests of the caches at a URL or directly below it, by name; those that are damaged are left out.

    Raises:
        InputError: `url` is not a URL, or names no bucket.
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
