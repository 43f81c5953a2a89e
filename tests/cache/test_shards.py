"""Shards whose header or values cannot be: refused before a row of them is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from cache import CorruptCacheError, open_cache

from ..helpers.hostile import REMEDY, at, header_of, refused, relisted, sound_cache, with_length


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return sound_cache(tmp_path / "toy")


def rewritten(place: Path, tensors: dict[str, Any], index: int = 0) -> None:
    """Replace tensors of a shard of train, with a manifest that lists its new size and checksum."""
    path = place / "train" / f"shard-{index:05d}.safetensors"
    safetensors.numpy.save_file({**safetensors.numpy.load_file(path), **tensors}, path)
    relisted(place, path, index)


def reheaded(place: Path, text: bytes, data: bytes) -> None:
    """Give the first shard of train another header."""
    path = place / "train" / "shard-00000.safetensors"
    path.write_bytes(with_length(text) + data)
    relisted(place, path)


@pytest.mark.parametrize(
    "change",
    [
        at("offsets", "data_offsets", value=[-8, 80]),
        at("offsets", "data_offsets", value=[0, 1 << 62]),
        at("offsets", "data_offsets", value=[88.0, 176.0]),
        at("labels", "data_offsets", value=[1, 81]),
        at("labels", "shape", value=[10, 1]),
        at("labels", "dtype", value="U64"),
        at("labels", "more", value=1),
        at("__metadata__", value={"a": "b"}),
        lambda header: header.pop("labels"),
        lambda header: header.update(labels=header.pop("labels")),
    ],
)
def test_another_header_than_the_library_writes_is_refused_at_opening(
    place: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    header, data = header_of(place / "train" / "shard-00000.safetensors")
    change(header)
    reheaded(place, json.dumps(header, separators=(",", ":")).encode(), data)
    with pytest.raises(CorruptCacheError, match=r'its header is .* expected .*"labels":{"dtype":"I64"') as error:
        open_cache(place)
    assert "shard-00000.safetensors" in str(error.value)
    assert REMEDY in str(error.value)


@pytest.mark.parametrize("head", [b"\xff" * 8 + b" " * 400, b"\0" * 8, b"\0" * 7, b""])
def test_bytes_that_are_no_header_are_refused(place: Path, head: bytes) -> None:
    path = place / "train" / "shard-00000.safetensors"
    path.write_bytes(head)
    relisted(place, path)
    refused(place, "its header is", str(path), REMEDY)


@pytest.mark.parametrize("more", [b"", b"\0"])
def test_a_shard_that_its_tensors_do_not_fill_is_refused(place: Path, more: bytes) -> None:
    path = place / "train" / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[: None if more else -1] + more)
    relisted(place, path)
    refused(place, "bytes long and its header is", str(path), REMEDY)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"labels": np.full(10, 2)}, "a label outside 0..1"),
        ({"labels": np.full(10, -1)}, "a label outside 0..1"),
        ({"labels": np.full(10, -(1 << 63))}, "a label outside 0..1"),
        ({"labels": np.full(10, np.nan)}, "its header is"),
        ({"source_rows": np.full(10, -1)}, "a negative source row"),
    ],
)
def test_labels_and_source_rows_that_cannot_be_are_refused(place: Path, tensors: dict[str, Any], says: str) -> None:
    rewritten(place, tensors)
    refused(place, says, "shard-00000.safetensors", REMEDY, verify=True)


def test_ids_beyond_the_vocabulary_never_leave_the_cache(place: Path) -> None:
    path = place / "train" / "shard-00000.safetensors"
    ids = safetensors.numpy.load_file(path)["input_ids"]
    rewritten(place, {"input_ids": np.full_like(ids, 205)})
    refused(place, "holds the id 205", "ends at 204", REMEDY)
    refused(place, "holds the id 205", REMEDY, verify=True)
    train = open_cache(place)["train"]
    for read in (
        lambda: list(train.batches(feed="resident")),
        lambda: list(train.batches(feed="streamed")),
        lambda: list(train.batches(packed=True)),
        lambda: train[0],
    ):
        with pytest.raises(CorruptCacheError, match="holds the id 205, its vocabulary ends at 204"):
            read()


@pytest.mark.parametrize("edge", [0, -1])
@pytest.mark.parametrize("value", [1, -1, 1 << 62])
def test_offsets_wrong_at_the_edge_of_a_shard_are_refused_at_opening(place: Path, edge: int, value: int) -> None:
    offsets = safetensors.numpy.load_file(place / "train" / "shard-00000.safetensors")["offsets"]
    offsets[edge] += value
    rewritten(place, {"offsets": offsets})
    with pytest.raises(CorruptCacheError, match="its offsets run from") as error:
        open_cache(place)
    assert REMEDY in str(error.value)


@pytest.mark.parametrize("value", [-(1 << 62), 1 << 62, 0])
def test_offsets_wrong_inside_a_shard_are_refused_before_a_row_of_it_is_read(place: Path, value: int) -> None:
    offsets = safetensors.numpy.load_file(place / "train" / "shard-00000.safetensors")["offsets"]
    offsets[5] = value
    rewritten(place, {"offsets": offsets})
    refused(place, "do not have the lengths", "shard-00000.safetensors", REMEDY)
    refused(place, "do not have the lengths", "shard-00000.safetensors", REMEDY, verify=True)
