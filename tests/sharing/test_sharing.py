"""Caches pushed to and pulled from S3, Google Cloud Storage, the Hub and shared folders, over real HTTP."""

import shutil
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from cache import Cache, CorruptCacheError, InputError, NotACacheError, PlanSpec, StorageError, open_cache
from cache.sharing.listing import find_remote_caches
from cache.sharing.pushing import PUSHING

from ..helpers.caches import write_cache
from ..helpers.files import names_in
from ..helpers.object_server import ObjectServer
from .conftest import QUIET, SECRET, URL, Shared, contents, fetch, names_at

pytestmark = pytest.mark.slow


def test_what_is_pulled_is_what_was_pushed_byte_for_byte(small: Cache, bucket: Shared, tmp_path: Path) -> None:
    pushed = small.push(bucket.cache, progress=QUIET)
    assert pushed.files == pushed.sent_files == len(contents(small.folder))
    assert pushed.bytes == pushed.sent_bytes
    assert contents(fetch(bucket.cache)) == contents(fetch(bucket.cache, tmp_path / "to")) == contents(small.folder)
    assert names_at(bucket.server) == set(contents(small.folder))
    assert small.push(bucket.cache, progress=QUIET).sent_files == 0


@pytest.mark.parametrize("kind", ["s3", "hub"])
def test_a_plan_with_more_epochs_there_stays(
    small: Cache, kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other plans are pushed; the next reader has all of the epochs."""
    request.getfixturevalue(kind)
    url = URL if kind == "s3" else "hf://datasets/user/imdb"
    shorter = open_cache(shutil.copytree(small.folder, tmp_path / "shorter"))
    small["train"].keep_plan(PlanSpec("smart", 16), 5)
    small.push(url, progress=QUIET)
    shorter["train"].keep_plan(PlanSpec("tight", 8), 3)
    shorter.push(url)
    assert f"{url}/train/plans/smart-b16-s0 has more epochs than the plan here, and stays" in capsys.readouterr().err
    plans = open_cache(url, quiet=True, verify=True)["train"].stored_plans()
    assert {spec.id: len(plan.epochs) for spec, plan in plans.items()} == {"smart-b16-s0": 5, "tight-b8-s0": 3}


def test_the_caches_of_a_bucket_are_found(small: Cache, bucket: Shared) -> None:
    small.push(bucket.cache, progress=QUIET)
    bucket.server.objects["bucket/notes/deeper/a.txt"] = b"not of a cache"
    assert [found for found, _ in find_remote_caches(f"{bucket.url}/caches")] == [bucket.cache]
    assert [found for found, _ in find_remote_caches(bucket.cache)] == [bucket.cache]
    assert find_remote_caches(bucket.url) == find_remote_caches(f"{bucket.url}/none") == []
    with pytest.raises(InputError, match="no such bucket"):
        find_remote_caches(bucket.url.replace("bucket", "other"))


def test_a_dataset_of_the_hub_holds_a_cache_too(small: Cache, hub: ObjectServer) -> None:
    hub.objects["README.md"] = b"# not of the cache"
    for url in ("hf://datasets/user/imdb", "hf://datasets/user/imdb/deeper/small"):
        assert small.push(url, progress=QUIET).sent_files
        assert contents(fetch(url)) == contents(small.folder)
        assert not small.push(url, progress=QUIET).sent_files
    assert [url for url, _ in find_remote_caches("hf://datasets/user/imdb")] == ["hf://datasets/user/imdb"]
    assert hub.objects["README.md"]


def test_a_shared_folder_holds_a_cache_too(small: Cache, store: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/shared/caches/small"
    small.push(url, progress=QUIET)
    assert contents(tmp_path / "shared/caches/small") == contents(fetch(url)) == contents(small.folder)
    assert [found for found, _ in find_remote_caches(f"file://{tmp_path}/shared/caches")] == [url]


def test_open_cache_takes_a_url_and_downloads_once(small: Cache, s3: ObjectServer, store: Path) -> None:
    small.push(URL, progress=QUIET)
    cache = open_cache(URL, quiet=True)
    assert cache["train"][7].input_ids.tolist() == small["train"][7].input_ids.tolist()
    assert cache.folder.parent == store
    before = s3.count("GET", ".safetensors")
    assert open_cache(URL, quiet=True).folder == cache.folder
    assert s3.count("GET", ".safetensors") == before
    assert sorted(spec.id for spec in cache["train"].stored_plans()) == ["smart-b16-s0", "tight-b8-s0"]


def test_a_cache_that_is_here_is_used_without_writing_to_the_store(
    small: Cache, s3: ObjectServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.push(URL, progress=QUIET)
    folder = fetch(URL)
    monkeypatch.setattr("cache.sharing.pulling.locked", None)
    monkeypatch.setattr("cache.sharing.pulling.os.utime", Mock(side_effect=PermissionError))
    assert fetch(URL) == folder


def test_a_store_that_does_not_answer_is_no_way_to_what_was_pulled_but_that_is_named(
    small: Cache, s3: ObjectServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.remote.transfer.ATTEMPTS", 1)
    s3.fault = lambda method, key, count: "cut"
    with pytest.raises(StorageError, match=rf"did not open or was cut.*prep list {store}"):
        fetch(URL)


def test_threads_share_one_download(small: Cache, s3: ObjectServer, capsys: pytest.CaptureFixture[str]) -> None:
    small.push(URL, progress=QUIET)
    s3.fault = lambda method, key, count: "slow 0.05" if key.endswith("safetensors") else None
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(open_cache(URL).folder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 3
    assert len(set(folders)) == 1
    assert s3.count("HEAD", "train/shard-00000.safetensors") == 1
    assert "is being pulled by process" in capsys.readouterr().err


# --- publishing


def test_another_cache_is_replaced_only_by_force(small: Cache, bucket: Shared, tmp_path: Path) -> None:
    url, server = bucket.cache, bucket.server
    small.push(url, progress=QUIET)
    server.objects["bucket/caches/small/notes.txt"] = b"not of the cache"
    other = write_cache(tmp_path / "other", {"train": 40}, seed=1)
    other["train"].keep_plan(PlanSpec("smart", 4), 1)
    with pytest.raises(InputError, match=r"holds another cache: .*--force"):
        other.push(url, progress=QUIET)
    assert contents(fetch(url)) == contents(small.folder)
    first = len(server.requests)
    other.push(url, force=True, progress=QUIET)
    assert contents(fetch(url)) == contents(other.folder)
    assert names_at(server) == {*contents(other.folder), "notes.txt"}
    changes = [asked for asked in server.requests[first:] if asked[0] in ("PUT", "DELETE") and asked[1][-1] != "/"]
    assert changes[0] == ("DELETE", "bucket/caches/small/manifest.json"), "no reader sees a mix"
    assert changes[-2] == ("PUT", "bucket/caches/small/manifest.json")


def test_a_damaged_manifest_is_replaced_only_by_force(small: Cache, s3: ObjectServer) -> None:
    s3.objects["bucket/caches/small/manifest.json"] = b"{}"
    for refused in (lambda: small.push(URL, progress=QUIET), lambda: fetch(URL)):
        with pytest.raises(CorruptCacheError, match=URL):
            refused()
    small.push(URL, force=True, progress=QUIET)
    assert contents(fetch(URL)) == contents(small.folder)


def test_a_push_that_was_stopped_goes_on(small: Cache, bucket: Shared, store: Path) -> None:
    url, server = bucket.cache, bucket.server
    server.fault = lambda method, key, count: (
        "403 AccessDenied" if method == "PUT" and key.endswith("test/shard-00003.safetensors") else None
    )
    with pytest.raises(StorageError, match="access is denied"):
        small.push(url, progress=QUIET)
    assert f"bucket/caches/small/{PUSHING}" in server.objects
    with pytest.raises(NotACacheError):
        fetch(url)
    server.fault = lambda method, key, count: None
    pushed = small.push(url, progress=QUIET)
    assert 0 < pushed.sent_files < pushed.files
    assert contents(fetch(url)) == contents(small.folder)
    assert f"bucket/caches/small/{PUSHING}" not in server.objects


def test_a_push_refuses_where_another_is_under_way(small: Cache, s3: ObjectServer) -> None:
    s3.objects[f"bucket/caches/small/{PUSHING}"] = b"of another"
    with pytest.raises(InputError, match="another cache is being pushed there"):
        small.push(URL, progress=QUIET)
    small.push(URL, force=True, progress=QUIET)


def test_a_push_that_another_overtakes_publishes_nothing(small: Cache, s3: ObjectServer) -> None:
    def overtake(method: str, key: str, count: int) -> None:
        if method == "PUT" and key.endswith("plan.json"):
            s3.objects[f"bucket/caches/small/{PUSHING}"] = b"of another"

    s3.fault = overtake
    with pytest.raises(StorageError, match="another push to this URL came between"):
        small.push(URL, progress=QUIET)
    assert "bucket/caches/small/manifest.json" not in s3.objects


def test_the_hub_refuses_a_commit_after_another_one(small: Cache, hub: ObjectServer) -> None:
    def overtake(method: str, key: str, count: int) -> None:
        if "/preupload/" in key:
            hub.objects["other.txt"] = b"x"

    hub.fault = overtake
    with pytest.raises(StorageError, match="committed to the dataset meanwhile"):
        small.push("hf://datasets/user/imdb", progress=QUIET)
    assert list(hub.objects) == ["other.txt"]


def test_a_cache_with_a_wrong_byte_is_not_pushed(small: Cache, s3: ObjectServer) -> None:
    path = small.folder / "train/shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CorruptCacheError, match="differ from their checksum"):
        open_cache(small.folder).push(URL, progress=QUIET)
    assert not s3.objects


# --- what goes wrong on the way


@pytest.mark.parametrize("fault", ["cut", "flip", "404 NoSuchKey"])
def test_a_file_that_does_not_come_whole_never_gets_its_name(
    fault: str, small: Cache, bucket: Shared, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.remote.transfer.ATTEMPTS", 1)
    url, server = bucket.cache, bucket.server
    small.push(url, progress=QUIET)
    first = "HEAD" if url.startswith("s3") else "GET"  # what is asked first for a file
    method = first if fault == "404 NoSuchKey" else "GET"
    server.fault = lambda asked, key, count: (
        fault if (asked, key) == (method, "bucket/caches/small/train/shard-00002.safetensors") else None
    )
    with pytest.raises((CorruptCacheError, StorageError)) as error:
        fetch(url)
    assert f"{url}/train/shard-00002.safetensors" in str(error.value)
    assert "google::cloud" not in str(error.value)
    assert not [name for name in names_in(store) if not name.startswith(".")]
    assert not list(store.rglob("train/shard-00002.safetensors"))
    before = server.count(first, "train/shard-00000.safetensors")
    whole = bool(list(store.rglob("train/shard-00000.safetensors")))  # unless the other one failed before its turn came
    server.fault = lambda asked, key, count: None
    assert contents(fetch(url)) == contents(small.folder)
    assert not [name for name in names_in(store) if name.startswith(".") and not name.endswith(".lock")]
    assert server.count(first, "train/shard-00000.safetensors") <= before + (1 if whole else 2)


def test_a_stopped_pull_goes_on_with_the_files_that_are_whole(small: Cache, s3: ObjectServer, store: Path) -> None:
    small.push(URL, progress=QUIET)
    s3.fault = lambda method, key, count: (
        "404 NoSuchKey" if key.endswith("tight-b8-s0/epoch-0000.safetensors") else None
    )
    with pytest.raises(CorruptCacheError, match="is missing"):
        fetch(URL)
    (partial,) = [path for path in store.iterdir() if "pulling" in path.name]
    done = [path for path in partial.rglob("*.safetensors") if not path.name.startswith(".")]
    assert done
    done[0].write_bytes(b"damaged meanwhile")
    s3.fault = lambda method, key, count: None
    s3.requests.clear()
    assert contents(fetch(URL)) == contents(small.folder)
    assert s3.count("HEAD", str(done[0].relative_to(partial))) == 1
    assert all(s3.count("HEAD", str(path.relative_to(partial))) == 0 for path in done[1:])


def test_a_connection_that_is_cut_once_is_opened_again(small: Cache, hub: ObjectServer) -> None:
    small.push("hf://datasets/user/imdb", progress=QUIET)
    hub.fault = lambda method, key, count: (
        "cut" if key.endswith("train/shard-00001.safetensors") and count == 1 else None
    )
    assert contents(fetch("hf://datasets/user/imdb")) == contents(small.folder)


def test_a_wrong_byte_from_the_hub_is_found(small: Cache, hub: ObjectServer, store: Path) -> None:
    small.push("hf://datasets/user/imdb", progress=QUIET)
    hub.fault = lambda method, key, count: "flip" if key.endswith("train/shard-00001.safetensors") else None
    with pytest.raises(CorruptCacheError, match="differ from their checksum"):
        fetch("hf://datasets/user/imdb")


@pytest.mark.parametrize("scheme", ["s3", "hf"])
def test_silence_ends_a_command(
    scheme: str, small: Cache, s3: ObjectServer, hub: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.remote.transfer.PATIENCE_S", 0.3)
    for server in (s3, hub):
        server.fault = lambda method, key, count: "hang"
    with pytest.raises(StorageError, match=r"nothing came or went for .* repeat the command"):
        fetch(URL if scheme == "s3" else "hf://datasets/user/imdb")
    s3.over.set()
    hub.over.set()


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        ("400 ExpiredToken", StorageError, "credentials have expired; sign in again"),
        ("403 InvalidAccessKeyId", StorageError, "credentials are not accepted"),
        ("403 SignatureDoesNotMatch", StorageError, "credentials are not accepted"),
        ("403 AccessDenied", StorageError, "access is denied"),
        ("404 NoSuchBucket", InputError, "no such bucket"),
    ],
)
def test_what_s3_refuses_is_said_in_a_sentence(
    fault: str, kind: type[Exception], sentence: str, small: Cache, s3: ObjectServer
) -> None:
    s3.fault = lambda method, key, count: fault
    with pytest.raises(kind, match=sentence) as error:
        fetch(URL)
    assert SECRET not in str(error.value)
    with pytest.raises(kind, match=sentence):
        small.push(URL, progress=QUIET)


@pytest.mark.parametrize(
    ("fault", "sentence"), [("401 x", "has no dataset|not accepted"), ("403 x", "access is denied"), ("404 x", "no")]
)
def test_what_the_hub_refuses_is_said_in_a_sentence(
    fault: str, sentence: str, small: Cache, hub: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    hub.fault = lambda method, key, count: fault
    with pytest.raises((StorageError, InputError, NotACacheError), match=sentence) as error:
        fetch("hf://datasets/user/imdb")
    assert "hf_secretsecret" not in str(error.value)


def test_what_is_not_there_is_said(small: Cache, bucket: Shared, store: Path, tmp_path: Path) -> None:
    with pytest.raises(NotACacheError, match=rf"has no manifest.*prep list {bucket.url}/caches"):
        fetch(f"{bucket.url}/caches/none")
    other = bucket.url.replace("bucket", "other")
    for refused in (lambda: fetch(f"{other}/caches/none"), lambda: small.push(f"{other}/caches/none", progress=QUIET)):
        with pytest.raises(InputError, match="no such bucket"):
            refused()
    with pytest.raises(NotACacheError):
        fetch(f"file://{tmp_path}/none")


def test_nobody_listens(small: Cache, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.remote.transfer.ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="did not open or was cut"):
        fetch(URL)


def test_azure_without_credentials_ends_in_an_error(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow's file system would abort the process."""
    for name in ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "films")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match=r"^az://bucket: no credentials were found that work; sign in"):
        fetch("az://bucket/caches/small")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "half a key")
    with pytest.raises(InputError, match=r"^az://bucket: AZURE_STORAGE_ACCOUNT_KEY is not base64"):
        fetch("az://bucket/caches/small")
