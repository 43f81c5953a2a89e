"""Caches that were damaged, edited or made to hurt: a typed error that names the file and the way out, at once."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import (
    Cache,
    CorruptCacheError,
    FormatVersionError,
    LengthwiseError,
    MismatchError,
    NotACacheError,
    PlanSpec,
    StorageError,
    open_cache,
)
from cache.format import sha256_file
from cache.sealed import MAX_DEPTH, MAX_NESTED, seal

from .builders import ROOT
from .toys import write_cache

SPEC = PlanSpec("smart", 8, None, 0)
TIGHT = PlanSpec("tight", 4, None, 1)
REMEDY = "prep build toy.csv --force"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound cache that nobody changes."""
    cache = write_cache(tmp_path_factory.mktemp("sound") / "toy", {"train": 20, "test": 4}, shards=2, max_length=8)
    cache["train"].keep_plan(SPEC, 2)
    cache["train"].keep_plan(TIGHT, 1)
    return cache.folder


@pytest.fixture
def place(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "toy"))


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


def refused(place: Path, *named: str, kind: type[LengthwiseError] = CorruptCacheError, verify: bool = False) -> str:
    """Opening is refused, with a message that holds each of `named`, and a line long at most."""
    with pytest.raises(kind) as error:
        read_everything(open_cache(place, verify=verify))
    text = str(error.value)
    assert all(part in text for part in named), text
    assert len(text) < 2000
    return text


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        [value] = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


# --- flipped bits


def sealed_files(place: Path) -> list[Path]:
    return [place / "manifest.json", *sorted(place.rglob("plan.json"))]


def headers(place: Path) -> list[tuple[Path, int]]:
    """Every safetensors file and the length of its header."""
    found = [(path, int.from_bytes(path.read_bytes()[:8], "little") + 8) for path in place.rglob("*.safetensors")]
    assert len(found) == 7
    return sorted(found)


def flips_are_found_at_opening(place: Path, path: Path, positions: range, rest: random.Random) -> int:
    for byte in positions:
        bit = rest.randrange(8)
        flip(path, byte, bit)
        with pytest.raises((CorruptCacheError, FormatVersionError)) as error:
            open_cache(place)
        assert str(path) in str(error.value)
        assert "prep build" in str(error.value)
        assert "--force" in str(error.value)
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
    assert flip_structure(place, every=1) > 5000


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
        refused(place, str(path), REMEDY, verify=True)
        try:
            read += read_everything(open_cache(place)) > 0
        except LengthwiseError as error:
            assert REMEDY in str(error)
        flip(path, byte, bit)
    open_cache(place, verify=True)
    return read


def test_flipped_bits_of_data_are_found_by_verify_and_never_reach_a_model_as_wrong_ids(place: Path) -> None:
    assert flip_data(place, 60) > 0


@pytest.mark.faults
def test_a_thousand_flipped_bits_of_data(place: Path) -> None:
    assert flip_data(place, 1000) > 0


# --- files


def test_a_folder_without_a_manifest_is_no_cache(tmp_path: Path) -> None:
    refused(tmp_path, "without a manifest", "prep list", "prep build", kind=NotACacheError)
    refused(tmp_path / "none", "does not exist", kind=NotACacheError)
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "does not exist", kind=NotACacheError)


def test_files_of_others_in_a_cache_are_fine(place: Path) -> None:
    (place / ".DS_Store").touch()
    (place / "notes").mkdir()
    (place / "train" / "plans" / "notes.txt").touch()
    (place / "train" / "plans" / ".smart-b8-s0.lock").touch()
    assert read_everything(open_cache(place, verify=True))


