"""Fuzzing of everything that parses a cache: a typed error or a sound value, whatever the bytes."""

import contextlib
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import CorruptCacheError, FormatVersionError, LengthwiseError, MismatchError, PlanSpec, plan_epoch
from cache.format.checksummed_json import seal
from cache.format.manifest import Manifest, shard_tensors
from cache.format.plan_file import PlanOwner, _fault, _unfit, parse_plan
from cache.format.safetensors_file import check_header
from cache.plans.strategies import EpochPlan

from ..helpers.caches import write_cache
from ..helpers.fuzzing import fuzz, mutated_bytes, mutated_header, mutated_json

pytestmark = pytest.mark.slow

MANIFEST = Path("manifest.json")
REFUSED = (CorruptCacheError, FormatVersionError, MismatchError)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a small cache's files, by kind."""
    cache = write_cache(tmp_path_factory.mktemp("seeds") / "toy", {"train": 6, "test": 1}, shards=2, max_length=4)
    spec = PlanSpec("smart", 2)
    cache["train"].keep_plan(spec, 2)
    folder = cache.folder
    return {
        "manifest": (folder / "manifest.json").read_bytes(),
        "plan": (folder / "train" / "plans" / spec.id / "plan.json").read_bytes(),
        "shard": (folder / "train" / "shard-00000.safetensors").read_bytes(),
    }


def content_of(data: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(data)
    del content["checksum"]
    return content


def read_manifest(data: bytes) -> None:
    manifest = Manifest.from_bytes(data, MANIFEST)
    assert Manifest.from_bytes(manifest.to_bytes(), MANIFEST) == manifest
    for split in manifest.splits.values():
        assert sum(split.length_histogram) == split.rows == sum(shard.rows for shard in split.shards)
        assert split.longest <= manifest.max_length
        assert not any(".." in shard.file or shard.file.startswith("/") for shard in split.shards)


def sealed(read: Callable[[bytes], None]) -> Callable[[Any], None]:
    def target(content: Any) -> None:
        try:
            data = seal(content)
        except (ValueError, TypeError):
            return
        read(data)

    return target


def read_plan(cache: str, data: bytes) -> None:
    path = Path("train/plans/smart-b2-s0/plan.json")
    plan = parse_plan(data, path, PlanOwner(cache, "train", 6))
    assert plan.spec == PlanSpec("smart", 2)
    assert [epoch.file for epoch in plan.epochs] == [f"epoch-{i:04d}.safetensors" for i in range(len(plan.epochs))]


def read_header(shard: bytes, expected: dict[str, Any], head: bytes) -> None:
    """The header replaced by `head`, the data as it was."""
    data = head + shard[8 + int.from_bytes(shard[:8], "little") :]
    offsets = check_header(io.BytesIO(data), len(data), expected, Path("shard"))
    spans = sorted(
        (offset, offset + np.prod(expected[name][1]) * item(expected[name][0])) for name, offset in offsets.items()
    )
    assert spans[-1][1] == len(data)
    assert all(one[1] == two[0] for one, two in pairwise(spans))


def item(dtype: str) -> int:
    return int(dtype[1:]) // 8


LENGTHS = np.array([1, 2, 2, 3, 3, 3, 4, 4, 4, 4], np.int32)
SPECS = (PlanSpec("smart", 3), PlanSpec("fixed", 4), PlanSpec("budget", None, 9))


def read_arrays(content: Any) -> None:
    """Arrays of a plan, of the shapes that its header promises."""
    try:
        spec = SPECS[content["spec"]]
        arrays = (
            np.array(content["rows"], np.uint32),
            np.array(content["offsets"], np.int64),
            np.array(content["widths"], np.int32),
        )
    except (ValueError, TypeError, KeyError, OverflowError, IndexError):
        return
    batches = arrays[2].size
    if [array.shape for array in arrays] != [(10,), (batches + 1,), (batches,)]:
        return
    plan = EpochPlan(*arrays)
    if fault := _fault(plan, LENGTHS) or _unfit(plan, spec, LENGTHS, 5):
        raise CorruptCacheError(fault)
    assert sorted(plan.rows.tolist()) == list(range(10))
    for batch, width in zip(np.split(plan.rows, plan.batch_offsets[1:-1]), plan.widths, strict=True):
        assert len(batch)
        assert width == (5 if spec.strategy == "fixed" else LENGTHS[batch].max())


def fuzz_manifests(seeds: dict[str, bytes], inputs: int) -> int:
    return fuzz([content_of(seeds["manifest"])], mutated_json, sealed(read_manifest), inputs, REFUSED)


def fuzz_manifest_bytes(seeds: dict[str, bytes], inputs: int) -> int:
    return fuzz([seeds["manifest"]], mutated_bytes, read_manifest, inputs, REFUSED)


def fuzz_plan_files(seeds: dict[str, bytes], inputs: int) -> int:
    content = content_of(seeds["plan"])
    return fuzz([content], mutated_json, sealed(lambda data: read_plan(content["cache"], data)), inputs, REFUSED)


def fuzz_headers(seeds: dict[str, bytes], inputs: int) -> int:
    shard = seeds["shard"]
    length = int.from_bytes(shard[:8], "little")
    header = json.loads(shard[8 : 8 + length])
    expected = shard_tensors(header["labels"]["shape"][0], header["input_ids"]["shape"][0], 205)
    check_header(io.BytesIO(shard), len(shard), expected, Path("shard"))
    read = lambda head: read_header(shard, expected, head)  # noqa: E731
    return fuzz([shard[: 8 + length]], mutated_header, read, inputs, REFUSED)


def fuzz_plan_arrays(seeds: dict[str, bytes], inputs: int) -> int:
    plans = [
        {"spec": index, "rows": p.rows.tolist(), "offsets": p.batch_offsets.tolist(), "widths": p.widths.tolist()}
        for index, p in enumerate(plan_epoch(LENGTHS, spec, 0, 5) for spec in SPECS)
    ]
    for plan in plans:
        read_arrays(plan)
    return fuzz(plans, mutated_json, read_arrays, inputs, REFUSED)


FUZZERS = (fuzz_manifests, fuzz_manifest_bytes, fuzz_plan_files, fuzz_headers, fuzz_plan_arrays)


@pytest.mark.parametrize("run", FUZZERS)
def test_fuzzed_input_is_refused_with_a_typed_error_or_sound(
    run: Callable[[dict[str, bytes], int], int], seeds: dict[str, bytes]
) -> None:
    assert run(seeds, 400) > 5


@pytest.mark.faults
@pytest.mark.parametrize(("run", "inputs"), list(zip(FUZZERS, (40_000, 80_000, 80_000, 400_000, 400_000), strict=True)))
def test_a_million_fuzzed_inputs(
    run: Callable[[dict[str, bytes], int], int], inputs: int, seeds: dict[str, bytes]
) -> None:
    """Together; more of those that are quick."""
    messages = run(seeds, inputs)
    print(f"{inputs:,} inputs, refused with {messages:,} different messages")
    assert messages > 5


def test_the_fuzzer_finds_an_error_that_is_no_typed_one() -> None:
    def target(data: bytes) -> None:
        try:
            json.loads(data)["a"]
        except ValueError as error:
            raise LengthwiseError from error

    with pytest.raises((TypeError, KeyError, IndexError)) as error:
        fuzz([b'{"a": 1}'], mutated_bytes, lambda data: quiet(target, data), 5000)
    assert error.value.__notes__[0].startswith("input: b'")


def quiet(target: Callable[[bytes], None], data: bytes) -> None:
    with contextlib.suppress(LengthwiseError):
        target(data)
