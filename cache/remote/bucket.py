"""Buckets of S3, Google Cloud Storage and Azure, by way of pyarrow, which finds the credentials where they are kept."""

import contextlib
import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Generator, Iterator
from datetime import timedelta
from functools import cache, cached_property
from typing import Any, BinaryIO

from ..errors import InputError, StorageError
from .base import CHUNK_BYTES, ObjectStore
from .failures import DeniedError, UnreachableError, remote_errors, translated
from .ranges import RemoteFile
from .transfer import Report
from .urls import StoreUrl

_RETRY_LIMIT = timedelta(seconds=10)
"""How long Google's client tries again; `transfer` does so, too."""


_SIGN_IN_S = 50.0
"""Longest that finding credentials for Azure may take, seconds."""


class Bucket(ObjectStore):
    """A folder of a bucket or container."""

    @cached_property
    def _files(self) -> Any:
        with remote_errors(self.url):
            return _file_system(self.url.scheme, self.url.host)

    def _path(self, name: str = "") -> str:
        container = self.url.host.partition("@")[0]
        return "/".join(part for part in (container, self.url.path, name) if part)

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        with self._explained(self.url / name), self._files.open_input_stream(self._path(name)) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def ranges(self, name: str) -> RemoteFile:
        """A file, to be read in any order; FileNotFoundError where there is none."""
        url, path = self.url / name, self._path(name)
        opened = cache(lambda: self._files.open_input_file(path))
        with self._explained(url):
            size, version = self._written(path) if url.scheme == "gs" else self._tagged(path, opened())
        if not version:
            raise StorageError(
                f"{url}: the store gives neither its ETag nor when it was written, by which a change would be seen; "
                "copy it to this machine and build from the copy"
            )

        def fetch(position: int, size: int) -> bytes:
            with self._explained(url):
                return bytes(opened().read_at(size, position))

        return RemoteFile(f"{url}", size, version, fetch)

    def _tagged(self, path: str, file: Any) -> tuple[int, str]:
        """The size and ETag of a file that is open; where it has none, when it was written."""
        facts = {key.lower(): value for key, value in (file.metadata() or {}).items()}
        tag = facts.get("etag", b"").decode().strip('"')
        return (file.size(), tag) if tag else self._written(path)

    def _written(self, path: str) -> tuple[int, str]:
        """The size of a file and when it was written. Google's library opens none without asking for all its bytes."""
        from pyarrow import fs

        info = self._files.get_file_info(path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(path)
        return info.size, f"written {info.mtime_ns}" if info.mtime_ns else ""

    @contextlib.contextmanager
    def _explained(self, url: StoreUrl) -> Iterator[None]:
        """See `remote_errors`. The answers to some requests for a file have no reason: then it is that of a listing."""
        try:
            with remote_errors(url):
                yield
        except StorageError as error:
            if "HTTP status 400" in str(error) or isinstance(error, DeniedError):
                with contextlib.suppress(DeniedError):
                    self.check()
            raise

    def _check_bucket(self) -> None:
        """Raise where the bucket itself is missing; some stores say of it what they say of a file."""
        from pyarrow import fs

        with contextlib.suppress(StorageError, FileNotFoundError), remote_errors(self.url):
            if self._files.get_file_info(self.url.host.partition("@")[0]).type == fs.FileType.NotFound:
                raise translated("NO_SUCH_BUCKET", self.url)

    def sizes(self, folder: str) -> dict[str, int]:
        from pyarrow import fs

        base = self._path(folder)
        selector = fs.FileSelector(base, recursive=True, allow_not_found=True)
        with remote_errors(self.url):
            found = self._files.get_file_info(selector)
        return {
            info.path.removeprefix(f"{base}/"): info.size
            for info in found
            if info.type == fs.FileType.File and info.path.startswith(f"{base}/")
        }

    def folders(self) -> list[str]:
        from pyarrow import fs

        found = {info.base_name for info in self._listed() if info.type == fs.FileType.Directory}
        if self.url.scheme == "gs":  # there pyarrow lists no folders: they are those of all files below
            found |= {name.partition("/")[0] for name in self.sizes("") if "/" in name}
        return sorted(found)

    def check(self) -> None:
        self._listed()

    def _listed(self) -> list[Any]:
        """What lies in this folder, without what lies in its folders."""
        from pyarrow import fs

        try:
            with remote_errors(self.url):
                return list(self._files.get_file_info(fs.FileSelector(self._path())))
        except FileNotFoundError:
            self._check_bucket()
            return []

    def write(self, name: str, file: BinaryIO, report: Report) -> None:
        try:
            with remote_errors(self.url / name), self._files.open_output_stream(self._path(name)) as out:
                while chunk := file.read(CHUNK_BYTES):
                    out.write(chunk)
                    report(len(chunk))
        except FileNotFoundError:
            raise translated("NO_SUCH_BUCKET", self.url) from None

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), remote_errors(self.url / name):
            self._files.delete_file(self._path(name))


