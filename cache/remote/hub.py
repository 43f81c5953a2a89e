"""Caches in datasets of the Hugging Face Hub: read from one commit, published by one commit, which is atomic."""

import contextlib
import os
import re
from collections.abc import Generator, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError, LengthwiseError, StorageError
from .base import CHUNK_BYTES, Remote
from .failures import UnreachableError, redacted, remote_errors, translated
from .ranges import RemoteFile
from .urls import StoreUrl

TIMEOUT_S = 20.0
"""Longest that a connection may take to open, or be silent, seconds."""


class HubDataset(Remote):
    """A folder of a dataset on the Hub, as of one commit."""

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        _, user, name, *_ = url.path.split("/")
        name, _, revision = name.partition("@")
        self.repository, self.revision = f"{user}/{name}", revision or "main"

    @property
    def path(self) -> str:
        """The folder's path in the dataset."""
        return "/".join(self.url.path.split("/")[3:])

    @cached_property
    def _api(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    @cached_property
    def commit(self) -> str:
        """The commit that everything is read from, looked up once."""
        if re.fullmatch("[0-9a-f]{40}", self.revision):
            return self.revision
        with self._errors():
            return str(self._api.dataset_info(self.repository, revision=self.revision, timeout=TIMEOUT_S).sha)

    def _name(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def _address(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(
            self.repository, self._name(name), repo_type="dataset", revision=self.commit, endpoint=self._api.endpoint
        )

    @contextlib.contextmanager
    def _answer(self, address: str, headers: dict[str, str]) -> Iterator[Any]:
        """The answer to a request for a file, its body not yet read."""
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in its __all__
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        sent = build_hf_headers() | {"Accept-Encoding": "identity"} | headers
        with get_session().stream("GET", address, headers=sent, timeout=TIMEOUT_S, follow_redirects=True) as response:
            hf_raise_for_status(response)
            yield response

    def ranges(self, name: str) -> RemoteFile:
        """A file, to be read in any order; FileNotFoundError where there is none."""
        from huggingface_hub import get_hf_file_metadata

        address = self._address(name)
        with self._errors():
            facts = get_hf_file_metadata(address, timeout=TIMEOUT_S, endpoint=self._api.endpoint)
        if facts.size is None:
            raise StorageError(f"{self.url / name}: the Hub does not say how large it is; repeat the command later")

        def fetch(position: int, size: int) -> bytes:
            part = {"Range": f"bytes={position}-{position + size - 1}"}
            with self._errors(), self._answer(address, part) as response:
                return bytes(response.read()) if response.status_code == 206 else b""

        return RemoteFile(f"{self.url / name}", facts.size, facts.etag or self.commit, fetch)

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        with self._errors(), self._answer(self._address(name), {}) as response:
            yield from response.iter_raw(CHUNK_BYTES)

    def sizes(self, folder: str) -> dict[str, int]:
        base = self._name(folder)
        return {
            item.path.removeprefix(f"{base}/"): item.size
            for item in self._tree(base, recursive=True)
            if hasattr(item, "size")
        }

    def folders(self) -> list[str]:
        found = self._tree(self.path, recursive=False)
        return sorted(item.path.rpartition("/")[2] for item in found if not hasattr(item, "size"))

    def _tree(self, path: str, recursive: bool) -> list[Any]:
        try:
            with self._errors():
                return list(
                    self._api.list_repo_tree(
                        self.repository, path or None, recursive=recursive, revision=self.commit, repo_type="dataset"
                    )
                )
        except FileNotFoundError:
            return []

    def publish(self, files: Mapping[str, Path], stale: list[str], message: str, bars: bool) -> None:
        """Add files and remove stale ones by one commit, made only if nobody made another one since `commit`; with
        `bars` the library draws its progress bars."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # as above

        if not bars:
            disable_progress_bars()
        with self._errors():
            self._api.create_commit(
                self.repository,
                [
                    *(CommitOperationDelete(self._name(name)) for name in stale),
                    *(CommitOperationAdd(self._name(name), str(path)) for name, path in files.items()),
                ],
                commit_message=message,
                repo_type="dataset",
                revision=self.revision,
                parent_commit=self.commit,
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Within it, what the Hub's client raises is a typed error; FileNotFoundError where a file is not there."""
        from huggingface_hub import errors

        try:
            yield
        except errors.OfflineModeIsEnabled:
            raise UnreachableError(f"{self.url}: HF_HUB_OFFLINE is set; unset it to reach the Hub") from None
        except errors.EntryNotFoundError:
            raise FileNotFoundError(str(self.url)) from None
        except errors.RepositoryNotFoundError:
            raise InputError(
                f"{self.url}: the Hub has no dataset {self.repository!r} that you may see; check the name, sign in "
                f"(`hf auth login`, or HF_TOKEN), or make it: hf repos create {self.repository} --type dataset"
            ) from None
        except errors.RevisionNotFoundError:
            raise InputError(f"{self.url}: the dataset has no revision {self.revision!r}") from None
        except errors.HfHubHTTPError as error:
            raise self._refused(error) from None
        except LengthwiseError:
            raise
        except Exception as error:  # the client's HTTP library differs between versions
            if any(kind.__name__ in ("TransportError", "RequestException") for kind in type(error).__mro__):
                raise translated(f"transport: {redacted(str(error))}", self.url) from None
            with remote_errors(self.url):
                raise

    def _refused(self, error: Any) -> LengthwiseError:
        status = getattr(error.response, "status_code", 0)
        if status in (409, 412):
            return StorageError(f"{self.url}: somebody committed to the dataset meanwhile; repeat the command")
        if status == 404:
            return InputError(f"{self.url}: there is no such dataset or folder on {self._api.endpoint}; check the name")
        return translated(f"HTTP status {status}: {redacted(str(error))}", self.url)
