"""Storing plans beside the shards they are of: one file per epoch, `plan.json` last."""

from collections.abc import Callable
from pathlib import Path

import safetensors.numpy

from ..common.files import locked, replacing, storage_errors, sync
from ..errors import NotACacheError
from ..format.files import file_info
from ..format.plan_file import PLAN_FILE, PLANS, EpochInfo, StoredPlan, epoch_name, plan_json, read_plan
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
    """
    folder = split_folder / PLANS / spec.id
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{spec.id}.lock"), waiting=lambda owner: None) as alone:
            if alone:
                _remove_debris(folder)
            infos = _epochs_there(folder, fingerprint, rows)
            for epoch in range(len(infos), epochs):
                infos.append(_write_epoch(folder / epoch_name(epoch), draw(epoch)))
            stored = StoredPlan(folder, spec, rows, tuple(infos))
            with replacing(folder / PLAN_FILE) as temporary:
                temporary.write_bytes(plan_json(stored, fingerprint))
            sync(folder)
    return stored


def _epochs_there(folder: Path, fingerprint: str, rows: int) -> list[EpochInfo]:
    try:
        return list(read_plan(folder / PLAN_FILE, fingerprint, folder.parent.parent.name, rows).epochs)
    except NotACacheError:
        return []


def _remove_debris(folder: Path) -> None:
    """Remove what a killed process left of files it was writing."""
    for path in folder.glob(".*"):
        path.unlink(missing_ok=True)


def _write_epoch(path: Path, plan: EpochPlan) -> EpochInfo:
    tensors = {"rows": plan.rows, "batch_offsets": plan.batch_offsets, "widths": plan.widths}
    with replacing(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)
        info = file_info(temporary)
    return EpochInfo(path.name, info.bytes, info.sha256, len(plan), plan.padded_tokens)
