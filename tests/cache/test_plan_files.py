"""Stored plans that are none of their split: refused, with the folder to delete."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from cache import CorruptCacheError, FormatVersionError, LengthwiseError, MismatchError, PlanSpec, open_cache
from cache.format.files import sha256_file

from ..helpers.caches import write_cache
from ..helpers.hostile import HUGE, PLAN, at, refused, resealed, sound_cache


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return sound_cache(tmp_path / "toy")


def replanned(place: Path, plan_id: str = "smart-b8-s0", **tensors: Any) -> Path:
    """Replace tensors of epoch 0 of a plan, and seal its plan.json to fit."""
    folder = place / "train" / "plans" / plan_id
    path = folder / "epoch-0000.safetensors"
    arrays = {**safetensors.numpy.load_file(path), **tensors}
    safetensors.numpy.save_file(arrays, path)

    def change(content: dict[str, Any]) -> None:
        sizes, widths = np.diff(arrays["batch_offsets"].astype(object)), arrays["widths"].astype(object)
        content["epochs"][0] |= {
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
            "batches": len(widths),
            "padded_tokens": int(max(0, min((sizes * widths).sum(), 1 << 40))) if len(sizes) == len(widths) else 0,
        }

    resealed(folder / "plan.json", change)
    return path


def sound_plan(place: Path, plan_id: str = "smart-b8-s0") -> dict[str, Any]:
    return safetensors.numpy.load_file(place / "train" / "plans" / plan_id / "epoch-0000.safetensors")


def with_value(array: Any, index: int, value: int) -> Any:
    array = array.copy()
    array[index] = value
    return array


ONE_BATCH = {
    "rows": np.arange(20, dtype=np.uint32),
    "batch_offsets": np.array([0, 20]),
    "widths": np.array([8], np.int32),
}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: {"rows": with_value(p["rows"], 3, 20)}, "a row outside 0..19"),
        (lambda p: {"rows": with_value(p["rows"], 3, (1 << 32) - 1)}, "a row outside 0..19"),
        (lambda p: {"rows": with_value(p["rows"], 3, p["rows"][4])}, "leaves out row"),
        (lambda p: {"rows": p["rows"][::-1].copy()}, "do not ascend"),
        (lambda p: {"rows": p["rows"].astype(np.int64)}, "its header is"),
        (lambda p: {"rows": p["rows"][:-1]}, "its header is"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 0, 1)}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], -1, 19)}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 1, -(1 << 62))}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 1, (1 << 63) - 1)}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 1, 0)}, "do not follow one another"),
        (lambda p: {"batch_offsets": np.zeros(0, np.int64)}, "its header is"),
        (lambda p: {"widths": with_value(p["widths"], 0, 1)}, "does not fit its rows"),
        (lambda p: {"widths": with_value(p["widths"], 0, -1)}, "does not fit its rows"),
        (lambda p: {"widths": with_value(p["widths"], 0, (1 << 31) - 1)}, "does not fit its rows"),
        (lambda p: ONE_BATCH, "a batch of 20 passes the plan's limit of 8"),
        (
            lambda p: {"rows": p["rows"] * 0, "batch_offsets": np.zeros(1, np.int64), "widths": p["widths"][:0]},
            "leaves out",
        ),
    ],
)
def test_a_plan_that_is_none_of_its_split_is_refused(
    place: Path, make: Callable[[dict[str, Any]], dict[str, Any]], says: str
) -> None:
    path = replanned(place, **make(sound_plan(place)))
    refused(place, says, str(path), f"rm -r {path.parent}")
    refused(place, says, str(path), verify=True)


def test_a_batch_beyond_the_token_budget_is_refused(place: Path) -> None:
    spec = PlanSpec("budget", None, 40)
    open_cache(place)["train"].keep_plan(spec, 1)
    replanned(place, spec.id, **ONE_BATCH)
    refused(place, "a batch of 160 passes the plan's limit of 40; the plan is drawn again")


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (at("cache", value="0" * 64), MismatchError, "of the cache 000000000000"),
        (at("split", value="test"), MismatchError, "of split 'test'"),
        (at("rows", value=19), MismatchError, "19 rows"),
        (at("rows", value=-1), CorruptCacheError, "'rows' is -1"),
        (at("version", value=9), FormatVersionError, "reads version 1; the plan is drawn again"),
        (at("version", value="1"), CorruptCacheError, "'version' is '1'"),
        (lambda content: content.pop("version"), CorruptCacheError, "'version' is None"),
        (lambda content: content.pop("seed"), CorruptCacheError, "seed None"),
        (lambda content: content.pop("epochs"), CorruptCacheError, "'epochs' is None"),
        (at("format", value="lengthwise-cache"), CorruptCacheError, "not a lengthwise-plan file"),
        (at("strategy", value="wise"), CorruptCacheError, "--strategy 'wise'"),
        (at("strategy", value={}), CorruptCacheError, "--strategy {}"),
        (at("strategy", value="tight"), CorruptCacheError, "holds the plan tight-b8-s0"),
        (at("batch_size", value=1 << 40), CorruptCacheError, "--batch-size"),
        (at("seed", value=None), CorruptCacheError, "seed None"),
        (at("epochs", value=None), CorruptCacheError, "'epochs' is None"),
        (at("epochs", 0, "file", value="../../shard-00000.safetensors"), CorruptCacheError, "expected epoch-0000"),
        (at("epochs", 0, "batches", value=21), CorruptCacheError, "'batches' is 21"),
        (at("epochs", 0, "batches", value=2), CorruptCacheError, "its header is"),
        (at("epochs", 0, "bytes", value=HUGE), CorruptCacheError, "bytes long, expected"),
        (at("epochs", 0, "padded_tokens", value=1), CorruptCacheError, "plan.json says 1"),
        (lambda content: content["epochs"].reverse(), CorruptCacheError, "expected epoch-0000"),
        (lambda content: content["epochs"].append(content["epochs"][0]), CorruptCacheError, "expected epoch-0002"),
    ],
)
def test_a_plan_json_that_says_what_cannot_be_is_refused(
    place: Path, change: Callable[[dict[str, Any]], Any], kind: type[LengthwiseError], says: str
) -> None:
    resealed(place / PLAN, change)
    refused(place, says, "smart-b8-s0", kind=kind)


def test_an_epoch_is_a_number_from_0(place: Path) -> None:
    with pytest.raises(LengthwiseError, match="epoch -1 is negative"):
        open_cache(place)["train"].batches(-1)


def test_a_plan_folder_that_is_a_link_is_refused_and_what_it_points_to_stays(tmp_path: Path) -> None:
    """A stranger's cache cannot have files written or removed outside itself."""
    split = write_cache(tmp_path / "toy", {"train": 20})["train"]
    spec, outside = PlanSpec("smart", 4), tmp_path / "outside"
    outside.mkdir()
    (outside / ".hidden").write_text("keep")
    plans = split.folder / "train" / "plans"
    plans.mkdir(exist_ok=True)
    (plans / spec.id).symlink_to(outside)
    with pytest.raises(CorruptCacheError, match="is a link"):
        split.keep_plan(spec, 2)
    (plans / spec.id).unlink()
    plans.rmdir()
    plans.symlink_to(outside)
    with pytest.raises(CorruptCacheError, match="is a link"):
        split.keep_plan(spec, 2)
    assert [path.name for path in outside.iterdir()] == [".hidden"]