LISTED = [
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "train/shard-00001.safetensors",
    "test/shard-00000.safetensors",
    "train/plans/smart-b8-s0/epoch-0001.safetensors",
]


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "expected"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "expected"),
        (lambda path: path.write_bytes(b""), "expected"),
        (lambda path: (path.unlink(), path.mkdir()), "is no regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is no regular file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "is a link that leaves the cache"),
        (lambda path: (path.rename(path.parents[3] / "moved"), path.symlink_to(path.parents[3] / "moved")), "leaves"),
    ],
    ids=["missing", "cut", "longer", "empty", "folder", "pipe", "device", "link"],
)
def test_a_file_that_is_not_as_listed_is_refused_at_opening(
    place: Path, name: str, damage: Callable[[Path], Any], says: str
) -> None:
    if says == "leaves" and len(Path(name).parts) > 2:
        name = LISTED[2]
    damage(place / name)
    text = refused(place, str(place / name), REMEDY)
    assert says in text or "link that leaves" in text


@pytest.mark.parametrize("name", ["train", "tokenizer", "train/plans", "train/plans/smart-b8-s0"])
def test_a_folder_that_is_a_link_out_of_the_cache_is_refused(place: Path, name: str) -> None:
    (place / name).rename(place.parent / "moved")
    (place / name).symlink_to(place.parent / "moved")
    refused(place, "is a link that leaves the cache", REMEDY)


def test_a_cache_may_itself_be_reached_through_a_link_and_hold_links_within(place: Path) -> None:
    shard = place / "train" / "shard-00000.safetensors"
    shard.rename(place / "blob")
    shard.symlink_to("../blob")
    (place.parent / "link").symlink_to(place)
    assert read_everything(open_cache(place.parent / "link", verify=True))


