"""Storing plans beside the shards they are of: one file per epoch, `plan.json` last.

The cache may be a stranger's: everything is written and removed through `Folder`, which follows no link out of it.
"""

from collections.abc import Callable
from pathlib import Path

from ..common.files import storage_errors
from ..common.folder import Folder
from ..format.files import open_file_info
from ..format.plan_file import (
    MAX_PLAN_BYTES,
    PLAN_FILE,
    PLANS,
    EpochInfo,
    StoredPlan,
    epoch_name,
    parse_plan,
    plan_json,
)
from ..format.safetensors_writer import Tensor, write_safetensors
from ..plans.spec import PlanSpec
from ..plans.strategies import EpochPlan


def store_plan(
    split_folder: Path,
    fingerprint: str,
    rows: int,
    spec: PlanSpec,
    epochs: int,
    draw: Callable[[int], EpochPlan],
) -> StoredPlan:
    """Write those of the first `epochs` epochs of a plan that are not there yet into a split's folder.

    Two processes that store one plan at once take turns, and the second finds the work done.

    Args:
        split_folder: `<cache>/<split>`.
        fingerprint: of the cache.
        rows: rows of the split.
        spec: the plan's settings.
        epochs: how many epochs are wanted.
        draw: makes the plan of one epoch.

    Raises:
        StorageError: the folder cannot be written.
        CorruptCacheError: a link stands where a folder of the cache should be.
    """
    path = split_folder / PLANS / spec.id
    with (
        storage_errors(path),
        Folder.open(split_folder.parent) as cache,
        cache.folder(f"{split_folder.name}/{PLANS}", make=True) as plans,
        plans.folder(spec.id, make=True) as folder,
        folder.locked(waiting=lambda: None) as alone,
    ):
        plans.sync()
        if alone:
            _remove_debris(folder)
        infos = _epochs_there(folder, fingerprint, split_folder.name, rows)
        for epoch in range(len(infos), epochs):
            infos.append(_write_epoch(folder, epoch_name(epoch), draw(epoch)))
        stored = StoredPlan(path, spec, rows, tuple(infos))
        folder.write(PLAN_FILE, plan_json(stored, fingerprint))
    return stored


def _epochs_there(folder: Folder, fingerprint: str, split: str, rows: int) -> list[EpochInfo]:
    try:
        data = folder.read(PLAN_FILE, MAX_PLAN_BYTES)
    except FileNotFoundError:
        return []
    return list(parse_plan(data, folder.path / PLAN_FILE, fingerprint, split, rows).epochs)


def _remove_debris(folder: Folder) -> None:
    """Remove what a killed process left of files it was writing."""
    for name in folder.names():
        if name.startswith("."):
            folder.remove(name)


def _write_epoch(folder: Folder, name: str, plan: EpochPlan) -> EpochInfo:
    arrays = {"rows": plan.rows, "batch_offsets": plan.batch_offsets, "widths": plan.widths}
    with folder.replace(name) as file:
        write_safetensors(file, {key: Tensor.of(array) for key, array in arrays.items()})
    with folder.open_file(name) as file:
        info = open_file_info(name, file)
    return EpochInfo(name, info.bytes, info.sha256, len(plan), plan.padded_tokens)
