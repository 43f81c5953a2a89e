"""The three rooms and the one direction between them, read from the syntax trees and from real processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("cache", "prep", "train")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that a syntax tree imports from outside its own package."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def at_load(tree: ast.Module) -> ast.Module:
    """The statements that run when a module is imported: no function bodies, no TYPE_CHECKING blocks."""
    body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    kept = ast.Module(body=list(body), type_ignores=[])
    for node in ast.walk(kept):
        if isinstance(node, ast.ClassDef):
            node.body = [item for item in node.body if not isinstance(item, ast.FunctionDef)] or [ast.Pass()]
    return kept


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_in_one_direction(path: Path) -> None:
    """prep -> cache <- train; torch stays out of prep, datasets out of train, click in the two cli modules."""
    tree = ast.parse(path.read_text())
    names, room = imported(tree), room_of(path)
    forbidden = {
        "cache": {"prep", "train", "click", "transformers", "datasets", "tqdm", "pyarrow"},
        "prep": {"train", "torch"},
        "train": {"prep", "datasets", "pyarrow"},
    }[room]
    assert not names & (forbidden - {"tqdm"} if path.name == "progress.py" else forbidden)
    if path.name != "cli.py":
        assert "click" not in names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_slow_libraries_are_imported_where_they_are_used(path: Path) -> None:
    """cache loads with numpy and safetensors alone but for its one module of tensors; prep and the command-line
    modules load nothing slow."""
    names = imported(at_load(ast.parse(path.read_text())))
    if room_of(path) == "cache" and path.parent.name != "batches":
        assert names - set(sys.stdlib_module_names) <= {"numpy", "safetensors"}
    if room_of(path) == "prep":
        assert not names & {"transformers", "datasets", "pyarrow", "tokenizers", "huggingface_hub", "nanotoken"}
    if path.name == "cli.py":
        assert names - set(sys.stdlib_module_names) <= {"click", "cache"}
    if room_of(path) == "train" and path.name != "predict.py":
        assert "tokenizers" not in names


@pytest.mark.parametrize("command", ["prep", "train"])
def test_help_imports_nothing_slow(command: str) -> None:
    """`--help` of either command imports neither torch nor transformers nor datasets, not even numpy."""
    code = (
        f"import sys; sys.argv = ['{command}', '--help']\n"
        f"from {command}.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "slow = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'tokenizers'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout


def test_importing_cache_loads_no_torch() -> None:
    """`import cache` is light; torch comes with the first batch."""
    code = "import sys, cache; assert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_commands_choices_are_the_librarys() -> None:
    """What the command-line modules spell out so as to load nothing."""
    import prep.cli
    import prep.tokenization.engines
    from cache.format.tasks import KINDS
    from cache.plans.spec import STRATEGIES

    assert prep.cli.STRATEGIES == STRATEGIES
    assert ("auto", *KINDS) == prep.cli.TASKS
    assert prep.cli.ENGINES == prep.tokenization.engines.ENGINES
    assert prep.cli.TASKS[1:] == KINDS
