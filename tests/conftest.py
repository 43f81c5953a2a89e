"""What the tests share. None talks to the Hub; one not marked `slow` starts no process and trains no model."""

import functools
import gc
import importlib
import multiprocessing.process
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import Cache
from cache.common.forked import Forked, moderate
from cache.console import command_line
from cache.console.progress import ConsoleProgress
from prep.build import build
from prep.settings import BuildSettings

from .helpers.children import fork_server
from .helpers.commands import Done, Prep

run_apart = Forked._run


@pytest.fixture(autouse=True, scope="session")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep all from the user's store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENGTHWISE_STORE", str(tmp_path_factory.mktemp("pulled") / "store"))
        yield


@pytest.fixture(scope="session")
def imdb_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """The cache of all 25,000 packaged IMDb reviews, none held out, as `prep build imdb --holdout 0` makes it."""
    settings = BuildSettings("imdb", out=tmp_path_factory.mktemp("imdb") / "cache", holdout=0.0)
    return build(settings, ConsoleProgress(quiet=True)).cache


@pytest.fixture(autouse=True, scope="session")
def parsed_here() -> Iterator[None]:
    """Parse files in this process: a fork for each takes longer than a small file does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Forked, "_run", lambda _, path, items: moderate(items()))
        yield


@pytest.fixture
def parsed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse files in processes of their own, as commands do: for tests of just that."""
    monkeypatch.setattr(Forked, "_run", run_apart)


@pytest.fixture
def prep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Prep]:
    """Run the command in this process, in an empty folder."""
    from prep import cli

    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Done:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(sys, "argv", ["prep", *arguments])
            # A command that leaves a thread behind ends its process at once, which here is that of the tests.
            patch.setattr(command_line, "ABANDONED", "")
            for name in ("stdout", "stderr"):  # the command puts an `Output` there
                patch.setattr(sys, name, getattr(sys, name))
            cli.main()
        printed = capsys.readouterr()
        return Done(int(stopped.value.code or 0), printed.out, printed.err, tmp_path)

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What the tests import stays: no garbage collection looks at it, in no forked child either, which would copy its
    pages."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


LONGEST = ("end_to_end", "train", "sharing", "faults")
"""The folders with the files that take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, for whoever is left with one at the end lets the others wait; skip what is marked
    `cuda` where there is no CUDA device."""
    items.sort(key=lambda item: (*LONGEST, item.path.parent.name).index(item.path.parent.name))
    if any(item.get_closest_marker("cuda") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("cuda"):
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Fork the server of the tests' children from a worker of pytest-xdist, where everything is imported already."""
    if hasattr(session.config, "workerinput"):
        importlib.import_module(f"tests.helpers.{'server' if 'torch' in sys.modules else 'prep'}_imports")
        fork_server()


_running: pytest.Item | None = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Know which test runs, with the fixtures made for it."""
    global _running
    _running = item
    try:
        return (yield)
    finally:
        _running = None


def only_when_slow(what: str) -> None:
    """Fail the test that runs if it does what `make quick` has no time for, but is not marked so."""
    if _running and not any(_running.get_closest_marker(name) for name in ("slow", "faults", "cuda")):
        pytest.fail(f"{_running.nodeid} {what}: mark it slow")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def start(*arguments: Any, **named: Any) -> Any:
        only_when_slow("starts a process")
        return function(*arguments, **named)

    return start


IN_MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory: a test writes dozens of files to the disk for good, and would wait for each."""


def pytest_configure() -> None:
    """Keep the libraries from the network, in the processes that tests start, too; put the tests' files in memory where
    there is room; watch the ways to start a program or a worker: a build forks a child for every file, which is quick.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are faster so, and sums come out the same
    if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > 4 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))
    for owner, name in ((subprocess.Popen, "__init__"), (multiprocessing.process.BaseProcess, "start")):
        setattr(owner, name, checked(getattr(owner, name)))


def pytest_collection_finish() -> None:
    """Watch the steps of every optimizer, if a test can have one, and count each model's operations once."""
    if "torch" in sys.modules:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        register_optimizer_step_pre_hook(lambda *_: only_when_slow("trains a model"))
    if speed := sys.modules.get("train.loop.speed"):
        speed.count_flops = remembered(speed.count_flops)


def remembered(count_flops: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same count, which takes longer than ten steps of a tiny model, without doing it again for an equal model."""
    counts: dict[Any, Any] = {}

    def count(model: Any) -> Any:
        forwards = tuple(getattr(module.forward, "__qualname__", None) for module in model.modules())
        trained = tuple(parameter.requires_grad for parameter in model.parameters())
        equal = str(model), model.config.to_json_string(), forwards, trained
        if equal not in counts:
            counts[equal] = count_flops(model)
        return counts[equal]

    return count
