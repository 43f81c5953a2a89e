"""Shards whose header or values cannot be: refused before a row of them is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from cache import (
    CorruptCacheError,
    open_cache,
)

from ..helpers.hostile import (
    REMEDY,
    at,
    header_of,
    refused,
    relisted,
    sound_cache,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return sound_cache(tmp_path / "toy")


def rewritten(place: Path, tensors: dict[str, Any], index: int = 0) -> None:
    """Replace tensors of a shard of train, with a manifest that lists its new size and checksum."""
    path = place / "train" / f"shard-{index:05d}.safetensors"
    safetensors.numpy.save_file({**safetensors.numpy.load_file(path), **tensors}, path)
    relisted(place, path, index)


def reheaded(place: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    """Give the first shard of train another header, padded to a multiple of 8 as the library does."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = place / "train" / "shard-00000.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    relisted(place, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (at("offsets", "data_offsets", value=[-8, 80]), "lies at [-8, 80]"),
        (at("offsets", "data_offsets", value=[0, 1 << 62]), "lies at"),
        (at("offsets", "data_offsets", value=[88.0, 176.0]), "lies at"),
        (at("offsets", "data_offsets", value=None), "lies at None"),
        (at("offsets", "data_offsets", value=[[0], [88]]), "lies at"),
        (at("labels", "data_offsets", value=[8, 88]), "gap or overlap"),
        (at("labels", "data_offsets", value=[88, 168]), "gap or overlap"),
        (at("labels", "data_offsets", value=[1, 81]), "not aligned"),
        (at("labels", "shape", value=[11]), "expected I64 [10]"),
        (at("labels", "shape", value=[1 << 62, 1 << 62]), "expected I64 [10]"),
        (at("labels", "shape", value=[-10]), "expected I64 [10]"),
        (at("labels", "shape", value=[10, 1]), "expected I64 [10]"),
        (at("labels", "dtype", value="F64"), "expected I64 [10]"),
        (at("labels", "dtype", value="U64"), "expected I64 [10]"),
        (at("labels", "more", value=1), "expected I64 [10]"),
        (at("labels", value=[]), "expected I64 [10]"),
        (
            at("more", value={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}),
            "expected the tensors input_ids, offsets",
        ),
        (at("__metadata__", value={"a": "b"}), "expected the tensors input_ids, offsets"),
        (lambda header: header.pop("labels"), "expected the tensors input_ids, offsets"),
    ],
)
def test_a_header_that_says_what_cannot_be_is_refused_at_opening(
    place: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    header, data = header_of(place / "train" / "shard-00000.safetensors")
    change(header)
    reheaded(place, header, data)
    with pytest.raises(CorruptCacheError) as error:
        open_cache(place)
    assert says in str(error.value)
    assert "shard-00000.safetensors" in str(error.value)
    assert REMEDY in str(error.value)


def test_a_tensor_that_stands_twice_in_a_header_is_refused(place: Path) -> None:
    header, data = header_of(place / "train" / "shard-00000.safetensors")
    text = json.dumps(header).encode()
    labels = json.dumps(header["labels"]).encode()
    reheaded(place, text[:-1] + b', "labels": ' + labels + b"}", data)
    refused(place, "a key stands twice", REMEDY)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ((1 << 63).to_bytes(8, "little"), "header of 9,223,372,036,854,775,808 bytes"),
        ((100_000).to_bytes(8, "little") + b" " * 100_000, "header of 100,000 bytes"),
        ((60_000).to_bytes(8, "little") + b"[" * 60_000, "does not parse"),
        ((4).to_bytes(8, "little") + b"\xff\xff\xff\xff", "does not parse"),
        ((2).to_bytes(8, "little") + b"[]", "its header is []"),
        ((4).to_bytes(8, "little") + b"null", "its header is None"),
        (b"\0" * 8, "does not parse"),
        (b"\0" * 7, "not a safetensors file"),
        (b"", "not a safetensors file"),
    ],
)
def test_bytes_that_are_no_header_are_refused(place: Path, head: bytes, says: str) -> None:
    path = place / "train" / "shard-00000.safetensors"
    path.write_bytes(head)
    relisted(place, path)
    refused(place, says, str(path), REMEDY)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"labels": np.full(10, 2)}, "a label outside 0..1"),
        ({"labels": np.full(10, -1)}, "a label outside 0..1"),
        ({"labels": np.full(10, -(1 << 63))}, "a label outside 0..1"),
        ({"labels": np.full(10, np.nan)}, "expected I64"),
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
