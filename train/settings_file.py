"""Reading the file of settings that `train run --config` names."""

import json
import tomllib
from pathlib import Path
from typing import Any

from cache.errors import InputError


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML file, a JSON file, or the settings.json of a run, without the run's own folder.

    Raises:
        InputError: the file cannot be read, or is not a table of settings.
    """
    kind = "TOML" if path.suffix.lower() == ".toml" else "JSON"
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; expected a .toml or .json file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--config {path} does not parse as {kind}: {error}; expected a .toml or .json file") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = {name: value for name, value in content["settings"].items() if name != "out"}
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds a {type(content).__name__}, expected names and values of settings")
    return {name.replace("-", "_"): value for name, value in content.items()}