def _file_system(scheme: str, host: str) -> Any:
    """pyarrow's file system for a bucket; region, endpoint and account are those of the environment."""
    from pyarrow import fs

    if scheme == "s3":
        endpoint = _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        region = _variable("AWS_REGION", "AWS_DEFAULT_REGION")
        if region is None and endpoint is None:
            region = fs.resolve_s3_region(host)
        # Writing in the background would hold whole shards in memory, and say nothing until the last part is sent.
        return fs.S3FileSystem(
            endpoint_override=endpoint, region=region, allow_delayed_open=True, background_writes=False
        )
    if scheme == "gs":
        emulator = _variable("STORAGE_EMULATOR_HOST")
        scheme, _, address = (emulator or "").rpartition("://")
        options = {"anonymous": True, "scheme": scheme or "http", "endpoint_override": address} if emulator else {}
        return fs.GcsFileSystem(retry_time_limit=_RETRY_LIMIT, **options)
    return _azure(scheme, host)


def _azure(scheme: str, host: str) -> Any:
    """Azure's file system for a container; see `_file_system`."""
    from pyarrow import fs

    account = host.partition("@")[2].partition(".")[0] or _variable(
        "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"
    )
    if account is None:
        raise InputError(
            f"{scheme}://{host} names no storage account; set AZURE_STORAGE_ACCOUNT_NAME, or write "
            "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
        )
    protocol, _, address = (_variable("AZURE_STORAGE_ENDPOINT") or "").rpartition("://")
    options = {
        f"{service}_storage_{part}": value
        for service in ("blob", "dfs")
        for part, value in (("scheme", protocol or "https"), ("authority", address.strip("/")))
        if address
    }
    key, token = _variable("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"), _variable("AZURE_STORAGE_SAS_TOKEN")
    try:
        b64decode(key or "", validate=True)
    except ValueError:
        raise InputError(
            f"{scheme}://{host}: AZURE_STORAGE_ACCOUNT_KEY is not base64, so it is no account's key; copy it whole"
        ) from None
    if key is None and token is None:
        _check_sign_in(f"{scheme}://{host}", account, options)
    return fs.AzureFileSystem(account, account_key=key, sas_token=token, **options)


def _check_sign_in(url: str, account: str, options: dict[str, str]) -> None:
    """Raise where Azure's library finds no credentials. It would end this process, so another one tries it."""
    code = "import json, sys; from pyarrow import fs; fs.AzureFileSystem(**json.loads(sys.argv[1])).get_file_info('x')"
    given = json.dumps({"account_name": account, **options})
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-c", code, given], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SIGN_IN_S
        )
    except subprocess.TimeoutExpired:
        raise UnreachableError(
            f"{url}: signing in took longer than {_SIGN_IN_S:.0f} seconds; check the network"
        ) from None
    if tried.returncode < 0:
        raise translated(tried.stderr.decode(errors="replace").rpartition("what():")[2].strip(), url)


def _variable(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
