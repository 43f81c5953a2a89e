"""Valid files mutated and sealed again as they should be: whole caches, opened and read, raise typed errors only."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import (
    LengthwiseError,
    open_cache,
)
from cache.format.checksummed_json import seal
from cache.format.files import sha256_file

from ..helpers.hostile import (
    HUGE,
    PLAN,
    header_of,
    read_everything,
    sound_cache,
)

pytestmark = pytest.mark.slow

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.sampled_from([HUGE, 1 << 63, -(1 << 63), 10**40]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["../x", "/etc/passwd", "train", "I64", "smart", "0" * 64]),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


def mutated(data: st.DataObject, content: Any) -> Any:
    """The content with one to three of its parts replaced, removed or doubled."""
    for _ in range(data.draw(st.integers(1, 3))):
        spot = content
        while True:
            keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if not isinstance(spot[key], (dict, list)) or data.draw(st.integers(0, 3)) == 0:
                action = data.draw(st.sampled_from(["replace", "remove", "double"]))
                if action == "replace":
                    spot[key] = data.draw(values)
                elif action == "remove":
                    del spot[key]
                elif isinstance(spot, list):
                    spot.append(spot[key])
                else:
                    spot[data.draw(st.text(max_size=8))] = spot[key]
                break
            spot = spot[key]
    return content


def survives(place: Path, path: Path, data: bytes) -> None:
    """With `data` as `path`, the cache can be read or is refused with a typed error."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        read_everything(open_cache(place, verify=True))
    except LengthwiseError:
        pass
    finally:
        path.write_bytes(before)


FUZZ_FILES = ["manifest.json", PLAN]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound_cache(tmp_path_factory.mktemp("fuzzed") / "toy")


def fuzz_sealed(place: Path, data: st.DataObject) -> None:
    path = place / data.draw(st.sampled_from(FUZZ_FILES))
    content = json.loads(path.read_bytes())
    del content["checksum"]
    survives(place, path, seal(mutated(data, content)))


def fuzz_bytes(place: Path, data: st.DataObject) -> None:
    path = place / data.draw(st.sampled_from(FUZZ_FILES))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(raw)))
        raw[begin : begin + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    survives(place, path, bytes(raw))


def fuzz_header(place: Path, data: st.DataObject) -> None:
    """A shard's header mutated, the manifest listing the file as it then is."""
    listing, path = place / "manifest.json", place / "train" / "shard-00000.safetensors"
    header, tensors = header_of(path)
    before = path.read_bytes()
    text = json.dumps(mutated(data, header)).encode()
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.binary(max_size=8)) + text[at + data.draw(st.integers(0, 8)) :]
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)
    content = json.loads(listing.read_bytes())
    del content["checksum"]
    content["splits"]["train"]["shards"][0] |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    try:
        survives(place, listing, seal(content))
    finally:
        path.write_bytes(before)


FUZZERS = [fuzz_sealed, fuzz_bytes, fuzz_header]


@pytest.mark.parametrize("fuzz", FUZZERS)
def test_fuzzed_files_raise_typed_errors_only(fuzzed: Path, fuzz: Callable[[Path, st.DataObject], None]) -> None:
    @given(st.data())
    @settings(max_examples=60, deadline=None)
    def run(data: st.DataObject) -> None:
        fuzz(fuzzed, data)

    run()
    assert read_everything(open_cache(fuzzed, verify=True))


@pytest.mark.faults
@pytest.mark.parametrize("fuzz", FUZZERS)
def test_ten_thousand_fuzzed_files(fuzzed: Path, fuzz: Callable[[Path, st.DataObject], None]) -> None:
    @given(st.data())
    @settings(max_examples=10_000, deadline=None)
    def run(data: st.DataObject) -> None:
        fuzz(fuzzed, data)

    run()
    print("10,000 files mutated")
