"""An editable install, as the Makefile makes it, beside data whose folder has the name of a package."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ..helpers import ROOT

pytestmark = pytest.mark.slow

BUILD = "from setuptools import build_meta; build_meta.build_editable('wheels')"
FIND = "import importlib.util as u; print(*(u.find_spec(name).origin for name in ('cache', 'prep', 'train')))\n"


def data_folders(folder: str, names: list[str]) -> set[str]:
    """What a checkout's `cache/` holds beside its sub-packages."""
    inside = {name for name in names if Path(folder, name).is_dir()}
    return {name for name in inside if not Path(folder, name, "__init__.py").is_file()}


def test_a_script_beside_a_data_folder_called_cache_finds_our_packages(tmp_path: Path) -> None:
    """A folder without `__init__.py` loses against a package further down the path, but wins against a finder behind
    the path, which is what setuptools installs by default."""
    source, user = tmp_path / "source", tmp_path / "user"
    source.mkdir()
    (user / "cache" / "imdb").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    for name in ("cache", "prep", "train"):
        shutil.copytree(ROOT / name, source / name, ignore=data_folders)
    run([sys.executable, "-c", BUILD], source)
    run([sys.executable, "-m", "venv", "--without-pip", "venv"], tmp_path)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (wheel,) = (source / "wheels").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    (user / "script.py").write_text(FIND)
    places = run([str(tmp_path / "venv" / "bin" / "python"), "script.py"], user).split()
    assert places == [str(source / name / "__init__.py") for name in ("cache", "prep", "train")]


def run(arguments: list[str], folder: Path) -> str:
    """Run a command with nothing of the tests' own path; what it printed."""
    done = subprocess.run(arguments, cwd=folder, env={}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
