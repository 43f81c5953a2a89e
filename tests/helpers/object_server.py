"""An S3 server of the tests' own, over real HTTP, that can be told to fail; a stand-in for the Hub's endpoint."""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

Fault = Callable[[str, str, int], str | None]
"""From method, key and count of a request to "cut", "flip", "hang", "hold" (until `released`), "slow 0.1", a status as
"403 x", or None."""


class ObjectServer(ThreadingHTTPServer):
    """Buckets and their objects in memory; `requests` logs what was asked.

    Args:
        handler: of its requests.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.objects: MutableMapping[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda method, key, count: None
        self.over = threading.Event()
        self.released = threading.Event()
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self, method: str, ending: str = "") -> int:
        """How many requests of a method there were for keys of this ending."""
        return sum(asked == method and key.endswith(ending) for asked, key in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up."""


def serving(handler: type[BaseHTTPRequestHandler]) -> contextlib.AbstractContextManager[ObjectServer]:
    return running(ObjectServer(handler))


@contextlib.contextmanager
def running(server: ObjectServer) -> Iterator[ObjectServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body would wait 40 ms for the acknowledgement of its headers
    server: ObjectServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(20)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return _decoded(data) if "aws-chunked" in self.headers.get("Content-Encoding", "") else data

    def answer(self, status: int, data: bytes = b"", kind: str = "application/xml", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def failed(self, key: str) -> bool:
        """Do what the fault of this request asks for; False where there is none."""
        with self.server.lock:
            self.server.requests.append((self.command, key))
            fault = self.server.fault(self.command, key, self.server.requests.count((self.command, key)))
        self.flip = fault == "flip"
        if fault is None or self.flip:
            return False
        if fault == "hang":
            self.server.over.wait(30)
        if fault in ("hang", "cut"):
            if fault == "cut" and self.command == "GET":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"x" * 100)
            self.close_connection = True
            return True
        if fault == "hold":
            self.server.released.wait(60)
            return False
        if fault.startswith("slow"):
            time.sleep(float(fault[4:]))
            return False
        status, code = fault.split(" ", 1)
        self.answer(int(status), f"<Error><Code>{code}</Code><Message>{code}.</Message></Error>".encode())
        return True

    def content(self, key: str) -> bytes:
        data = self.server.objects[key]
        return bytes([data[0] ^ 1]) + data[1:] if self.flip else data


def _decoded(data: bytes) -> bytes:
    """The content of a body in chunks, with or without signatures, as S3's clients send it."""
    found = b""
    while True:
        head, _, data = data.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            return found
        found, data = found + data[:size], data[size + 2 :]


class S3Handler(Handler):
    """The requests that pyarrow makes."""

    def parsed(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        key = unquote(parts.path).lstrip("/")
        if not self.failed(key):
            if key.partition("/")[0] == "bucket":
                return key, query
            self.answer(404, b"<Error><Code>NoSuchBucket</Code><Message>none.</Message></Error>")
        return "", {}

    def do_HEAD(self) -> None:
        key, _ = self.parsed()
        if key in self.server.objects:
            data = self.server.objects[key]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
            self.end_headers()
        elif key:
            self.answer(200 if key == "bucket" else 404)

    def do_GET(self) -> None:
        key, query = self.parsed()
        if key.rstrip("/") == "bucket":
            self.list(query)
        elif key in self.server.objects:
            data = self.content(key)
            first, last = map(int, re.findall(r"\d+", self.headers["Range"]))
            piece = data[first : last + 1]
            self.answer(206, piece, Content_Range=f"bytes {first}-{first + len(piece) - 1}/{len(data)}")
        elif key:
            self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>none.</Message></Error>")

    def list(self, query: dict[str, str]) -> None:
        prefix, start = query.get("prefix", ""), query.get("continuation-token", "")
        names = sorted(name.removeprefix("bucket/") for name in self.server.objects)
        files, folders = [], set()
        for name in (name for name in names if name.startswith(prefix) and name > start):
            rest = name[len(prefix) :]
            if "/" in rest and query.get("delimiter"):
                folders.add(prefix + rest.partition("/")[0] + "/")
            else:
                files.append(name)
        page = files[:100]
        text = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.server.objects[f'bucket/{name}'])}</Size></Contents>"
            for name in page
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders))
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(files) > 100 else ""
        cut = str(len(files) > 100).lower()
        counts = f"<KeyCount>{len(page) + len(folders)}</KeyCount><IsTruncated>{cut}</IsTruncated>"
        self.answer(200, f"<ListBucketResult>{counts}{more}{text}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        data = self.body()
        key, query = self.parsed()
        if not key:
            return
        if "partNumber" in query:
            self.server.uploads[query["uploadId"]][int(query["partNumber"])] = data
        else:
            self.server.objects[key] = data
        self.answer(200, ETag=f'"{hashlib.md5(data).hexdigest()}"')

    def do_POST(self) -> None:
        self.body()
        key, query = self.parsed()
        if "uploads" in query:
            upload = f"upload{len(self.server.uploads)}"
            self.server.uploads[upload] = {}
            self.answer(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        elif key:
            parts = self.server.uploads.pop(query["uploadId"])
            self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
            self.answer(200, b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')

    def do_DELETE(self) -> None:
        key, _ = self.parsed()
        if key:
            self.server.objects.pop(key, None)
            self.answer(204)


class HubHandler(Handler):
    """What the Hub answers for the dataset user/imdb: its commits are numbers, its files the last one's."""

    def commit(self) -> str:
        listed = repr(sorted((name, len(data)) for name, data in self.server.objects.items()))
        return hashlib.sha1(listed.encode()).hexdigest()

    def json(self, content: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(content).encode(), "application/json", **headers)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.failed(path):
            return
        if path.startswith("/api/datasets/user/imdb/tree/"):
            self.tree(path.removeprefix("/api/datasets/user/imdb/tree/").partition("/")[2])
        elif path.startswith("/api/datasets/user/imdb"):
            self.json({"id": "user/imdb", "sha": self.commit(), "siblings": []})
        elif found := re.fullmatch(r"/datasets/user/imdb/resolve/\w+/(.+)", path):
            if found[1] in self.server.objects:
                self.resolve(found[1])
            else:
                self.answer(404, b"", X_Error_Code="EntryNotFound")
        else:
            self.answer(401, b"", X_Error_Code="RepoNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def resolve(self, name: str) -> None:
        data, part = self.content(name), re.findall(r"\d+", self.headers.get("Range", ""))
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": self.commit()}
        if part:
            data = data[int(part[0]) : int(part[1]) + 1]
        self.answer(206 if part else 200, data, "application/octet-stream", **headers)

    def tree(self, folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        names = [name for name in self.server.objects if name.startswith(prefix)]
        recursive = "recursive=true" in self.path.lower()
        files = [name for name in names if recursive or "/" not in name[len(prefix) :]]
        folders = {prefix + name[len(prefix) :].partition("/")[0] for name in names if "/" in name[len(prefix) :]}
        if prefix and not names:
            return self.answer(404, b"", X_Error_Code="EntryNotFound")
        found = [{"type": "file", "path": name, "size": len(self.server.objects[name]), "oid": "0"} for name in files]
        return self.json(found + [{"type": "directory", "path": name, "oid": "0"} for name in sorted(folders)])

    def do_POST(self) -> None:
        data = self.body()
        path = urlsplit(self.path).path
        if self.failed(path):
            return
        if "/preupload/" in path:
            files = json.loads(data)["files"]
            self.json(
                {"files": [{"path": item["path"], "uploadMode": "regular", "shouldIgnore": False} for item in files]}
            )
            return
        header, *lines = [json.loads(line) for line in data.splitlines()]
        if header["value"]["parentCommit"] != self.commit():
            self.json({"error": "the parent is not the newest commit"}, 412)
            return
        for line in lines:
            name = line["value"]["path"]
            if line["key"] == "file":
                self.server.objects[name] = base64.b64decode(line["value"]["content"])
            else:
                self.server.objects.pop(name, None)
        self.json(
            {
                "success": True,
                "commitOid": self.commit(),
                "commitUrl": f"{self.server.endpoint}/datasets/user/imdb/commit/x",
            }
        )
