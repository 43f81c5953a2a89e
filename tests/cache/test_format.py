"""The format, to the byte: golden files, and the safetensors library reads the same arrays."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cache import Cache, EpochPlan, PlanSpec, open_cache
from cache.common.folder import Folder
from cache.format.checksummed_json import seal
from cache.format.manifest import Manifest, SplitInfo, TokenizerInfo, fingerprint_of, shard_tensors
from cache.format.tasks import Task
from cache.writing.publishing import publish, staging
from cache.writing.writer import ShardColumns, write_manifest, write_shard, write_tokenizer

from ..helpers.files import content

TOKENIZER = b'{"version": "1.0", "model": {"type": "WordPiece"}}\n'
SPEC = PlanSpec("smart", 2, None, 3)


def write_golden(place: Path) -> Cache:
    """Five rows in two shards and a plan of two epochs, every value given."""
    lengths = np.array([2, 3, 3, 4, 5])
    with staging(place) as folder:
        files = write_tokenizer(folder, {"tokenizer.json": TOKENIZER})
        first = ShardColumns(np.arange(8, dtype=np.uint16), lengths[:3], np.array([4, 0, 3]), np.array([0, 1, 1]))
        second = ShardColumns(np.arange(8, 17, dtype=np.uint16), lengths[3:], np.array([1, 2]), np.array([1, 0]))
        shards = tuple(write_shard(folder, "train", index, part) for index, part in enumerate((first, second)))
        manifest = Manifest(
            name="golden",
            fingerprint=fingerprint_of({"text": "golden", "é": 1}),
            source={"kind": "file", "argument": "golden.csv", "columns": ["text", "label"]},
            tokenizer=TokenizerInfo("toy", None, files[0].sha256, 32, 0, "right", files),
            max_length=8,
            task=Task("classification", ("schlecht", "schön")),
            plan=SPEC,
            splits={"train": SplitInfo(5, 17, 2, 5, (0, 0, 1, 2, 1, 1), shards)},
            build={"engine": "none"},
            created="2026-01-01T00:00:00Z",
        )
        write_manifest(folder, manifest)
        publish(folder, place)
    cache = open_cache(place)
    cache["train"].keep_plan(SPEC, 2)
    return cache


GOLDEN = {
    "manifest.json": "b6599c3e9da405fce604026726d7a42b",
    "tokenizer/tokenizer.json": "57e581c3649293a7eace115171ac0e4e",
    "train/plans/smart-b2-s3/epoch-0000.safetensors": "28b5849b4cf2632128a802f48a35758c",
    "train/plans/smart-b2-s3/epoch-0001.safetensors": "ca679a14d59b23b8da7100fa615d800c",
    "train/plans/smart-b2-s3/plan.json": "fca6a259a9fee5e1ffd447178bcb23ea",
    "train/shard-00000.safetensors": "843c1bce6562c1ddee59ccf7d84c6ff2",
    "train/shard-00001.safetensors": "b5959c8f1d72650b05f38b28cfeb73b0",
}


@pytest.fixture
def golden(tmp_path: Path) -> Cache:
    return write_golden(tmp_path / "golden")


def test_every_file_is_pinned_to_the_byte(golden: Cache) -> None:
    """If this fails by intent, raise the format's version."""
    digests = {name: hashlib.sha256(data).hexdigest()[:32] for name, data in content(golden.folder).items()}
    assert digests == GOLDEN


def test_the_manifest_reads_as_documented(golden: Cache) -> None:
    raw = json.loads((golden.folder / "manifest.json").read_bytes())
    assert " ".join(raw) == (
        "format version name fingerprint source tokenizer max_length task plan splits build created checksum"
    )
    assert (raw["format"], raw["version"]) == ("lengthwise-cache", 1)
    assert " ".join(raw["tokenizer"]) == "name revision sha256 vocab_size pad_id padding_side files"
    assert raw["task"] == {"kind": "classification", "label_names": ["schlecht", "schön"], "pair": False}
    split = raw["splits"]["train"]
    assert " ".join(split) == "rows tokens shortest longest length_histogram shards"
    assert (split["rows"], split["tokens"], split["shortest"], split["longest"]) == (5, 17, 2, 5)
    assert split["length_histogram"] == [0, 0, 1, 2, 1, 1]
    assert [" ".join(shard) for shard in split["shards"]] == ["file bytes sha256 rows tokens"] * 2
    for shard in split["shards"]:
        data = (golden.folder / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])


