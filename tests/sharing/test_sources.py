"""Sources at URLs: what is built from them is what is built from the same files on a disk."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pyarrow as pa
import pyarrow.parquet
import pytest

from cache import InputError, MismatchError
from cache.remote.bucket import Bucket
from cache.remote.ranges import RemoteFile
from cache.remote.urls import parse_url
from prep.columns import parts
from prep.parsing.remote_path import RemotePath, is_meant
from prep.sources.opening import open_source

from ..helpers.builds import build_toy
from ..helpers.commands import Prep
from ..helpers.object_server import ObjectServer
from .conftest import SECRET, Shared

pytestmark = pytest.mark.slow
ROWS = [{"text": f"word{number % 29 + 1} word{number % 7 + 1}", "label": "xyz"[number % 3]} for number in range(60)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = "\n".join(["text,label", *(f"{row['text']},{row['label']}" for row in ROWS), ""]).encode()


def parquet() -> bytes:
    data = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), data, row_group_size=7)
    return data.getvalue()


def archive() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        packed.writestr("a.csv", CSV)
    return data.getvalue()


CORPORA: dict[str, tuple[str, dict[str, bytes]]] = {
    "csv": ("data/a.csv", {"data/a.csv": CSV}),
    "jsonl": ("data/a.jsonl.gz", {"data/a.jsonl.gz": gzip.compress(JSONL)}),
    "parquet": ("data/a.parquet", {"data/a.parquet": parquet()}),
    "zip": ("data/a.zip", {"data/a.zip": archive()}),
    "glob": ("data/*.jsonl", {"data/a-1.jsonl": JSONL, "data/a-2.jsonl": JSONL, "data/deep/a.jsonl": b"{", "x": b""}),
    "deep glob": ("**/a*.csv", {"one/a.csv": CSV, "two/more/a.csv": CSV, "two/.a.csv": b"", "b.csv": b""}),
    "folder": ("data", {"data/train-0.csv": CSV, "data/train-1.csv": CSV, "data/test.parquet": parquet()}),
    "folder of folders": ("data", {"data/train/0.csv": CSV, "data/dev/0.jsonl": JSONL, "data/README.md": b"#"}),
    "texts": ("data", {f"data/train/{row['label']}/{n:02}.txt": row["text"].encode() for n, row in enumerate(ROWS)}),
}


def shards(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


ON_ALL = [(corpus, "s3") for corpus in CORPORA] + [(corpus, "gs") for corpus in ("csv", "parquet", "folder of folders")]


@pytest.mark.parametrize(("corpus", "bucket"), ON_ALL, indirect=["bucket"])
def test_caches_of_remote_and_local_files_are_equal(corpus: str, bucket: Shared, tmp_path: Path) -> None:
    source, files = CORPORA[corpus]
    for name, data in files.items():
        bucket.server.objects[f"bucket/corpora/{name}"] = data
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    local = build_toy(tmp_path / source, tmp_path, name="a").cache
    remote = build_toy(f"{bucket.url}/corpora/{source}", tmp_path, name="b").cache
    assert shards(remote.folder) == shards(local.folder)
    assert remote.manifest.source["argument"] == f"{bucket.url}/corpora/{source}"
    listed, known = (
        [{**file, "sha256": "", "version": ""} for file in cache.manifest.source["files"]] for cache in (remote, local)
    )
    assert listed == known
    assert all(file["version"] for file in remote.manifest.source["files"])
    for name in [name for name in files if "." not in name or name.endswith(".md") or "/." in name]:
        assert not bucket.server.count("HEAD", name)


def test_a_dataset_of_the_hub_is_read_from_one_commit(hub: ObjectServer, tmp_path: Path) -> None:
    hub.objects |= {"README.md": b"#", "data/train-00000-of-00002.csv": CSV, "data/train-00001-of-00002.csv": CSV}
    hub.objects["data/test-00000-of-00001.parquet"] = parquet()
    cache = build_toy("hf://datasets/user/imdb", tmp_path).cache
    assert cache.manifest.name == "imdb"
    assert {name: split.rows for name, split in cache.manifest.splits.items()} == {"train": 120, "test": 60}
    assert [len(file["version"]) for file in cache.manifest.source["files"]] == [40, 40, 40]
    one = build_toy("hf://datasets/user/imdb@main/data/train*1-of*.csv", tmp_path).cache
    assert one.manifest.splits["train"].rows == 60
    source = open_source("hf://datasets/user/imdb/data/test-00000-of-00001.parquet")
    hub.objects["data/test-00000-of-00001.parquet"] = b"another commit's"
    with pytest.raises(
        InputError, match=r"hf://datasets/user/imdb@[0-9a-f]{40}/data/test.* changed while it was being"
    ):
        list(source.splits["train"]())


def test_file_urls_are_local_files(tmp_path: Path) -> None:
    (tmp_path / "a-1.csv").write_bytes(CSV)
    for source in (f"file://{tmp_path}/a-1.csv", f"file://{tmp_path}/*.csv"):
        assert open_source(source).identity == open_source(str(tmp_path / "a-1.csv")).identity


def test_a_later_build_knows_whether_the_source_changed(bucket: Shared, tmp_path: Path) -> None:
    bucket.server.objects["bucket/a.jsonl"] = JSONL
    first = build_toy(f"{bucket.url}/a.jsonl", tmp_path)
    again = build_toy(f"{bucket.url}/a.jsonl", tmp_path)
    assert (first.up_to_date, again.up_to_date) == (False, True)
    bucket.server.objects["bucket/a.jsonl"] = JSONL.replace(b"word3", b"word4")
    with pytest.raises(MismatchError, match="the content of the source's files"):
        build_toy(f"{bucket.url}/a.jsonl", tmp_path)


def test_a_file_that_changes_while_it_is_read_ends_the_build(s3: ObjectServer) -> None:
    s3.objects["bucket/a.jsonl"] = JSONL
    source = open_source("s3://bucket/a.jsonl")
    s3.objects["bucket/a.jsonl"] = JSONL.replace(b"word3", b"word4")
    with pytest.raises(InputError, match=r"s3://bucket/a\.jsonl changed while it was being read; build again"):
        list(source.splits["train"]())

    s3.objects["bucket/a.jsonl"] = JSONL
    source = open_source("s3://bucket/a.jsonl")

    def replaced(method: str, key: str, count: int) -> None:
        if method == "GET":
            s3.objects[key] = JSONL.replace(b"word3", b"word4")

    s3.fault = replaced
    with pytest.raises(InputError, match="changed while it was being read"):
        list(source.splits["train"]())


@pytest.mark.parametrize(
    ("ending", "data"),
    [
        ("jsonl", JSONL),
        ("parquet", parquet()),
        ("csv", CSV),
        ("tsv", CSV.replace(b",", b"\t")),
        ("quoted.csv", CSV.replace(b"word1 word1", b'"word1 word1"')),
    ],
)
def test_a_remote_file_is_read_in_parts(
    ending: str, data: bytes, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of which can be read by another process, given what is pickled of it."""
    monkeypatch.setattr("prep.parsing.cutting.CHUNK_BYTES", 100)
    s3.objects[f"bucket/a.{ending}"] = data
    stream = open_source(f"s3://bucket/a.{ending}").splits["train"]
    found = parts(stream, 400)
    assert len(found) == 1 if ending == "quoted.csv" else len(found) > 2
    assert [row for part in found for batch in part() for row in batch.to_pylist()] == ROWS


