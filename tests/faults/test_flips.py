"""One flipped bit anywhere in a cache is found, and never reaches a model as a wrong id."""

import random
from pathlib import Path

import pytest

from cache import CorruptCacheError, FormatVersionError, LengthwiseError, open_cache

from ..helpers.files import flip
from ..helpers.hostile import headers, read_everything, refused, remedy_for, sound_cache

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return sound_cache(tmp_path / "toy")


def sealed_files(place: Path) -> list[Path]:
    return [place / "manifest.json", *sorted(place.rglob("plan.json"))]


def flips_are_found_at_opening(place: Path, path: Path, positions: range, rest: random.Random) -> int:
    for byte in positions:
        bit = rest.randrange(8)
        flip(path, byte, bit)
        with pytest.raises((CorruptCacheError, FormatVersionError)) as error:
            open_cache(place)
        assert str(path) in str(error.value)
        remedy = remedy_for(path) if "plans" in path.parts else "--force"  # which source is unknown where it is damaged
        assert remedy in str(error.value)
        flip(path, byte, bit)
    return len(positions)


def flip_structure(place: Path, every: int) -> int:
    rest, flipped = random.Random(0), 0
    for path in sealed_files(place):
        flipped += flips_are_found_at_opening(place, path, range(0, path.stat().st_size, every), rest)
    for path, size in headers(place):
        flipped += flips_are_found_at_opening(place, path, range(0, size, max(1, every // 4)), rest)
    open_cache(place, verify=True)
    return flipped


def test_a_flipped_bit_in_a_manifest_a_plan_json_or_a_header_is_found_at_opening(place: Path) -> None:
    assert flip_structure(place, every=16) > 500


@pytest.mark.faults
def test_a_flipped_bit_in_each_byte_of_structure_is_found_at_opening(place: Path) -> None:
    flipped = flip_structure(place, every=1)
    print(f"{flipped:,} bytes of structure flipped, each found at opening")
    assert flipped > 5000


def flip_data(place: Path, times: int) -> int:
    """Flip random bits of data. Each is found by verify; what reading lets pass stays in the vocabulary."""
    rest, read = random.Random(times), 0
    files = [(path, size) for path, size in headers(place)]
    files += [(path, 0) for path in (place / "tokenizer").iterdir()]
    weights = [path.stat().st_size - size for path, size in files]
    for _ in range(times):
        [(path, header)] = rest.choices(files, weights)
        byte, bit = rest.randrange(header, path.stat().st_size), rest.randrange(8)
        flip(path, byte, bit)
        refused(place, str(path), remedy_for(path), verify=True)
        try:
            read += read_everything(open_cache(place)) > 0
        except LengthwiseError as error:
            assert remedy_for(path) in str(error)
        flip(path, byte, bit)
    open_cache(place, verify=True)
    return read


def test_flipped_bits_of_data_are_found_by_verify_and_never_reach_a_model_as_wrong_ids(place: Path) -> None:
    assert flip_data(place, 60) > 0


@pytest.mark.faults
def test_a_thousand_flipped_bits_of_data(place: Path) -> None:
    read = flip_data(place, 1000)
    print(f"1,000 bits of data flipped, each found by verify; {read:,} could still be read, with ids of the vocabulary")
    assert read > 0
