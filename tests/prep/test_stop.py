"""Builds that are stopped or run out of room: real processes, signals and full disks. Nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..helpers.builds import build_toy, content
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.tokenizers import write_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CODE = "from prep.cli import main; from prep.parsing import readers; readers.BLOCK_BYTES = 1 << 20; main()"
"""The command, reading in small blocks."""

SLOW = (
    "import time; from prep.cli import main; from prep.parsing import readers; readers.BLOCK_BYTES = 1 << 14; "
    "from prep.tokenization.engines import TokenizersEngine; encode = TokenizersEngine.encode; "
    "TokenizersEngine.encode = lambda engine, texts: time.sleep(0.5) or encode(engine, texts); main()"
)
"""The command, reading in blocks of 16 kB, for each of which the slow engine takes half a second, busy or not."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, a csv file of some 20 blocks of 16 kB, and a large one."""
    folder = tmp_path_factory.mktemp("corpus")
    write_tokenizer(folder / "tokenizer")
    write_rows(folder / "large.csv", toy_rows(2000) * 60)
    write_rows(folder / "small.csv", toy_rows(5000))
    return folder


BLIND = "from prep.rows import assembly; assembly._Reporting._check_room = lambda *_: None; "
"""Before `CODE`: does not look whether the disk has room."""


def prep(*arguments: str, cwd: Path, code: str = CODE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def slow_build(corpus: Path, cwd: Path, *options: str) -> subprocess.Popen[str]:
    tokenizer = str(corpus / "tokenizer")
    arguments = ("build", str(corpus / "small.csv"), "--tokenizer", tokenizer, "--engine", "tokenizers", "--name", "a")
    return prep(*arguments, *options, cwd=cwd, code=SLOW)


def wait_for(process: subprocess.Popen[str], folder: Path, pattern: str) -> None:
    """Wait until something of that name is there."""
    for _ in range(12_000):
        if any(folder.glob(pattern)):
            return
        assert process.poll() is None, process.communicate()
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
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert out == ""
    assert not list((tmp_path / "cache").iterdir())


def test_a_stopped_replacement_leaves_the_old_cache(corpus: Path, tmp_path: Path) -> None:
    old = prep(
        "build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer"), "--name", "a", cwd=tmp_path
    )
    assert old.communicate(timeout=60)[1] == ""
    before = content(tmp_path / "cache" / "a")
    process = slow_build(corpus, tmp_path, "--force")
    wait_for(process, tmp_path / "cache", ".a.building-*")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert content(tmp_path / "cache" / "a") == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a"]


def test_away_from_a_terminal_there_are_no_bars_and_quiet_says_nothing(corpus: Path, tmp_path: Path) -> None:
    arguments = ("build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer"))
    out, err = prep(*arguments, cwd=tmp_path).communicate(timeout=60)
    assert err == ""
    assert "\r" not in out
    assert "\x1b" not in out
    assert out.endswith("next: train run --cache cache/small\n")
    again = prep(*arguments, "--name", "b", "--quiet", cwd=tmp_path)
    assert again.communicate(timeout=60) == ("", "")
    assert again.returncode == 0


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
    ("code", "memory", "message"),
    [
        (CODE, "1gib", "about 2.8 MB are needed"),
        (BLIND + CODE, "1gib", "No space left on device"),
        (BLIND + CODE, "1kib", "No space left on device"),
    ],
)
def test_a_full_disk_is_an_error_and_the_old_cache_stays(
    corpus: Path, tmp_path: Path, small_disk: Path, code: str, memory: str, message: str
) -> None:
    """Seen beforehand; and, where others fill it meanwhile, full while shards are written and while runs are."""
    old = build_toy(write_rows(tmp_path / "a.csv", toy_rows(40)), tmp_path).cache.folder
    target = small_disk / "cache" / "a"
    target.parent.mkdir()
    subprocess.run(["cp", "-r", old, target], check=True)
    before = content(target)
    arguments = ["build", str(corpus / "large.csv"), "--tokenizer", str(corpus / "tokenizer"), "--name", "a", "--force"]
    process = prep(*arguments, "--memory", memory, cwd=small_disk, code=code)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert content(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_made_is_an_error(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    process = prep("build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer"), cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("error: cannot write cache")


def test_a_read_only_disk_is_an_error(corpus: Path, tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    process = prep("build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer"), cwd=small_disk)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("error: cannot write cache: Read-only file system")


def test_a_limit_on_file_sizes_is_an_error(corpus: Path, tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)); "
        "from prep.cli import main; main()"
    )
    arguments = ["build", str(corpus / "small.csv"), "--tokenizer", str(corpus / "tokenizer")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write ")
    assert "File too large" in done.stderr
    assert not list((tmp_path / "cache").iterdir())
