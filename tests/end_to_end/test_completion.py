"""Completion by TAB, as docs/commands.md sets it up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers import ROOT

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
COMMANDS = (ROOT / "docs" / "commands.md").read_text()


def run(shell: str, script: str, folder: Path, **more: str) -> str:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **more}
    done = subprocess.run(
        [shell, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def setup(shell: str) -> str:
    """The line of docs/commands.md for a shell."""
    (line,) = (line for line in COMMANDS.splitlines() if f"{shell}_source prep" in line)
    return line.partition("#")[0]


CASES = [
    ("prep b", {"build"}),
    ("prep build im", {"imdb"}),
    ("prep plan --strategy t", {"tight"}),
    ("prep plan --batch", {"--batch-size"}),
    ("train run --precision ", {"auto", "fp32", "bf16", "fp16"}),
    ("train run --tensor", {"--tensorboard"}),
    ("train e", {"eval"}),
]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("line", "expected"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_bash_completes_what_was_begun(tmp_path: Path, line: str, expected: set[str]) -> None:
    """The function that the documented line defines, called as bash does."""
    words = line.split(" ")
    call = f"COMP_WORDS=({' '.join(word or repr('') for word in words)}); COMP_CWORD={len(words) - 1}; "
    call += f'_{words[0]}_completion {words[0]}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    assert set(run("bash", f"{setup('bash')}; {call}", tmp_path).split()) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_registers_both_commands(tmp_path: Path) -> None:
    told = run("bash", f"{setup('bash')}; complete -p prep train", tmp_path)
    assert "_prep_completion prep" in told
    assert "_train_completion train" in told


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_define_a_completion_that_calls_the_command(tmp_path: Path, shell: str) -> None:
    """Their scripts run where the shell is installed; what they ask the command is asked here."""
    for command in ("prep", "train"):
        script = run("sh", command, tmp_path, **{f"_{command.upper()}_COMPLETE": f"{shell}_source"})
        assert f"_{command.upper()}_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        run(shell, f"autoload -U compinit; compinit; {setup(shell)}" if shell == "zsh" else setup(shell), tmp_path)
    current = "im" if shell == "fish" else "2"
    asked = {"COMP_WORDS": "prep build im", "COMP_CWORD": current, "_PREP_COMPLETE": f"{shell}_complete"}
    assert "imdb" in run("sh", "prep", tmp_path, **asked)


@pytest.mark.parametrize("line", ["prep info c", "prep build films/", "train run --cache c", "train eval runs/"])
def test_folders_and_files_are_left_to_the_shell(tmp_path: Path, line: str) -> None:
    words = line.split()
    name = f"_{words[0].upper()}_COMPLETE"
    told = run("sh", words[0], tmp_path, COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **{name: "bash_complete"})
    assert told.strip() == f"{'file' if 'build' in line else 'dir'},{words[-1]}"
