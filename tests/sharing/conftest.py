"""Servers for S3, Google Cloud Storage and the Hub, and a cache to share."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from cache import Cache, PlanSpec, open_cache
from cache.console.progress import ConsoleProgress
from cache.sharing.pulling import pull

from ..helpers.caches import write_cache
from ..helpers.object_server import HubHandler, ObjectServer, S3Handler, running, serving
from ..prep.conftest import without_torch  # noqa: F401  # forks are quick here, too

URL = "s3://bucket/caches/small"
SECRET = "wJalrXUtnFEMIsecret"
QUIET = ConsoleProgress(quiet=True)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = write_cache(tmp_path_factory.mktemp("written") / "small", {"train": 120, "test": 20}, shards=4)
    cache["train"].keep_plan(PlanSpec("smart", 16), 2)
    cache["train"].keep_plan(PlanSpec("tight", 8), 1)
    return cache.folder


@pytest.fixture
def small(written: Path, tmp_path: Path) -> Cache:
    """A cache of two splits, eight shards and two plans."""
    return open_cache(shutil.copytree(written, tmp_path / "cache" / "small"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENGTHWISE_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("LENGTHWISE_STORE_SIZE", raising=False)
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def read_apart(parsed_apart: None) -> None:
    """As by commands: the libraries that read from a bucket do not survive a fork of a process that used them."""


@pytest.fixture
def s3(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    with serving(S3Handler) as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def gs(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """Google Cloud Storage as the package gcp-storage-emulator has it."""
    pytest.importorskip("gcp_storage_emulator")
    from ..helpers.gs_server import GsServer

    with running(GsServer()) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        monkeypatch.setattr("cache.remote.bucket._RETRY_LIMIT", timedelta(milliseconds=10))
        yield server


@dataclass
class Shared:
    """A bucket of a store: its URL, and the server that holds it."""

    url: str
    server: ObjectServer

    @property
    def cache(self) -> str:
        """The URL at which tests keep a cache."""
        return f"{self.url}/caches/small"


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Shared:
    """A bucket of each kind of store."""
    return Shared(f"{request.param}://bucket", request.getfixturevalue(request.param))


@pytest.fixture
def hub(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    from huggingface_hub import constants

    with serving(HubHandler) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield server


def fetch(url: str, to: Path | None = None) -> Path:
    """The folder that a cache is pulled into."""
    with pull(url, to, QUIET) as pulled:
        return pulled.folder


def contents(folder: Path) -> dict[str, str]:
    """The digest of each file below a folder, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def names_at(server: ObjectServer) -> set[str]:
    """What lies at `URL`, without the empty objects that pyarrow leaves in place of folders."""
    return {name.removeprefix("bucket/caches/small/") for name in server.objects if not name.endswith("/")}
