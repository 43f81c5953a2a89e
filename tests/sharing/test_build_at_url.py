"""`prep build --out URL`: the cache lies at the URL and in the local store; what fails on the way."""

import json
from pathlib import Path

import pytest

from cache import Cache, open_cache
from cache.console.progress import ConsoleProgress
from cache.errors import InputError
from cache.remote.urls import parse_url
from cache.sharing.pulling import pull
from prep import build, build_cache
from prep.at_url import _around, push_built

from ..helpers.caches import write_cache
from ..helpers.commands import Prep
from ..helpers.object_server import ObjectServer
from ..helpers.tokenizers import write_tokenizer
from .conftest import SECRET, URL, contents, names_at

pytestmark = pytest.mark.slow

OUT = "s3://bucket/caches"
TEXTS = "".join(f"{'a fine film ' * (1 + row % 7)},{'neg' if row % 2 else 'pos'}\n" for row in range(60))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    write_tokenizer(Path("tokenizer"))
    Path("small.csv").write_text("text,label\n" + TEXTS)
    return "small.csv"


def arguments(source: str, *more: str) -> tuple[str, ...]:
    return ("build", source, "--tokenizer", "tokenizer", "--epochs", "1", *more)


def digests(folder: Path) -> dict[str, str]:
    """Of all files but the manifest, which knows when it was built."""
    return {name: digest for name, digest in contents(folder).items() if name != "manifest.json"}


def test_the_cache_of_a_local_build_is_at_the_url_and_in_the_store(
    source: str, s3: ObjectServer, store: Path, prep: Prep
) -> None:
    done = prep(*arguments(source, "--out", OUT))
    assert (done.code, f"built {URL} in " in done.out) == (0, True), done.err
    assert done.out.endswith(f"next: train run --cache {URL}\n")
    assert prep(*arguments(source)).code == 0
    with pull(URL) as pulled:
        assert pulled.fetched_bytes == 0
        assert pulled.folder.parent == store
        assert digests(pulled.folder) == digests(Path("cache/small"))
        assert names_at(s3) == set(contents(pulled.folder))
    assert [path.name for path in store.iterdir() if not path.name.startswith(".")] == [pulled.folder.name]


def test_what_is_there_is_built_once_and_replaced_only_by_force(
    source: str, s3: ObjectServer, store: Path, prep: Prep
) -> None:
    first = json.loads(prep(*arguments(source, "--out", OUT, "--json")).out)
    assert (first["url"], first["up_to_date"]) == (URL, False)
    again = prep(*arguments(source, "--out", OUT))
    assert again.out == f"{URL} is up to date\nnext: train run --cache {URL}\n"
    before = set(names_at(s3))
    assert prep(*arguments(source, "--out", OUT, "--epochs", "2")).code == 0  # the epoch is planned, and pushed
    assert {name.rpartition("/")[2] for name in names_at(s3) - before} == {"epoch-0001.safetensors"}
    other = prep(*arguments(source, "--out", OUT, "--max-length", "9"))
    assert other.code == 2
    assert f"{URL} holds a different cache: max length 128 there, 9 asked for" in other.err
    assert prep(*arguments(source, "--out", OUT, "--max-length", "9", "--force")).code == 0
    assert open_cache(URL).manifest.max_length == 9


