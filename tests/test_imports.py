"""The three rooms, the one direction between them and the order inside each, read from the syntax trees and from real
processes."""

import ast
import functools
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = {
    "cache": "errors console common plans format writing reading batches remote sharing opening __init__",
    "prep": "address_space choices columns tokenization labels parsing corpus sources settings rows existing at_url "
    "build export api inspect sharing_cli inspect_cli cli entry __init__",
    "train": "declarations settings_file settings runtime kernels forward models libraries metrics "
    "run_folder loop report resume run tables predict predict_file compare predict_cli cli entry __init__",
}
"""What lies in each room, sub-packages and modules: each imports from itself and from what stands before it."""
LAYERS = {room: names.split() for room, names in ORDER.items()}

CLICK = {
    *("prep.cli", "prep.inspect_cli", "prep.sharing_cli"),
    *("train.cli", "train.predict_cli", "cache.console.command_line"),
}
"""The modules that may import click."""

ALLOWED = {
    "cache.console.progress": {"tqdm"},
    "cache.common.forked": {"pyarrow"},
    "cache.remote.bucket": {"pyarrow"},
    "train.tables.reading": {"pyarrow"},
    "train.tables.writing": {"pyarrow"},
}
"""What single modules may import of what their room may not; inside functions."""


def name_of(path: Path) -> str:
    """A file's name as a module; `cache.__init__` for a front, so that it is told from what lies behind it."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {name_of(path): path for room in LAYERS for path in sorted((ROOT / room).rglob("*.py"))}


@functools.cache
def tree_of(name: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(MODULES[name].read_text())


def room_of(name: str) -> str:
    return name.partition(".")[0]


def module_named(name: str) -> str | None:
    """The module of ours that an import of this name loads; None where it is not ours."""
    return next((found for found in (name, f"{name}.__init__") if found in MODULES), None)


@functools.cache
def imported_modules(name: str) -> set[str]:
    """The modules of ours that a module imports: anywhere, also for types alone and inside functions."""
    found: set[str | None] = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {module_named(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, *([node.module] if node.module else [])])
            found |= {module_named(f"{origin}.{alias.name}") or module_named(origin) for alias in node.names}
    return {module for module in found if module}


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Top-level names of the packages that nodes of a syntax tree import from outside its own package."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def at_load(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when a module is imported: no function bodies, no TYPE_CHECKING blocks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_load(node)


@functools.cache
def imported_anywhere(name: str) -> set[str]:
    """The packages that a module imports, also inside functions."""
    return imported(ast.walk(tree_of(name)))


@functools.cache
def imported_at_load(name: str) -> set[str]:
    """The packages that a module imports when it is imported itself."""
    return imported(at_load(tree_of(name)))


FORBIDDEN = {
    "cache": {"prep", "train", "transformers", "datasets", "tqdm", "pyarrow"},
    "prep": {"train", "torch"},
    "train": {"prep", "datasets", "pyarrow"},
}
"""What no module of a room imports, but for those of `ALLOWED`."""


def check_none(wrong: dict[str, set[str]]) -> None:
    """Nothing is wrong with any module; the failure shows what is, by module."""
    assert {name: names for name, names in wrong.items() if names} == {}


def test_rooms_import_in_one_direction() -> None:
    """prep -> cache <- train; torch stays out of prep, datasets out of train, click in the command-line modules."""
    wrong = {}
    for name in MODULES:
        forbidden = FORBIDDEN[room_of(name)] - ALLOWED.get(name, set()) | ({"click"} if name not in CLICK else set())
        wrong[name] = imported_anywhere(name) & forbidden
    check_none(wrong)


def slow_at_load(name: str) -> set[str]:
    """The packages that a module imports at load but should not."""
    names, room = imported_at_load(name), room_of(name)
    wrong = set()
    if name in CLICK:
        wrong = names - set(sys.stdlib_module_names) - {"click", "cache"}
    elif room == "cache" and not name.startswith("cache.batches."):
        wrong = names - set(sys.stdlib_module_names) - {"numpy", "safetensors"}
    if room == "prep":
        wrong |= names & {"transformers", "datasets", "tokenizers", "huggingface_hub", "nanotoken"}
    if room == "train":
        wrong |= names & ({"pyarrow"} if name == "train.predict" else {"pyarrow", "tokenizers"})
    return wrong | names & {"matplotlib", "jinja2", "markupsafe"}


def test_slow_libraries_are_imported_where_they_are_used() -> None:
    """cache loads with numpy and safetensors alone but for its batches of tensors; prep loads pyarrow, but nothing that
    is slower, the command-line modules not even that, and no module what draws."""
    check_none({name: slow_at_load(name) for name in MODULES})


@pytest.mark.parametrize("room", LAYERS)
def test_the_layers_name_every_part_of_a_room(room: str) -> None:
    assert sorted(LAYERS[room]) == sorted({name.split(".")[1] for name in MODULES if room_of(name) == room})


def layers_above(name: str) -> set[str]:
    """The modules of its room that a module imports from a layer above its own."""
    room, layer, *_ = name.split(".")
    allowed = set(LAYERS[room][: LAYERS[room].index(layer) + 1])
    inside = {other for other in imported_modules(name) if room_of(other) == room}
    return {other for other in inside if other.split(".")[1] not in allowed}


def test_modules_import_from_their_own_layer_and_those_below() -> None:
    """Also for types alone and inside functions."""
    check_none({name: layers_above(name) for name in MODULES})


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No cycle between modules, also none within a layer, for types alone, or inside functions."""
    try:
        TopologicalSorter({name: imported_modules(name) for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_pyproject_lists_the_packages_of_the_tree() -> None:
    """`packages` is written out, so that no folder of data is taken for a package; none may be forgotten."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert packages == sorted(name.removesuffix(".__init__") for name in MODULES if name.endswith(".__init__"))
    assert {path.parent for path in MODULES.values()} == {ROOT / name.replace(".", "/") for name in packages}


@pytest.mark.slow
def test_git_ignores_the_data_in_cache_and_no_module() -> None:
    """`cache/` holds both in a checkout: what git ignores of the names below are the folders of data."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    data = ["cache/imdb/manifest.json", "cache/my-reviews/train/shard-00000.safetensors"]
    modules = [str(path.relative_to(ROOT)) for path in MODULES.values()]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *data, *modules], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == data, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prep", "train"])
def test_help_imports_nothing_slow(command: str) -> None:
    """`--help` of either command imports neither torch nor transformers nor datasets, not even numpy."""
    code = (
        f"import sys; sys.argv = ['{command}', '--help']\n"
        f"from {command}.entry import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "slow = {'torch', 'transformers', 'datasets', 'numpy', 'pyarrow', 'tokenizers'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Example" in done.stdout


@pytest.mark.parametrize("command", ["prep", "train"])
def test_ctrl_c_while_the_command_line_is_imported_is_told_in_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == f"{command}.cli":
                raise KeyboardInterrupt

    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][command]
    module, _, function = script.partition(":")
    begin = getattr(importlib.import_module(module), function)
    monkeypatch.delitem(sys.modules, f"{command}.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting, *sys.meta_path])
    with pytest.raises(SystemExit, match="130"):
        begin()
    assert capsys.readouterr() == ("", "stopped\n")


@pytest.mark.slow
def test_importing_cache_loads_no_torch() -> None:
    """`import cache` is light; torch comes with the first batch."""
    code = "import sys, cache; assert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_looking_at_a_cache_loads_no_pyarrow() -> None:
    """`prep info`, `show`, `report` and `list` start without the library that a build needs."""
    names = ["prep.corpus.source", *(name for name in MODULES if name.startswith("prep.inspect."))]
    code = f"import sys, importlib; list(map(importlib.import_module, {names})); assert 'pyarrow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
