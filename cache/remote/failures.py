"""What a remote store or the network refuses, as typed errors, each with a sentence on what to do.

Libraries say why in text alone, each in its own words. Of what they say, no URL's query and no password is repeated.
"""

import contextlib
import os
import re
from collections.abc import Iterator

from ..errors import InputError, LengthwiseError, StorageError
from .urls import StoreUrl, without_secrets

_SECRETS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
)  # fmt: skip


class UnreachableError(StorageError):
    """The connection did not open, was cut, or nothing came over it: trying again may help."""


class DeniedError(StorageError):
    """The store does not let these credentials do this."""


SENTENCES: tuple[tuple[str, type[LengthwiseError], str], ...] = (
    (
        r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound|bucket does not exist|container does not exist",
        InputError,
        "there is no such bucket; check its name, or make it with the store's own tools",
    ),
    (
        r"ExpiredToken|TokenRefreshRequired|RequestExpired|[Tt]oken.{0,20}expired|expired.{0,20}token",
        StorageError,
        "the credentials have expired; sign in again (`aws sso login` or new AWS_… variables, `gcloud auth "
        "application-default login`, `az login`) and repeat",
    ),
    (
        r"metadata\.google\.internal|OAuth2|Bearer token|DefaultAzureCredential|CredentialUnavailable"
        r"|ChainedTokenCredential",
        StorageError,
        "no credentials were found that work; sign in, or set the variables that hold them (see docs/sharing.md)",
    ),
    (
        r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch|InvalidToken"
        r"|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT|AuthenticationFailed|UNAUTHENTICATED|InvalidAuthenticationInfo|\b401\b",
        StorageError,
        "the credentials are not accepted; check the variables that hold them (docs/sharing.md names them)",
    ),
    (
        r"ACCESS_DENIED|PERMISSION_DENIED|AccessDenied|AuthorizationFailure|AuthorizationPermissionMismatch|Forbidden|\b403\b",
        DeniedError,
        "access is denied: these credentials, or none, are not allowed to do this; ask the bucket's owner",
    ),
    (
        r"mismatched hashes",
        UnreachableError,
        "what came differs from the store's checksum of it; repeat the command",
    ),
    (
        r"PermanentRedirect|HTTP status 301|AuthorizationHeaderMalformed",
        InputError,
        "the bucket is in another region; set AWS_REGION to its own",
    ),
    (
        r"SLOW_DOWN|SlowDown|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|InternalError"
        r"|HTTP status (429|5\d\d)|status code: (429|5\d\d)|\b(429|503)\b",
        UnreachableError,
        "the store is overloaded or out of order; repeat the command later",
    ),
    (
        r"NETWORK_CONNECTION|curlCode|CURL error|Error while sending request|UNAVAILABLE|REQUEST_TIMEOUT"
        r"|[Tt]imed? ?out|[Cc]onnect|[Rr]esolv|[Bb]roken pipe|[Tt]ransport",
        UnreachableError,
        "the connection did not open or was cut; check the network and the endpoint, then repeat the command: what "
        "was transferred whole is not transferred again",
    ),
)


@contextlib.contextmanager
def remote_errors(url: StoreUrl | str) -> Iterator[None]:
    """Within it, what a store's library raises is a typed error that names `url`; FileNotFoundError stays.

    Raises:
        UnreachableError, DeniedError, StorageError, InputError: by what the library said.
    """
    try:
        yield
    except (LengthwiseError, FileNotFoundError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(f"{url}: {error}; install what is missing: pip install --upgrade pyarrow") from None
    except Exception as error:
        known = isinstance(error, OSError | ValueError | RuntimeError)  # httpx's and most of pyarrow's are among them
        if not known and not type(error).__module__.startswith("pyarrow"):
            raise
        if str(error).startswith("No such file or directory"):
            raise FileNotFoundError(str(url)) from None
        raise translated(str(error), url) from None


def translated(text: str, url: StoreUrl | str) -> LengthwiseError:
    """The typed error for what a library said."""
    for pattern, kind, sentence in SENTENCES:
        found = re.search(pattern, text)
        if found:
            return kind(f"{url}: {sentence} ({_shortened(_detail(text) or found[0])})")
    return StorageError(f"{url}: {_shortened(_detail(text) or text) or 'the store gave no reason'}")


def _detail(text: str) -> str:
    """What a server or network said, out of what a library made of it; empty where that is not known."""
    found = re.search(
        r"curlCode: \d+, ([^;]+)|google::cloud::Status\(\w+: (.+?) error_info=|Azure Error: (.+)", text, re.DOTALL
    )
    if not found:
        return ""
    return re.split(r"with a last message of |error message was: ", found[found.lastindex or 0])[-1]


def _shortened(text: str) -> str:
    return redacted(text).strip().partition("\n")[0][:300]


def redacted(text: str) -> str:
    """Text without what the environment holds as secrets, without users, passwords and queries of URLs."""
    for name in _SECRETS:
        if len(secret := os.environ.get(name, "")) > 3:
            text = text.replace(secret, "…")
    return without_secrets(text)
