"""Google Cloud Storage, answered by the package gcp-storage-emulator, behind a server that can be told to fail."""

import io
from collections.abc import Iterator, MutableMapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.server import Router
from gcp_storage_emulator.storage import Storage

from .object_server import Handler, ObjectServer


class GsServer(ObjectServer):
    """One bucket, "bucket"."""

    def __init__(self) -> None:
        super().__init__(GsHandler)
        self.storage = Storage(use_memory_fs=True)
        buckets.create_bucket("bucket", self.storage)
        self.objects = _Objects(self.storage)


class _Objects(MutableMapping[str, bytes]):
    """The contents of the emulator's objects by bucket and name."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage

    def __getitem__(self, key: str) -> bytes:
        if key not in list(self):
            raise KeyError(key)
        return self.storage.get_file(*key.split("/", 1))

    def __setitem__(self, key: str, data: bytes) -> None:
        bucket, name = key.split("/", 1)
        described = objects._make_object_resource("", bucket, name, "application/octet-stream", str(len(data)))
        self.storage.create_file(bucket, name, data, objects._checksums(data, described))

    def __delitem__(self, key: str) -> None:
        self.storage.delete_file(*key.split("/", 1))

    def __iter__(self) -> Iterator[str]:
        return (f"{bucket}/{name}" for bucket, found in list(self.storage.objects.items()) for name in list(found))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class GsHandler(Handler):
    """Hands what it does not let fail to the emulator, one request at a time, for that is not made for threads."""

    server: GsServer

    @property
    def storage(self) -> Any:
        """What the emulator reads from and writes to."""
        stored = self.server.storage
        if not self.flip:
            return stored
        content = lambda bucket, name: self.content(f"{bucket}/{name}")  # noqa: E731
        return SimpleNamespace(get_file=content, get_file_obj=stored.get_file_obj)

    def key(self) -> str:
        parts = urlsplit(self.path)
        bucket, _, name = parts.path.partition("/b/")[2].partition("/o")
        names = parse_qs(parts.query).get("name", [""])
        return "/".join(part for part in (bucket, unquote(name.lstrip("/")) or names[0]) if part)

    def forward(self) -> None:
        body = self.body()
        if self.failed(self.key()):
            return
        connection, self.rfile = self.rfile, io.BytesIO(body)
        try:
            with self.server.lock:
                Router(self).handle(self.command)
        finally:
            self.rfile = connection

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = forward  # noqa: N815
