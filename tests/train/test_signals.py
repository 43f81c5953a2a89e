"""Signals to a run: the first saves and says how to go on, the second stops at once."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.caches import write_cache
from tests.helpers.children import ended, slow_steps, spawn, wait_for_lines
from tests.helpers.models import write_model
from tests.helpers.runs import quiet
from train.runtime.signals import Stopped, StopRequest

from .test_resume import arguments, begin, checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a cache and a model."""
    folder = tmp_path_factory.mktemp("signalled")
    write_cache(folder / "toy", {"train": 70, "test": 20})
    write_model(folder / "model")
    return folder


@pytest.mark.faults
def test_sigterm_saves_a_checkpoint_and_exits_143_and_says_how_to_go_on(place):
    """The console entry point in a process of its own, not a fork."""
    command = [sys.executable, "-c", "from train.cli import main; main()", *arguments("term", epochs=40)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    run = place / "term"
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 143
    assert "train run --resume term" in errors
    assert checkpoints(run / "checkpoints")


def in_a_terminal() -> None:
    """Heed a closed terminal also where the tests themselves run under nohup, and train slowly."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    slow_steps()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_the_first_ctrl_c_and_a_closed_terminal_save_and_say_how_to_go_on(place, signum):
    out = f"interrupted-{signum}"
    process = spawn(place, *arguments(out, epochs=40), prepare=in_a_terminal)
    wait_for_lines(place / out / "metrics.jsonl", 1, process)
    os.kill(process.pid, signum)
    code, said = ended(process), (place / "err.txt").read_text()
    assert code == 128 + signum, said
    assert checkpoints(place / out / "checkpoints")
    assert f"train run --resume {out}" in said


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_under_nohup_a_closed_terminal_stops_nothing(place):
    process = spawn(place, *arguments("nohup"), prepare=ignore_hangups)
    wait_for_lines(place / "nohup" / "metrics.jsonl", 1, process)
    os.kill(process.pid, signal.SIGHUP)
    assert ended(process) == 0


def hang_in_step() -> None:
    """Make a step of this process last forever once a Ctrl-C has come, as a huge batch might."""
    import train.run

    update = train.run.update

    def hanging(job, state):
        os.kill(os.getpid(), signal.SIGINT)
        Path("hanging").write_text("")
        while True:
            update(job, state)

    train.run.update = hanging


def test_the_second_ctrl_c_stops_at_once(place):
    process = spawn(place, *arguments("hung"), prepare=hang_in_step)
    while process.is_alive() and not (place / "hanging").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    assert ended(process) == 130
    assert not checkpoints(place / "hung" / "checkpoints")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_leaves_nothing(place, monkeypatch, signum):
    monkeypatch.setattr("train.run.check_memory", lambda job, state: signal.raise_signal(signum))
    with pytest.raises(Stopped) as stopped:
        begin(place, "early")
    assert stopped.value.code == 128 + signum
    assert not (place / "early").exists()


def test_a_signal_that_comes_while_a_line_is_printed_stops_as_any_other():
    """A buffered stream refuses to be written to from within its own write."""

    class Terminal(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            signal.raise_signal(signal.SIGTERM)
            return len(data)

    stream = io.TextIOWrapper(io.BufferedWriter(Terminal()))
    with StopRequest(lambda text: print(text, file=stream, flush=True)) as stop:
        stop.graceful = True
        print("training", file=stream, flush=True)
        assert stop.signum == signal.SIGTERM
        stream.close()


def test_the_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest(quiet):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
