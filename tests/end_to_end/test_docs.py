"""README and docs are true: their commands and Python run, in their order; their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.children import ended, spawn

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
SHORTER = {
    ("train", "run"): ["--max-steps", "2", "--batch-size", "4", "--eval-rows", "8"],
    ("train", "eval"): ["--rows", "8"],
}
"""Added to the commands that would train for long: the same command on small batches, stopped early."""

NOT_RUN = {"sh", "shell", "text"}
"""Languages of blocks that are not run: installation, the set-up of a shell, output alone."""


def blocks(document: Path) -> list[tuple[str, str]]:
    """A document's code blocks, each with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


def run_line(line: str, folder: Path) -> str:
    """What a documented command prints to stdout, shortened where it would train for long."""
    name, *arguments = shlex.split(line)
    shorter = [] if "--resume" in arguments else SHORTER.get((name, arguments[0]), [])
    code = ended(spawn(folder, *arguments, *shorter, command=name))
    printed = (folder / "out.txt").read_text()
    assert code == 0, f"{line}\n{printed}{(folder / 'err.txt').read_text()}"
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_commands_and_python_run_in_order(document: Path, tmp_path: Path) -> None:
    """Each document is followed from top to bottom in a folder of its own, with the file it names."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "sentences.conll").write_text("EU B-ORG\nrejects O\nGerman B-MISC\ncall O\n\nPeter B-PER\n\n" * 20)
    for number, (language, block) in enumerate(blocks(document)):
        assert language in {"console", "python", *NOT_RUN}, block
        if language == "console":
            lines = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
            assert lines, block
            for line in lines:
                run_line(line, folder)
        elif language == "python":
            script = tmp_path / f"block_{number}.py"
            script.write_text(block)
            done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{block}\n{done.stderr}"
            assert done.stdout


@pytest.mark.slow
def test_the_build_of_the_readme_prints_what_the_readme_shows(tmp_path: Path) -> None:
    """Its tables, to the digit; the fingerprint and the times depend on versions and machine."""
    (block,) = (block for language, block in blocks(ROOT / "README.md") if language == "console")
    command, *shown = block.partition("\n$ train")[0].splitlines()
    printed = run_line(command[2:], tmp_path).splitlines()
    shown = [line for line in shown if "fingerprint" not in line and not line.startswith("built ")]
    assert len(shown) >= 10
    assert [line for line in shown if line not in printed] == []


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", LINKED, ids=lambda document: f"{document.parent.name}-{document.stem}")
def test_links_lead_to_files_and_headings(document: Path) -> None:
    text = document.read_text()
    for link in [*re.findall(r"\]\(([^)]+)\)", text), *re.findall(r'src(?:set)?="([^"]+)"', text)]:
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_fits_a_screen_or_two_and_begins_with_make_demo_and_make_test() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert any(f"make {target}" in line for line in lines[:30])
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
