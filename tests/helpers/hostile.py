"""What the tests of damaged and hostile caches share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import Cache, CorruptCacheError, LengthwiseError, PlanSpec, open_cache
from cache.format.checksummed_json import seal
from cache.format.files import sha256_file

from .caches import write_cache

SPEC = PlanSpec("smart", 8, None, 0)
TIGHT = PlanSpec("tight", 4, None, 1)
PLAN = "train/plans/smart-b8-s0/plan.json"
REMEDY = "prep build toy.csv --force"
HUGE = 1 << 47

_files: dict[str, bytes] = {}


def sound_cache(place: Path) -> Path:
    """A sound cache at `place`, the same each time: two splits of two shards, two plans, seven safetensors files."""
    if not _files:
        cache = write_cache(place, {"train": 20, "test": 4}, shards=2, max_length=8)
        cache["train"].keep_plan(SPEC, 2)
        cache["train"].keep_plan(TIGHT, 1)
        _files.update((str(path.relative_to(place)), path.read_bytes()) for path in place.rglob("*") if path.is_file())
        return place
    for name, data in _files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def read_everything(cache: Cache) -> int:
    """Do with a cache what training does; returns how many rows there were. No id may leave the vocabulary."""
    rows = 0
    for split in cache.values():
        for spec in [split.default_spec(), *split.stored_plans(), TIGHT]:
            for batch in split.batches(0, spec):
                assert int(batch.input_ids.min()) >= 0
                assert int(batch.input_ids.max()) < cache.manifest.tokenizer.vocab_size
                assert 0 <= int(batch.labels.min()) <= int(batch.labels.max()) < len(cache.manifest.task.label_names)
                rows += len(batch)
        for row in split:
            assert int(row.input_ids.max(initial=0)) < cache.manifest.tokenizer.vocab_size
    return rows


def remedy_for(path: Path) -> str:
    """What the message about a damaged file must tell to type: plans are drawn again, anything else is built again."""
    return f"rm -r {path.parent}" if "plans" in path.parts else REMEDY


def refused(place: Path, *named: str, kind: type[LengthwiseError] = CorruptCacheError, verify: bool = False) -> str:
    """Opening is refused, with a message that holds each of `named`, and a line long at most."""
    with pytest.raises(kind) as error:
        read_everything(open_cache(place, verify=verify))
    text = str(error.value)
    assert all(part in text for part in named), text
    assert len(text) < 2000
    return text


def headers(place: Path) -> list[tuple[Path, int]]:
    """Every safetensors file and the length of its header."""
    found = [(path, int.from_bytes(path.read_bytes()[:8], "little") + 8) for path in place.rglob("*.safetensors")]
    assert len(found) == 7
    return sorted(found)


def resealed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_bytes())
    del content["checksum"]
    change(content)
    path.write_bytes(seal(content))


def at(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def relisted(place: Path, path: Path, index: int = 0) -> None:
    def change(content: dict[str, Any]) -> None:
        content["splits"]["train"]["shards"][index]["bytes"] = path.stat().st_size
        content["splits"]["train"]["shards"][index]["sha256"] = sha256_file(path)

    resealed(place / "manifest.json", change)


def with_length(text: bytes) -> bytes:
    """A header of safetensors as it stands in a file: its length, and spaces up to a multiple of 8."""
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]
