"""URLs of caches: what is one, and that none carries a secret."""

import pyarrow as pa
import pytest

from cache import InputError, StorageError
from cache.remote.failures import redacted, remote_errors, translated
from cache.remote.urls import is_url, parse_url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/caches/imdb", "s3://bucket/caches/imdb"),
        ("S3://bucket//caches/imdb/", "s3://bucket/caches/imdb"),
        ("gs://bucket", "gs://bucket"),
        ("az://container/a", "az://container/a"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("hf://datasets/user/imdb", "hf://datasets/user/imdb"),
        ("hf://datasets/user/imdb@v1/a/b", "hf://datasets/user/imdb@v1/a/b"),
        ("file:///srv/caches/imdb", "file:///srv/caches/imdb"),
        ("file://localhost/srv/my caches", "file:///srv/my caches"),
    ],
)
def test_urls_are_parsed_and_printed_in_one_way(text: str, shown: str) -> None:
    assert is_url(text)
    assert str(parse_url(text)) == shown
    assert parse_url(shown) == parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "cache/imdb", "", "://", "s3://", "s3:///imdb", "https://example.org/imdb", "s3://bu cket/x", "s3://bucket/../x",
        "s3://bucket/./x", "s3://bucket/a\x1b[2J", "file://elsewhere/x", "file://x", "hf://datasets/user", "hf://user/imdb",
        "hf://models/user/imdb", "s3://[::1/x", "az://user@host@host/x",
    ],
)  # fmt: skip
def test_what_names_no_folder_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(InputError, match=r"expected|docs/sharing"):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKID:hunter2@bucket/x", "s3://hunter2@bucket/x", "s3://bucket/x?secret_key=hunter2", "s3://bucket/x#hunter2",
        "abfs://container:hunter2@account/x", "gs://a:hunter2@bucket/x", "https://a:hunter2@b/x?hunter2",
    ],
)  # fmt: skip
def test_secrets_in_urls_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_url(text)
    assert "hunter2" not in str(error.value)


def test_secrets_in_what_libraries_say_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    text = "GET https://me:hunter3@host/c?sig=hunter4&x=1 with hunter2hunter2 failed"
    assert redacted(text) == "GET https://host/c with … failed"
    assert "hunter" not in str(translated(text, "s3://bucket"))


NO_TOKEN = (
    "Permanent error, with a last message of Could not create a OAuth2 access token, see https://x.y. The underlying"
)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (
            pa.ArrowException,
            f"google::cloud::Status(UNKNOWN: {NO_TOKEN} error message was: Cannot open credentials error_info={{}})",
            r"no credentials were found that work; .*\(Cannot open credentials\)$",
        ),
        (
            pa.ArrowInvalid,
            f"google::cloud::Status(INVALID: {NO_TOKEN} error message was: Token has expired error_info={{}})",
            r"the credentials have expired; .*gcloud auth.*\(Token has expired\)$",
        ),
        (
            OSError,
            "google::cloud::Status(DATA_LOSS: xsgetn(): mismatched hashes in download error_info={reason=DATA_LOSS})",
            r"differs from the store's checksum.*\(xsgetn\(\): mismatched hashes in download\)$",
        ),
        (
            PermissionError,
            "google::cloud::Status(PERMISSION_DENIED: Permanent, with a last message of it lacks x error_info={})",
            r"access is denied: .*\(it lacks x\)$",
        ),
        (
            OSError,
            "GetProperties failed for 'http://host/a'. Azure Error: [] Fail to get a new connection: no server\nmore",
            r"did not open or was cut.*\(\[\] Fail to get a new connection: no server\)$",
        ),
        (
            OSError,
            "GetProperties failed for 'http://host'. Azure Error: [] Error while sending request. Failure of the peer",
            r"did not open or was cut.*\(\[\] Error while sending request. Failure of the peer\)$",
        ),
    ],
)
def test_what_the_libraries_of_clouds_say_is_said_in_a_sentence(kind: type[Exception], text: str, message: str) -> None:
    with pytest.raises(StorageError, match=f"^gs://bucket/a: .*{message}"), remote_errors("gs://bucket/a"):
        raise kind(text)


@pytest.mark.parametrize("path", ["cache/imdb", "s3:/bucket", "C:\\x", "/a://b", "./s3://x"])
def test_paths_are_no_urls(path: str) -> None:
    assert not is_url(path)


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ("s3://bucket/caches/imdb", "s3://bucket/caches"),
        ("s3://bucket/imdb", "s3://bucket"),
        ("s3://bucket", "s3://bucket"),
        ("hf://datasets/user/imdb", "hf://datasets/user/imdb"),
        ("hf://datasets/user/imdb/small", "hf://datasets/user/imdb"),
        ("file:///srv/caches/imdb", "file:///srv/caches"),
    ],
)
def test_the_parent_of_a_url_can_be_listed(text: str, parent: str) -> None:
    assert parse_url(text).parent == parent
    assert parse_url(parent)
