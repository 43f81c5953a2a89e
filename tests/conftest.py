"""What the tests share. No test talks to the Hub, whatever the machine it runs on."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import Cache
from cache.common.progress import ConsoleProgress
from prep.build import build
from prep.settings import BuildSettings

from .helpers.commands import Done, Prep


@pytest.fixture(autouse=True, scope="session")
def offline() -> Iterator[None]:
    """Keep the libraries, in this process and in those it starts, from the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="session")
def imdb_cache(tmp_path_factory: pytest.TempPathFactory, offline: None) -> Cache:
    """The cache of all 25,000 packaged IMDb reviews, none held out, as `prep build imdb --holdout 0` makes it."""
    settings = BuildSettings("imdb", out=tmp_path_factory.mktemp("imdb") / "cache", holdout=0.0)
    return build(settings, ConsoleProgress(quiet=True)).cache


@pytest.fixture
def prep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Prep]:
    """Run the command in this process, in an empty folder."""
    from prep import cli

    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Done:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(sys, "argv", ["prep", *arguments])
            for name in ("stdout", "stderr"):  # the command puts an `Output` there
                patch.setattr(sys, name, getattr(sys, name))
            cli.main()
        printed = capsys.readouterr()
        return Done(int(stopped.value.code or 0), printed.out, printed.err, tmp_path)

    yield run
    signal.signal(signal.SIGTERM, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `cuda` where there is no CUDA device."""
    if any(item.get_closest_marker("cuda") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("cuda"):
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
