"""Valid files mutated and sealed again as they should be: whole caches, opened and read, raise typed errors only."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import LengthwiseError, open_cache
from cache.format.checksummed_json import seal

from ..helpers.fuzzing import fuzz, mutated_bytes, mutated_header, mutated_json
from ..helpers.hostile import PLAN, header_of, read_everything, relisted, sound_cache, with_length

pytestmark = pytest.mark.slow

MANIFEST, SHARD = "manifest.json", "train/shard-00000.safetensors"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound_cache(tmp_path_factory.mktemp("mutated") / "toy")


def read_with(place: Path, name: str, data: bytes) -> None:
    """Read a cache of which a file holds `data`, listed in the manifest if it is a shard; then put its own back."""
    before = {path: path.read_bytes() for path in (place / name, place / MANIFEST)}
    (place / name).write_bytes(data)
    if name == SHARD:
        relisted(place, place / name)
    try:
        read_everything(open_cache(place, verify=True))
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def mutate_sealed(place: Path, inputs: int) -> int:
    seeds = [(name, json.loads((place / name).read_bytes())) for name in (MANIFEST, PLAN)]

    def read(mutated: tuple[str, Any]) -> None:
        name, content = mutated
        with contextlib.suppress(ValueError, TypeError):  # what no JSON holds
            content = seal({key: value for key, value in content.items() if key != "checksum"})
        if isinstance(content, bytes):
            read_with(place, name, content)

    return fuzz(seeds, lambda rest, seed: (seed[0], mutated_json(rest, seed[1])), read, inputs, (LengthwiseError,))


def mutate_bytes(place: Path, inputs: int) -> int:
    seeds = [(name, (place / name).read_bytes()) for name in (MANIFEST, PLAN)]
    mutate = lambda rest, seed: (seed[0], mutated_bytes(rest, seed[1]))  # noqa: E731
    return fuzz(seeds, mutate, lambda mutated: read_with(place, *mutated), inputs, (LengthwiseError,))


def mutate_headers(place: Path, inputs: int) -> int:
    header, tensors = header_of(place / SHARD)
    head = with_length(json.dumps(header).encode())
    return fuzz(
        [head], mutated_header, lambda head: read_with(place, SHARD, head + tensors), inputs, (LengthwiseError,)
    )


WAYS = (mutate_sealed, mutate_bytes, mutate_headers)


@pytest.mark.parametrize("inputs", [60, pytest.param(10_000, marks=pytest.mark.faults)])
@pytest.mark.parametrize("way", WAYS)
def test_a_cache_with_a_mutated_file_is_read_or_refused(
    place: Path, way: Callable[[Path, int], int], inputs: int
) -> None:
    messages = way(place, inputs)
    print(f"{inputs:,} files mutated, refused with {messages:,} different messages")
    assert messages > 2
    assert read_everything(open_cache(place, verify=True))