@pytest.mark.parametrize("damage", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_manifest_that_is_no_file_is_refused(place: Path, damage: Callable[[Path], None]) -> None:
    (place / "manifest.json").unlink()
    damage(place / "manifest.json")
    refused(place, "manifest.json", kind=LengthwiseError)


def test_a_file_that_may_not_be_read_is_a_storage_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("shard-00001.safetensors"):
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    refused(place, "shard-00001.safetensors", "Permission denied", kind=StorageError)


def test_out_of_file_handles_is_a_storage_error(sound: Path) -> None:
    code = (
        "import resource, sys; from cache import open_cache, StorageError\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (5, 5))\n"
        "try: open_cache(sys.argv[1])\n"
        "except StorageError as error: print(error); sys.exit(3)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(sound)], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, "Too many open files" in run.stdout) == (3, True), run


# --- manifests that are sealed as they should be, by somebody who means harm


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


TRAIN = ("splits", "train")
SHARD = (*TRAIN, "shards", 0)
HUGE = 1 << 47


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (at("name", value="../other"), "'name' is '../other'"),
        (at("name", value=""), "'name'"),
        (at("fingerprint", value="0"), "'fingerprint'"),
        (at("max_length", value=0), "'max_length' is 0"),
        (at("max_length", value=1 << 40), "'max_length'"),
        (at("max_length", value=True), "'max_length' is True"),
        (at("max_length", value=4), "'longest'"),
        (at("task", "kind", value="poetry"), "'kind' is 'poetry'"),
        (at("task", "label_names", value=[1, 2]), "'label_names'"),
        (at("task", "label_names", value="ab"), "'label_names'"),
        (at("task", "label_names", value=["neg"]), "label outside 0..0"),
        (at("plan", value={"strategy": "wise"}), "'plan'"),
        (at("plan", value={"strategy": "smart", "batch_size": 8, "more": 1}), "'plan'"),
        (at("plan", value={"strategy": "smart", "batch_size": HUGE}), "'plan'"),
        (at("tokenizer", "pad_id", value=205), "'pad_id' is 205"),
        (at("tokenizer", "pad_id", value=-1), "'pad_id'"),
        (at("tokenizer", "vocab_size", value=50), "holds the id"),
        (at("tokenizer", "vocab_size", value=70_000), "expected U32"),
        (at("tokenizer", "vocab_size", value=1 << 60), "'vocab_size'"),
        (at("tokenizer", "padding_side", value="top"), "'padding_side' is 'top'"),
        (at("tokenizer", "sha256", value="0" * 64), "'files'"),
        (at("tokenizer", "files", value=[]), "'files'"),
        (at("tokenizer", "files", 0, "file", value="../manifest.json"), "'file' is '../manifest.json'"),
        (at("tokenizer", "files", 0, "file", value="/etc/passwd"), "'file' is '/etc/passwd'"),
        (at("tokenizer", "files", 1, "file", value="tokenizer.json"), "'files'"),
        (at("tokenizer", "revision", value=7), "'revision'"),
        (at("splits", value={"../x": {}}), "plain name"),
        (at("splits", value={"tokenizer": {}}), "plain name"),
        (at("splits", value=[]), "'splits'"),
        (at(*TRAIN, value=7), "'train' is 7"),
        (at(*TRAIN, "rows", value=-1), "'rows' is -1"),
        (at(*TRAIN, "rows", value=21), "'rows' is 21"),
        (at(*TRAIN, "rows", value=20.0), "'rows' is 20.0"),
        (at(*TRAIN, "tokens", value=1), "'tokens' is 1"),
        (at(*TRAIN, "shortest", value=0), "'shortest'"),
        (at(*TRAIN, "longest", value=8 - 1), "'longest'"),
        (at(*TRAIN, "length_histogram", value=[HUGE] * 2000), "'length_histogram'"),
        (at(*TRAIN, "length_histogram", value=[-1, 21]), "'length_histogram'"),
        (at(*TRAIN, "length_histogram", value=[0] * 9 + [True]), "'length_histogram'"),
        (at(*TRAIN, "length_histogram", value={}), "'length_histogram'"),
        (at(*TRAIN, "shards", value=[]), "'rows' is 20"),
        (at(*TRAIN, "shards", value=[[]]), "'shards'"),
        (at(*SHARD, "file", value="/etc/passwd"), "'file' is '/etc/passwd'"),
        (at(*SHARD, "file", value="train/../../x"), "'file'"),
        (at(*SHARD, "file", value="test/shard-00000.safetensors"), "'file'"),
        (at(*SHARD, "bytes", value=HUGE), "bytes long, expected 140,737,488,355,328"),
        (at(*SHARD, "bytes", value=-1), "'bytes'"),
        (at(*SHARD, "sha256", value=None), "'sha256'"),
        (at(*SHARD, "rows", value=9), "'rows' is 20"),
        (at("created", value=1), "'created'"),
        (lambda content: content.pop("task"), "'task' is None"),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused_by_field(
    place: Path, change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    resealed(place / "manifest.json", change)
    refused(place, named, REMEDY)


def test_the_way_out_names_a_source_only_where_the_manifest_can_be_trusted_for_it(place: Path) -> None:
    resealed(place / "manifest.json", at("source", value=[]))
    refused(place, "'source'", "prep build SOURCE --force")
    for odd, shown in (
        ("a b; rm -rf ~", "'a b; rm -rf ~'"),
        ("\x1b[2J", "SOURCE"),
        ("x" * 5000, "SOURCE"),
        (7, "SOURCE"),
    ):
        resealed(place / "manifest.json", at("source", value={"argument": odd}))
        resealed(place / "manifest.json", at("max_length", value=0))
        refused(place, f"prep build {shown} --force")


def test_counts_beyond_the_machine_are_refused_before_memory_is_asked_for(place: Path) -> None:
    def claim(content: dict[str, Any]) -> None:
        """2^40 more rows of 3 tokens, the sums all right."""
        split = content["splits"]["test"]
        split["length_histogram"][3] += 1 << 40
        split["shortest"] = 3
        for counts in (split, split["shards"][1]):
            counts["rows"] += 1 << 40
            counts["tokens"] += 3 << 40

    resealed(place / "manifest.json", claim)
    refused(place, "test/shard-00001.safetensors", "expected U16 [32985348", REMEDY)


def in_little_memory(code: str, *arguments: object) -> str:
    """What a process prints that may have 3 GiB of address space, imports included."""
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
    run = subprocess.run(
        [sys.executable, "-c", limit + code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


OPEN = """
from cache import CorruptCacheError, open_cache
try: open_cache(sys.argv[1])
except CorruptCacheError as error: print(error)
"""


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: b"[" * 30_000_000, "does not parse"),
        (lambda: b'{"a":' * 5000 + b"1" + b"}" * 5000, "does not parse"),
        (lambda: b"[" + b"[]," * 10_000_000 + b"[]]", "more lists and objects"),
        (lambda: b"[" + b"{}," * 10_000_000 + b"{}]", "more lists and objects"),
        (lambda: b"[" + b"77777777," * 3_000_000 + b"0]", "not a lengthwise-cache file"),
        (
            lambda: (
                b'{"format": "lengthwise-cache", "version": 1, "x": [' + b"7777777777777777777," * 400_000 + b"0]}"
            ),
            "checksum",
        ),
        (lambda: b'{"format": "lengthwise-cache", "version": 1, "x": "' + b"x" * 30_000_000 + b'"}', "checksum"),
        (lambda: b"{" + b'"a":1,' * 2_000_000 + b'"a":1}', "a key stands twice"),
        (lambda: b" " * (33 << 20), "larger than 33,554,432 bytes"),
        (lambda: b"9" * 1_000_000, "does not parse"),
        (lambda: b"\xff\xfe", "does not parse"),
        (lambda: b"", "does not parse"),
        (lambda: b"null", "not a lengthwise-cache file"),
        (lambda: b'{"format": "lengthwise-cache", "version": 1, "x": 1e999}', "checksum"),
        (lambda: b'{"format": "lengthwise-cache", "version": 1, "x": NaN}', "NaN is no JSON number"),
        (lambda: b'{"format": "lengthwise-cache", "version": 1, "x": "\\ud800"}', "checksum"),
    ],
)
def test_huge_deep_and_odd_json_is_refused_in_bounded_memory(
    tmp_path: Path, make: Callable[[], bytes], says: str
) -> None:
    (tmp_path / "manifest.json").write_bytes(make())
    assert says in in_little_memory(OPEN, tmp_path)


def test_a_sealed_manifest_that_is_deep_is_refused(place: Path) -> None:
    deep: Any = 0
    for _ in range(MAX_DEPTH):
        deep = [deep]
    resealed(place / "manifest.json", at("source", value={"argument": "toy.csv", "x": deep}))
    refused(place, f"nested more than {MAX_DEPTH} deep", REMEDY)
    resealed(place / "manifest.json", at("source", value={"argument": "toy.csv", "x": [{}] * MAX_NESTED}))
    refused(place, "more lists and objects", REMEDY)


@pytest.mark.parametrize("version", [0, 2, 10**30])
def test_another_format_version_is_refused_with_both_versions(place: Path, version: int) -> None:
    resealed(place / "manifest.json", at("version", value=version))
    refused(place, f"format version {version}", "reads version 1", "prep build", kind=FormatVersionError)


# --- shards


def rewritten(place: Path, tensors: dict[str, Any], index: int = 0) -> None:
    """Replace tensors of a shard of train, with a manifest that lists its new size and checksum."""
    path = place / "train" / f"shard-{index:05d}.safetensors"
    safetensors.numpy.save_file({**safetensors.numpy.load_file(path), **tensors}, path)
    relisted(place, path, index)


def relisted(place: Path, path: Path, index: int = 0) -> None:
    def change(content: dict[str, Any]) -> None:
        content["splits"]["train"]["shards"][index]["bytes"] = path.stat().st_size
        content["splits"]["train"]["shards"][index]["sha256"] = sha256_file(path)

    resealed(place / "manifest.json", change)


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


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


# --- plans


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


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: {"rows": with_value(p["rows"], 3, 20)}, "a row outside 0..19"),
        (lambda p: {"rows": with_value(p["rows"], 3, (1 << 32) - 1)}, "a row outside 0..19"),
        (lambda p: {"rows": with_value(p["rows"], 3, p["rows"][4])}, "leaves out row"),
        (lambda p: {"rows": p["rows"][::-1].copy()}, "do not ascend"),
        (lambda p: {"rows": p["rows"].astype(np.int64)}, "expected U32 [20]"),
        (lambda p: {"rows": p["rows"][:-1]}, "expected U32 [20]"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 0, 1)}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], -1, 19)}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 1, -(1 << 62))}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 1, (1 << 63) - 1)}, "do not follow one another"),
        (lambda p: {"batch_offsets": with_value(p["batch_offsets"], 1, 0)}, "do not follow one another"),
        (lambda p: {"batch_offsets": np.zeros(0, np.int64)}, "expected I64 [4]"),
        (lambda p: {"widths": with_value(p["widths"], 0, 1)}, "does not fit its rows"),
        (lambda p: {"widths": with_value(p["widths"], 0, -1)}, "does not fit its rows"),
        (lambda p: {"widths": with_value(p["widths"], 0, (1 << 31) - 1)}, "does not fit its rows"),
        (
            lambda p: {
                "rows": np.arange(20, dtype=np.uint32),
                "batch_offsets": np.array([0, 20]),
                "widths": np.array([8], np.int32),
            },
            "a batch of 20 passes the plan's limit of 8",
        ),
        (
            lambda p: {
                "rows": np.zeros(20, np.uint32),
                "batch_offsets": np.zeros(1, np.int64),
                "widths": p["widths"][:0],
            },
            "leaves out row",
        ),
    ],
)
def test_a_plan_that_is_none_of_its_split_is_refused(
    place: Path, make: Callable[[dict[str, Any]], dict[str, Any]], says: str
) -> None:
    path = replanned(place, **make(sound_plan(place)))
    refused(place, says, str(path), f"delete {path.parent}", REMEDY)
    refused(place, says, str(path), verify=True)