def test_the_last_field_is_the_sha256_of_the_rest(golden: Cache) -> None:
    for name in ("manifest.json", "train/plans/smart-b2-s3/plan.json"):
        data = (golden.folder / name).read_bytes()
        head, tail = data.split(b',\n  "checksum": "')
        assert tail == hashlib.sha256(head + b"\n}\n").hexdigest().encode() + b'"\n}\n'


def test_the_safetensors_library_reads_the_same_arrays(golden: Cache) -> None:
    split = golden["train"]
    start = 0
    for index, info in enumerate(split.info.shards):
        loaded = safetensors.numpy.load_file(golden.folder / info.file)
        own = split.shard(index)
        expected = shard_tensors(info.rows, info.tokens, 32)
        assert set(loaded) == set(own) == set(expected)
        for name, array in loaded.items():
            assert array.dtype == own[name].dtype
            assert np.array_equal(array, own[name])
        assert loaded["offsets"].tolist() == np.cumsum([0, *split.lengths[start : start + info.rows]]).tolist()
        start += info.rows
    assert safetensors.numpy.load_file(golden.folder / "train/shard-00000.safetensors")["labels"].tolist() == [0, 1, 1]


def test_the_safetensors_library_reads_the_same_plans(golden: Cache) -> None:
    for epoch in (0, 1):
        loaded = safetensors.numpy.load_file(golden.folder / f"train/plans/smart-b2-s3/epoch-{epoch:04d}.safetensors")
        for plan in (golden["train"].plan(SPEC, epoch), golden["train"].draw(SPEC, epoch)):
            same_plan(EpochPlan(**loaded), plan)


def same_plan(one: EpochPlan, two: EpochPlan) -> None:
    for name, array in vars(one).items():
        assert array.dtype == getattr(two, name).dtype
        assert np.array_equal(array, getattr(two, name))


def test_plan_json_reads_as_documented(golden: Cache) -> None:
    raw = json.loads((golden.folder / "train/plans/smart-b2-s3/plan.json").read_bytes())
    assert " ".join(raw) == "format version cache split rows strategy batch_size max_tokens seed epochs checksum"
    assert (raw["format"], raw["version"], raw["cache"]) == ("lengthwise-plan", 1, golden.manifest.fingerprint)
    assert (raw["split"], raw["rows"], raw["strategy"], raw["batch_size"], raw["seed"]) == ("train", 5, "smart", 2, 3)
    assert [" ".join(epoch) for epoch in raw["epochs"]] == ["file bytes sha256 batches padded_tokens"] * 2
    assert [epoch["batches"] for epoch in raw["epochs"]] == [3, 3]


def test_ids_take_two_bytes_up_to_65536_of_them_and_four_beyond(tmp_path: Path) -> None:
    assert shard_tensors(1, 2, 1 << 16)["input_ids"] == ("U16", (2,))
    assert shard_tensors(1, 2, (1 << 16) + 1)["input_ids"] == ("U32", (2,))
    columns = ShardColumns(np.array([70_000, 1], np.uint32), np.array([2]), np.array([0]), np.array([0]))
    info = write_shard(Folder.open(tmp_path), "train", 0, columns)
    loaded = safetensors.numpy.load_file(tmp_path / info.file)
    assert loaded["input_ids"].tolist() == [70_000, 1]
    assert loaded["input_ids"].dtype == np.uint32


def test_the_fingerprint_depends_on_content_and_not_on_its_order() -> None:
    assert fingerprint_of({"a": 1, "b": [2]}) == fingerprint_of({"b": [2], "a": 1})
    assert len({fingerprint_of(content) for content in ({}, {"a": 1}, {"a": 2}, {"a": "1"})}) == 4


def test_the_creation_time_and_the_build_are_no_part_of_the_fingerprint(golden: Cache) -> None:
    later = dataclasses.replace(golden.manifest, created="2027-01-01T00:00:00Z", build={"engine": "other"})
    assert later.fingerprint == golden.manifest.fingerprint
    assert later.to_bytes() != golden.manifest.to_bytes()


def test_lists_of_numbers_stand_on_one_line_and_texts_that_look_like_them_stay_as_they_are() -> None:
    content = {"counts": [1, 2, 3], "texts": ["[\n  1,\n  2\n]", "a"], "mixed": [[1], ["x"], []], "none": []}
    text = seal(content).decode()
    assert '"counts": [1, 2, 3]' in text
    assert {**json.loads(text), "checksum": None} == {**content, "checksum": None}
