"""URLs of caches and sources. They hold no secrets: one with a password or a query is refused; any may be printed."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import InputError

EXAMPLES = "s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, hf://datasets/USER/NAME or file:///FOLDER"
_SCHEMES = ("s3", "gs", "az", "abfs", "abfss", "hf", "file")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?")


def is_url(text: object) -> bool:
    """Whether it is written like a URL, not like a path."""
    return isinstance(text, str) and _URL.match(text) is not None


@dataclass(frozen=True)
class StoreUrl:
    """Where a cache or a folder of caches lies.

    Attributes:
        scheme: s3, gs, az, abfs, abfss, hf or file.
        host: the bucket or container, for abfs with "@" and the account's host; of hf and file empty.
        path: below it, without slashes at the ends; of file the path from the root.
    """

    scheme: str
    host: str
    path: str

    def __str__(self) -> str:
        if self.scheme in ("hf", "file"):
            return f"{self.scheme}://{'/' * (self.scheme == 'file')}{self.path}"
        return f"{self.scheme}://{self.host}" + (f"/{self.path}" if self.path else "")

    @property
    def parent(self) -> str:
        """The folder that it lies in, as a URL; of a bucket or a dataset itself."""
        if self.scheme == "hf" and self.path.count("/") == 2:
            return str(self)
        return str(StoreUrl(self.scheme, self.host, self.path.rpartition("/")[0]))

    def __truediv__(self, name: str) -> "StoreUrl":
        return StoreUrl(self.scheme, self.host, f"{self.path}/{name}" if self.path else name)


def parse_url(text: str) -> StoreUrl:
    """Parse the URL of a cache or a source.

    Raises:
        InputError: it is not one, or holds what may be a secret.
    """
    shown = without_secrets(text)
    try:
        parts = urlsplit(text if is_url(text) else "")
    except ValueError:
        parts = urlsplit("")
    scheme = parts.scheme.lower()
    if not scheme:
        raise InputError(f"{shown!r} is not a URL; expected {EXAMPLES}")
    if scheme not in _SCHEMES:
        raise InputError(f"{shown!r}: nothing is read from {scheme}:// URLs, or kept there; expected {EXAMPLES}")
    user, at, _ = parts.netloc.rpartition("@")
    if parts.query or parts.fragment or ":" in user or (at and not scheme.startswith("abfs")):
        raise InputError(
            f"{shown!r} came with a user, password, query or fragment, expected none: credentials, region and "
            "endpoint come from the environment (docs/sharing.md names the variables)"
        )
    if scheme == "hf":
        return StoreUrl(scheme, "", _hub_path(_plain(f"{parts.netloc}/{parts.path}", shown), shown))
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InputError(f"{shown!r} names no folder of this machine; expected file:///FOLDER")
        return StoreUrl(scheme, "", _plain(parts.path, shown))
    if not _HOST.fullmatch(parts.netloc):
        raise InputError(f"{shown!r} names no bucket; expected {scheme}://BUCKET/PATH")
    return StoreUrl(scheme, parts.netloc, _plain(parts.path, shown))


def without_secrets(text: str) -> str:
    """Text without the users and passwords and the queries of the URLs in it."""
    text = re.sub(r"://[^/\s@]*@", "://", text) if not re.match(r"abfss?://[^:/\s@]*@", text) else text
    return re.sub(r"(\w://[^\s?'\"]*)[?#][^\s'\"]*", r"\1", text)


def _plain(path: str, shown: str) -> str:
    parts = [part for part in path.split("/") if part]
    if any(part in (".", "..") or not part.isprintable() for part in parts):
        raise InputError(f"{shown!r} holds '.', '..' or control characters, expected plain names")
    return "/".join(parts)


def _hub_path(path: str, shown: str) -> str:
    if not re.fullmatch(r"datasets/[\w.-]+/[\w.-]+(@[\w.-]+)?(/.+)?", path, re.ASCII):
        raise InputError(f"{shown!r} names no dataset of the Hub; expected hf://datasets/USER/NAME[@REVISION][/PATH]")
    return path