def test_a_batch_beyond_the_token_budget_is_refused(place: Path) -> None:
    spec = PlanSpec("budget", None, 40)
    open_cache(place)["train"].keep_plan(spec, 1)
    replanned(
        place,
        spec.id,
        rows=np.arange(20, dtype=np.uint32),
        batch_offsets=np.array([0, 20]),
        widths=np.array([8], np.int32),
    )
    refused(place, "a batch of 160 passes the plan's limit of 40", REMEDY)


PLAN = "train/plans/smart-b8-s0/plan.json"


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (at("cache", value="0" * 64), MismatchError, "of the cache 000000000000"),
        (at("split", value="test"), MismatchError, "of split 'test'"),
        (at("rows", value=19), MismatchError, "19 rows"),
        (at("rows", value=-1), CorruptCacheError, "'rows' is -1"),
        (at("version", value=9), FormatVersionError, "format version 9"),
        (at("format", value="lengthwise-cache"), CorruptCacheError, "not a lengthwise-plan file"),
        (at("strategy", value="wise"), CorruptCacheError, "--strategy 'wise'"),
        (at("strategy", value={}), CorruptCacheError, "--strategy {}"),
        (at("strategy", value="tight"), CorruptCacheError, "holds the plan tight-b8-s0"),
        (at("batch_size", value=1 << 40), CorruptCacheError, "--batch-size"),
        (at("seed", value=None), CorruptCacheError, "seed None"),
        (at("epochs", value=None), CorruptCacheError, "'epochs' is None"),
        (at("epochs", 0, "file", value="../../shard-00000.safetensors"), CorruptCacheError, "expected epoch-0000"),
        (at("epochs", 0, "batches", value=21), CorruptCacheError, "'batches' is 21"),
        (at("epochs", 0, "batches", value=2), CorruptCacheError, "expected I64 [3]"),
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


def test_an_epoch_is_a_number_from_0(sound: Path) -> None:
    with pytest.raises(LengthwiseError, match="epoch -1 is negative"):
        open_cache(sound)["train"].batches(-1)


# --- fuzz: valid files, mutated, sealed again as they should be

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
def fuzzed(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(sound, tmp_path_factory.mktemp("fuzzed") / "toy"))


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
    @settings(max_examples=150, deadline=None)
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
