"""Manifests sealed as they should be, by somebody who means harm: refused by field, in bounded memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache import FormatVersionError
from cache.format.checksummed_json import MAX_DEPTH, MAX_NESTED

from ..helpers.hostile import HUGE, REMEDY, at, refused, resealed, sound_cache
from ..helpers.python import run_python


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return sound_cache(tmp_path / "toy")


TRAIN = ("splits", "train")
SHARD = (*TRAIN, "shards", 0)
TOY = {"argument": "toy.csv"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (at("name", value="../other"), "'name' is '../other'"),
        (at("name", value=""), "'name'"),
        (at("name", value=7), "'name' is 7"),
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
        (at("tokenizer", "vocab_size", value=70_000), "expected 700 bytes and b'{"),
        (at("tokenizer", "vocab_size", value=1 << 60), "'vocab_size'"),
        (at("tokenizer", "padding_side", value="top"), "'padding_side' is 'top'"),
        (at("tokenizer", "sha256", value="0" * 64), "'files'"),
        (at("tokenizer", "files", value=[]), "'files'"),
        (at("tokenizer", "files", 0, "file", value="../manifest.json"), "'file' is '../manifest.json'"),
        (at("tokenizer", "files", 0, "file", value="/etc/passwd"), "'file' is '/etc/passwd'"),
        (at("tokenizer", "files", 1, "file", value="tokenizer.json"), "'files'"),
        (lambda content: content["tokenizer"]["files"].append(content["tokenizer"]["files"][0]), "'files'"),
        (at("tokenizer", "revision", value=7), "'revision'"),
        (at("splits", value={"../x": {}}), "plain name"),
        (at("splits", value={"tokenizer": {}}), "plain name"),
        (at("splits", value=[]), "'splits'"),
        (at("splits", value={}), "one split or more"),
        (at("version", value=None), "'version' is None"),
        (at("version", value="1"), "'version' is '1'"),
        (at("version", value=True), "'version' is True"),
        (at("version", value=1.0), "'version' is 1.0"),
        (lambda content: content.pop("version"), "'version' is None"),
        (at("source", value={**TOY, "kind": "hub", "dataset": "a/b"}), "'revision' is None"),
        (at("source", value={**TOY, "kind": "hub", "dataset": 1}), "'dataset' is 1"),
        (at("source", value={**TOY, "kind": "package"}), "'package' is None"),
        (at("source", value={**TOY, "missing_rows": 5}), "'missing_rows' is 5"),
        (at("source", value={**TOY, "missing_rows": {"train": 0}}), "'train' is 0"),
        (at("tokenizer", "files", 0, "bytes", value=1 << 40), "'bytes' is 1099511627776"),
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
        (["train=a.csv", "b c.csv"], "train=a.csv 'b c.csv'"),
        (["a.csv", 7], "SOURCE"),
        ("", "SOURCE"),
        ([], "SOURCE"),
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
    refused(place, "test/shard-00001.safetensors", "expected 32,985,348,833,756 bytes", REMEDY)


def in_little_memory(code: str, *arguments: object) -> str:
    """What a process prints that may have 3 GiB of address space, imports included."""
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
    run = run_python(limit + code, *arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


OPEN = """
from cache import CorruptCacheError, open_cache
for place in sys.argv[1:]:
    try: open_cache(place)
    except CorruptCacheError as error: print(error)
"""

HEAD = b'{"format": "lengthwise-cache", "version": 1, "x": '
ODD_JSON: list[tuple[Callable[[], bytes], str]] = [
    (lambda: b"[" * 30_000_000, "does not parse"),
    (lambda: b'{"a":' * 5000 + b"1" + b"}" * 5000, "does not parse"),
    (lambda: b"[" + b"[]," * 10_000_000 + b"[]]", "more lists and objects"),
    (lambda: b"[" + b"{}," * 10_000_000 + b"{}]", "more lists and objects"),
    (lambda: b"[" + b"77777777," * 3_000_000 + b"0]", "not a lengthwise-cache file"),
    (lambda: HEAD + b"[" + b"7777777777777777777," * 400_000 + b"0]}", "checksum"),
    (lambda: HEAD + b'"' + b"x" * 30_000_000 + b'"}', "checksum"),
    (lambda: b"{" + b'"a":1,' * 2_000_000 + b'"a":1}', "a key stands twice"),
    (lambda: b" " * (33 << 20), "larger than 33,554,432 bytes"),
    (lambda: b"9" * 1_000_000, "does not parse"),
    (lambda: b"\xff\xfe", "does not parse"),
    (lambda: b"", "does not parse"),
    (lambda: b"null", "not a lengthwise-cache file"),
    (lambda: HEAD + b"1e999}", "checksum"),
    (lambda: HEAD + b"NaN}", "NaN is not a JSON number"),
    (lambda: HEAD + b'"\\ud800"}', "does not parse"),
    (lambda: HEAD + b'"\\uD83D\\uDE00"}', "checksum"),
]


@pytest.mark.slow
def test_huge_deep_and_odd_json_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    places = [tmp_path / str(number) for number in range(len(ODD_JSON))]
    for place, (make, _) in zip(places, ODD_JSON, strict=True):
        place.mkdir()
        (place / "manifest.json").write_bytes(make())
    said = in_little_memory(OPEN, *places).splitlines()
    for line, place, (_, says) in zip(said, places, ODD_JSON, strict=True):
        assert str(place) in line
        assert says in line


@pytest.mark.slow
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
