"""The README is true: its commands run, in their order, and its Python does; what it prints is what they print."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
SHORTER = {
    ("train", "run"): ["--max-steps", "2", "--eval-rows", "32"],
    ("train", "eval"): ["--rows", "32"],
}
"""Added to the commands that would train for long: the same command, stopped early."""


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, in which the README's commands run one after the other, with the file of theirs it speaks of."""
    place = tmp_path_factory.mktemp("user")
    (place / "sentences.conll").write_text("EU B-ORG\nrejects O\nGerman B-MISC\ncall O\n\nPeter B-PER\n\n" * 20)
    return place


def test_its_commands_run_in_order(folder: Path) -> None:
    """Every line that starts with `$ ` in a console block exits with 0."""
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 12
    for line in commands:
        name, *arguments = shlex.split(line)
        arguments += SHORTER.get((name, arguments[0]), [])
        done = subprocess.run(
            [BIN / name, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_its_python_runs(folder: Path, tmp_path: Path) -> None:
    """Every Python block runs as a script, on the caches the commands have built."""
    assert blocks("python")
    for number, block in enumerate(blocks("python")):
        script = tmp_path / f"block_{number}.py"
        script.write_text(block)
        done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_its_files_exist() -> None:
    """What it links to in the repository is there."""
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_make_demo_and_make_test_exist() -> None:
    """Its first two commands are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
