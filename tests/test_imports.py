"""The three rooms, the one direction between them and the order inside each, read from the syntax trees and from real
processes."""

import ast
import importlib
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = {
    "cache": "errors console common plans format writing reading batches remote sharing opening __init__",
    "prep": "choices columns tokenization labels parsing corpus sources settings rows existing at_url build export api "
    "inspect sharing_cli inspect_cli cli entry __init__",
    "train": "declarations settings runtime kernels forward models libraries metrics run_folder "
    "loop report resume run tables predict predict_file compare predict_cli cli entry __init__",
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
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def room_of(name: str) -> str:
    return name.partition(".")[0]


def module_named(name: str) -> str | None:
    """The module of ours that an import of this name loads; None where it is not ours."""
    return next((found for found in (name, f"{name}.__init__") if found in MODULES), None)


def imported_modules(name: str) -> set[str]:
    """The modules of ours that a module imports: anywhere, also for types alone and inside functions."""
    found: set[str | None] = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {module_named(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, *([node.module] if node.module else [])])
            found |= {module_named(f"{origin}.{alias.name}") or module_named(origin) for alias in node.names}
    return {module for module in found if module}


GRAPH = {name: imported_modules(name) for name in MODULES}


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


@pytest.mark.parametrize("name", MODULES)
def test_rooms_import_in_one_direction(name: str) -> None:
    """prep -> cache <- train; torch stays out of prep, datasets out of train, click in the command-line modules."""
    names = imported(TREES[name])
    forbidden = {
        "cache": {"prep", "train", "transformers", "datasets", "tqdm", "pyarrow"},
        "prep": {"train", "torch"},
        "train": {"prep", "datasets", "pyarrow"},
    }[room_of(name)]
    assert not names & (forbidden - ALLOWED.get(name, set()))
    assert "click" not in names or name in CLICK


@pytest.mark.parametrize("name", MODULES)
def test_slow_libraries_are_imported_where_they_are_used(name: str) -> None:
    """cache loads with numpy and safetensors alone but for its batches of tensors; prep and the command-line modules
    load nothing slow."""
    names, room = imported(at_load(TREES[name])), room_of(name)
    if name in CLICK:
        assert names - set(sys.stdlib_module_names) <= {"click", "cache"}
    elif room == "cache" and not name.startswith("cache.batches."):
        assert names - set(sys.stdlib_module_names) <= {"numpy", "safetensors"}
    if room == "prep":
        assert not names & {"transformers", "datasets", "pyarrow", "tokenizers", "huggingface_hub", "nanotoken"}
    if room == "train":
        assert not names & ({"pyarrow"} if name == "train.predict" else {"pyarrow", "tokenizers"})


@pytest.mark.parametrize("name", MODULES)
def test_libraries_that_draw_are_imported_where_something_is_drawn(name: str) -> None:
    assert imported(at_load(TREES[name])).isdisjoint({"matplotlib", "jinja2", "markupsafe"})


@pytest.mark.parametrize("room", LAYERS)
def test_the_layers_name_every_part_of_a_room(room: str) -> None:
    assert sorted(LAYERS[room]) == sorted({name.split(".")[1] for name in MODULES if room_of(name) == room})


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_from_their_own_layer_and_those_below(name: str) -> None:
    """Also for types alone and inside functions. An import of a layer above is named in the failure."""
    room, layer, *_ = name.split(".")
    allowed = set(LAYERS[room][: LAYERS[room].index(layer) + 1])
    inside = {other for other in GRAPH[name] if room_of(other) == room}
    assert not {other for other in inside if other.split(".")[1] not in allowed}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No cycle between modules, also none within a layer, for types alone, or inside functions."""
    try:
        TopologicalSorter(GRAPH).prepare()
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