def test_a_whole_remote_file_is_read_in_large_pieces() -> None:
    data, asked = bytes(9 << 20), []

    def fetch(position: int, size: int) -> bytes:
        asked.append((position, size))
        return data[position : position + size]

    assert RemoteFile("s3://bucket/a", len(data), "1", fetch).open().read() == data
    assert asked == [(0, 4 << 20), (4 << 20, 4 << 20), (8 << 20, 1 << 20)]


def test_a_file_of_google_cloud_storage_is_found_without_asking_for_its_bytes(gs: ObjectServer) -> None:
    gs.objects["bucket/a"] = b"12345"
    file = Bucket(parse_url("gs://bucket")).ranges("a")
    assert (file.size, file.version.partition(" ")[0]) == (5, "written")
    assert gs.requests == [("GET", "bucket/a")]  # a second one would be for its bytes
    with pytest.raises(FileNotFoundError):
        Bucket(parse_url("gs://bucket")).ranges("b")


def test_what_is_pickled_of_a_file_is_itself_alone(s3: ObjectServer) -> None:
    s3.objects |= {f"bucket/data/{number:03}.csv": CSV for number in range(300)}
    from cache.common.forked import Forked
    from prep.sources.remote import source_path

    folder = source_path("s3://bucket/data", Forked(0))
    file = sorted(folder.iterdir())[7]
    data = cloudpickle.dumps(file)
    again = cloudpickle.loads(data)
    assert len(data) < 500
    assert isinstance(again, RemotePath)
    assert (str(again), again, again.listed, hash(again)) == ("s3://bucket/data/007.csv", file, file.listed, hash(file))
    assert (again.name, again.suffix, str(again.parent), again.stat().st_size) == (
        *("007.csv", ".csv", "s3://bucket/data"),
        len(CSV),
    )