def test_a_push_that_fails_leaves_the_cache_which_the_next_build_pushes(
    source: str, s3: ObjectServer, store: Path, prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.fault = lambda method, key, count: "403 AccessDenied" if method in ("PUT", "POST") else None
    done = prep(*arguments(source, "--out", OUT))
    assert (done.code, "access is denied" in done.err, SECRET in done.err) == (1, True, False)
    (left,) = (path for path in store.iterdir() if not path.name.startswith("."))
    assert f"the cache was built and lies in {left}; to go on: prep push {left} {URL}" in done.err
    s3.fault = lambda method, key, count: None
    monkeypatch.setattr(build, "encode_source", None)  # it is not encoded again
    assert prep(*arguments(source, "--out", OUT)).code == 0
    assert open_cache(URL).manifest.name == "small"
    assert not left.exists()


def test_ctrl_c_while_it_is_pushed_says_where_the_cache_lies(
    source: str, s3: ObjectServer, store: Path, prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cache.Cache.push", stop)
    done = prep(*arguments(source, "--out", OUT))
    assert (done.code, f"; to go on: prep push {store}/small-" in done.err) == (130, True), done.err


def test_another_push_under_way_is_told_before_anything_is_encoded(
    source: str, s3: ObjectServer, store: Path, prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.objects["bucket/caches/small/manifest.pushing.json"] = b"another"
    with monkeypatch.context() as patched:
        patched.setattr(build, "encode_source", None)
        done = prep(*arguments(source, "--out", OUT))
    assert (done.code, "another cache is being pushed there" in done.err) == (2, True), done.err
    assert prep(*arguments(source, "--out", OUT, "--force")).code == 0


def test_epochs_that_only_the_store_has_are_pushed_and_a_longer_plan_there_stays(
    source: str, s3: ObjectServer, store: Path, prep: Prep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert prep(*arguments(source, "--out", OUT)).code == 0
    cache = open_cache(URL)
    cache["train"].keep_plan(cache.manifest.plan, 2)
    two = arguments(source, "--out", OUT, "--epochs", "2")
    assert prep(*two).code == 0
    assert any(name.endswith("/epoch-0001.safetensors") for name in names_at(s3))
    monkeypatch.setenv("LENGTHWISE_STORE", str(tmp_path / "elsewhere"))
    open_cache(URL)
    cache["train"].keep_plan(cache.manifest.plan, 3)
    cache.push(URL)
    there = dict(s3.objects)
    assert prep(*arguments(source, "--out", OUT, "--epochs", "3")).code == 0
    assert s3.objects == there


def test_a_cache_whose_push_was_finished_by_hand_becomes_the_one_of_the_store(
    source: str, s3: ObjectServer, store: Path, prep: Prep
) -> None:
    s3.fault = lambda method, key, count: "403 AccessDenied" if method in ("PUT", "POST") else None
    assert prep(*arguments(source, "--out", OUT)).code == 1
    s3.fault = lambda method, key, count: None
    (left,) = (path for path in store.iterdir() if not path.name.startswith("."))
    assert prep("push", str(left), URL).code == 0
    assert "is up to date" in prep(*arguments(source, "--out", OUT)).out
    assert not left.exists()
    assert s3.count("GET", ".safetensors") == 0  # nothing was pulled


def test_another_cache_pushed_during_the_build_is_told_without_a_remedy_that_fails(
    small: Cache, s3: ObjectServer, tmp_path: Path
) -> None:
    other = write_cache(tmp_path / "other", {"train": 5}).folder
    s3.objects["bucket/caches/small/manifest.json"] = (other / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=f"{small.folder}, for prep push$"):
        push_built(small, parse_url(URL), False, ConsoleProgress(quiet=True))


@pytest.mark.parametrize("root", ["s3://bucket", "hf://datasets/user/imdb"])
def test_a_cache_that_is_a_whole_bucket_or_dataset_is_told_with_a_remedy_that_works(root: str) -> None:
    assert _around(parse_url(root)).endswith(f"such as --out {root}/caches")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("s3://other/caches", "there is no such bucket"),
        ("ftp://host/caches", "nothing is read from ftp:// URLs"),
        (f"s3://me:{SECRET}@bucket/caches", "came with a user, password, query"),
        (URL, f"{URL} is a cache; --out is the folder around it: --out {OUT} --name small"),
    ],
)
def test_a_wrong_url_is_told_before_anything_is_read(out: str, message: str, s3: ObjectServer, prep: Prep) -> None:
    s3.objects["bucket/caches/small/manifest.json"] = b"{}"
    done = prep("build", "no-such-file.csv", "--out", out)
    assert (done.code, message in done.err) == (2, True), done.err
    assert SECRET not in done.err


def test_from_python_and_to_a_folder_that_machines_share(store: Path, tmp_path: Path) -> None:
    cache = build_cache(
        ["a fine film"] * 20, [0, 1] * 10, name="films", tokenizer="minilm", quiet=True, out=f"file://{tmp_path}/shared"
    )
    assert cache.folder.parent == store
    assert contents(tmp_path / "shared" / "films") == contents(cache.folder)


def test_to_a_dataset_of_the_hub(source: str, hub: ObjectServer, store: Path, prep: Prep) -> None:
    out = "hf://datasets/user/imdb"
    assert prep(*arguments(source, "--out", out)).code == 0
    assert open_cache(f"{out}/small").manifest.name == "small"
    assert f"{out}/small is up to date" in prep(*arguments(source, "--out", out)).out


def test_a_store_with_a_limit_keeps_it(
    source: str, s3: ObjectServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENGTHWISE_STORE_SIZE", "1kB")
    options = {"tokenizer": "minilm", "quiet": True, "out": OUT}
    first = build_cache(source, **options)
    folder = first.folder
    del first
    second = build_cache(source, max_length=9, name="other", **options)
    assert (folder.exists(), second.folder.exists()) == (False, True)


def test_where_no_epochs_are_asked_for_nothing_is_pushed_again(
    source: str, s3: ObjectServer, store: Path, prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = arguments(source, "--out", OUT, "--epochs", "0")
    assert prep(*flags).code == 0
    monkeypatch.setattr("cache.Cache.push", None)
    assert prep(*flags).out == f"{URL} is up to date\nnext: train run --cache {URL}\n"
