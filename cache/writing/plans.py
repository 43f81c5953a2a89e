"""Storing plans in a cache, beside the shards: one file per epoch, `plan.json` last.

The cache may be a stranger's: everything is written and removed through `Folder`, which follows no link out of it.
"""

import contextlib
import re
from collections.abc import Callable

from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import InputError
from ..format.files import file_info
from ..format.plan_file import (
    PLAN_FILE,
    PLAN_ID,
    PLANS,
    EpochInfo,
    PlanOwner,
    StoredPlan,
    epoch_name,
    plan_json,
    read_plan,
)
from ..format.safetensors_writer import Tensor, write_safetensors
from ..plans.spec import PlanSpec
from ..plans.strategies import EpochPlan

_EPOCH = re.compile(r"epoch-\d{4,}\.safetensors")


def store_plan(
    cache: Folder, owner: PlanOwner, spec: PlanSpec, epochs: int, draw: Callable[[int], EpochPlan]
) -> StoredPlan:
    """Write those of the first `epochs` epochs of a plan that are not stored yet.

    Processes that store plans of one split at once take turns, and the second finds the work done. What a killed
    process or a full disk left behind is removed.

    Raises:
        StorageError: the folder cannot be written.
        CorruptCacheError: a folder of the cache is a link.
    """
    name = f"{owner.split}/{PLANS}"
    with (
        storage_errors(cache.path / name / spec.id),
        cache.folder(name, make=True) as plans,
        plans.locked(waiting=lambda: None) as alone,
    ):
        if alone:
            _remove_unfinished(plans)
        with plans.folder(spec.id, make=True) as folder:
            infos = _epochs_there(folder, owner)
            if alone:
                _remove_unlisted(folder, infos)
            try:
                for epoch in range(len(infos), epochs):
                    infos.append(_write_epoch(folder, epoch_name(epoch), draw(epoch)))
                stored = StoredPlan(spec, owner.rows, tuple(infos))
                folder.write(PLAN_FILE, plan_json(stored, owner))
            except (OSError, InputError):
                with contextlib.suppress(OSError):
                    _remove_unlisted(folder, _epochs_there(folder, owner))
                    _remove_unfinished(plans)
                raise
    return stored


def _epochs_there(folder: Folder, owner: PlanOwner) -> list[EpochInfo]:
    try:
        return list(read_plan(folder, owner).epochs)
    except FileNotFoundError:
        return []


def _remove_unfinished(plans: Folder) -> None:
    """Remove plans without a plan.json, while no other process writes any."""
    for name in filter(PLAN_ID.fullmatch, plans.names()):
        if not plans.is_file(f"{name}/{PLAN_FILE}"):
            plans.remove(name)


def _remove_unlisted(folder: Folder, infos: list[EpochInfo]) -> None:
    """Remove the epochs that plan.json does not list, and unfinished files."""
    listed = {info.file for info in infos}
    for name in [*folder.leftovers(), *filter(_EPOCH.fullmatch, folder.names())]:
        if name not in listed:
            folder.remove(name)


def _write_epoch(folder: Folder, name: str, plan: EpochPlan) -> EpochInfo:
    with folder.replace(name) as file:
        write_safetensors(file, {key: Tensor.of(array) for key, array in vars(plan).items()})
    info = file_info(folder, name)
    return EpochInfo(name, info.bytes, info.sha256, len(plan), plan.padded_tokens)