def test_connections_that_are_cut_are_opened_again(s3: ObjectServer) -> None:
    s3.objects["bucket/a.jsonl"] = JSONL
    s3.fault = lambda method, key, count: "503 SlowDown" if count == 2 else None
    source = open_source("s3://bucket/a.jsonl")
    assert sum(batch.num_rows for batch in source.splits["train"]()) == 60


def test_a_store_that_fails_for_good_ends_the_build_with_code_1(s3: ObjectServer, prep: Prep) -> None:
    s3.objects["bucket/a.jsonl"] = JSONL
    faults: dict[str, Callable[[str, str, int], str | None]] = {
        "the store is overloaded": lambda method, key, count: "503 SlowDown" if method == "GET" else None,
        "access is denied": lambda method, key, count: "403 AccessDenied",
        "the credentials have expired": lambda method, key, count: "400 ExpiredToken" if method == "GET" else None,
    }
    for message, fault in faults.items():
        s3.fault = fault
        done = prep("build", "s3://bucket/a.jsonl", "--tokenizer", "minilm")
        assert (done.code, message in done.err) == (1, True), done.err
        assert "s3://bucket" in done.err
        assert SECRET not in done.err + done.out
    assert not Path("cache/a").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://bucket/none", "s3://bucket/none: there is no file, and no folder of files of known kinds"),
        ("s3://bucket/data/*.csv", "s3://bucket/data: there is no file that '*.csv' means"),
        ("s3://other/data", "there is no such bucket"),
        ("s3://bucket/data/b.md", "s3://bucket/data/b.md: of no known kind"),
        ("s3://bucket/data/broken.jsonl", "cannot read s3://bucket/data/broken.jsonl: "),
        ("s3://bucket/data/a.jsonl --text nothing", "s3://bucket/data/a.jsonl has no column 'nothing'"),
        ("train=s3://bucket/data/a.jsonl s3://bucket/data/a.jsonl", "s3://bucket/data/a.jsonl is given twice"),
        ("b.csv b.csv s3://bucket/data/a.jsonl s3://bucket/data/a.jsonl", "b.csv is given twice"),
        ("https://example.com/a.csv", "nothing is read from https:// URLs"),
        (f"s3://me:{SECRET}@bucket/a.csv", "came with a user, password, query"),
        (f"s3://bucket/a.csv?signature={SECRET}", "came with a user, password, query"),
    ],
)
def test_wrong_inputs_end_with_code_2(source: str, message: str, s3: ObjectServer, prep: Prep) -> None:
    s3.objects |= {"bucket/data/a.jsonl": JSONL, "bucket/data/b.md": b"#", "bucket/data/broken.jsonl": b'{"text": \n'}
    Path("b.csv").touch()
    done = prep("build", *source.split(), "--tokenizer", "minilm")
    assert (done.code, message in done.err) == (2, True), done.err
    assert SECRET not in done.err + done.out


@pytest.mark.parametrize(
    ("file", "pattern", "meant"),
    [
        ("a/b.csv", "a/*.csv", True),
        ("a/b/c.csv", "a/*.csv", False),
        ("a/b/c.csv", "a/**/*.csv", True),
        ("a/c.csv", "a/**/*.csv", True),
        ("a/b/c.csv", "**", True),
        ("a-1.csv", "a-[0-9].csv", True),
    ],
)
def test_globs_mean_what_they_mean_on_a_disk(file: str, pattern: str, meant: bool) -> None:
    assert is_meant(file, pattern) == meant
