"""Builds that are stopped or run out of room: real processes, signals and full disks. Nothing is left behind."""

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from cache.common import forked
from prep.parsing import readers
from prep.rows import assembly
from prep.tokenization.engines import TokenizersEngine

from ..helpers.builds import build_toy
from ..helpers.children import ended, spawn
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.files import content
from ..helpers.tokenizers import write_tokenizer

pytestmark = pytest.mark.slow


def small_blocks() -> None:
    """Read in small blocks."""
    readers.BLOCK_BYTES = forked.BATCH_BYTES = 1 << 20


def slow_engine() -> None:
    """Read in blocks of 16 kB, for each of which the slow engine takes half a second, busy or not."""
    readers.BLOCK_BYTES = forked.BATCH_BYTES = 1 << 14
    encode = TokenizersEngine.encode
    TokenizersEngine.encode = lambda engine, texts: time.sleep(0.5) or encode(engine, texts)


def blind() -> None:
    """Read in small blocks, and do not look whether the disk has room."""
    small_blocks()
    assembly._Reporting._check_room = lambda *_: None


def short_files() -> None:
    """Have no file larger than 64 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, a csv file of some 20 blocks of 16 kB, and a large one."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tokenizer(folder / "tokenizer")
    write_rows(folder / "large.csv", toy_rows(2000) * 60)
    write_rows(folder / "small.csv", toy_rows(5000))
    return folder


def prep(
    folder: Path, *arguments: str, disk: Path | None = None, prepare: Callable[[], None] = small_blocks
) -> ForkServerProcess:
    """Start the command in `disk`, else in `folder`, where `out.txt` and `err.txt` have what it prints."""
    return spawn(folder, *arguments, command="prep", prepare=partial(begin_in, disk or folder, prepare))


def begin_in(folder: Path, prepare: Callable[[], None]) -> None:
    os.chdir(folder)
    prepare()


def printed(folder: Path) -> tuple[str, str]:
    """To stdout and stderr."""
    return (folder / "out.txt").read_text(), (folder / "err.txt").read_text()


def slow_build(corpus: Path, folder: Path, *options: str) -> ForkServerProcess:
    tokenizer = str(corpus / "tokenizer")
    arguments = ("build", str(corpus / "small.csv"), "--tokenizer", tokenizer, "--engine", "tokenizers", "--name", "a")
    return prep(folder, *arguments, *options, prepare=slow_engine)


def wait_for(process: ForkServerProcess, folder: Path, pattern: str) -> None:
    """Wait until something of that name is there."""
    for _ in range(12_000):
        if any(folder.glob(pattern)):
            return
        assert process.is_alive(), process.exitcode
        time.sleep(0.01)
    raise AssertionError(f"no {pattern} after two minutes")


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [(".a.building-*", signal.SIGTERM, 143), (".a.building-*/.runs/train-*", signal.SIGINT, 130)],
)
def test_a_stopped_build_says_so_and_leaves_nothing(
    corpus: Path, tmp_path: Path, stage: str, number: signal.Signals, code: int
) -> None:
    process = slow_build(corpus, tmp_path, "--memory", "1kib")
    wait_for(process, tmp_path / "cache", stage)
    os.kill(process.pid, number)
    exit_code = ended(process)
    out, err = printed(tmp_path)
    assert exit_code == code, err
    assert "Traceback" not in err
    assert out == ""
    assert not list((tmp_path / "cache").iterdir())


def test_a_stopped_replacement_leaves_the_old_cache(corpus: Path, tmp_path: Path) -> None:
    old = prep(tmp_path, "build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer"), "--name", "a")
    assert (ended(old), printed(tmp_path)[1]) == (0, "")
    before = content(tmp_path / "cache" / "a")
    process = slow_build(corpus, tmp_path, "--force")
    wait_for(process, tmp_path / "cache", ".a.building-*")
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130
    assert content(tmp_path / "cache" / "a") == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a"]


# --- no room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("prepare", "memory", "message"),
    [
        (small_blocks, "1gib", "about 2.8 MB are needed"),
        (blind, "1gib", "No space left on device"),
        (blind, "1kib", "No space left on device"),
    ],
)
def test_a_full_disk_is_an_error_and_the_old_cache_stays(
    corpus: Path, tmp_path: Path, small_disk: Path, prepare: Callable[[], None], memory: str, message: str
) -> None:
    """Seen beforehand; and, where others fill it meanwhile, full while shards are written and while runs are."""
    old = build_toy(write_rows(tmp_path / "a.csv", toy_rows(40)), tmp_path).cache.folder
    target = small_disk / "cache" / "a"
    target.parent.mkdir()
    subprocess.run(["cp", "-r", old, target], check=True)
    before = content(target)
    arguments = ["build", str(corpus / "large.csv"), "--tokenizer", str(corpus / "tokenizer"), "--name", "a", "--force"]
    assert ended(prep(tmp_path, *arguments, "--memory", memory, disk=small_disk, prepare=prepare)) == 1
    _, err = printed(tmp_path)
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert content(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["a"]


def test_a_read_only_disk_is_an_error(corpus: Path, tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    arguments = ("build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer"))
    assert ended(prep(tmp_path, *arguments, disk=small_disk)) == 1
    assert printed(tmp_path)[1].startswith("error: cannot write cache: Read-only file system")


def test_a_limit_on_file_sizes_is_an_error(corpus: Path, tmp_path: Path) -> None:
    arguments = ("build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer"))
    assert ended(prep(tmp_path, *arguments, prepare=short_files)) == 1
    _, err = printed(tmp_path)
    assert err.startswith("error: cannot write ")
    assert "File too large" in err
    assert not list((tmp_path / "cache").iterdir())
