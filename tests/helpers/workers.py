"""Tests in several worker processes, forked when everything is imported and collected: once, not in each of them.

    pytest --workers 3

A worker takes the next file of tests when it is done with one, and so makes once what the tests of a file share; with
`--spread` it takes the next test. It sends its reports to the first process, which prints them.
"""

import importlib
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import NoReturn

import pytest

from .children import fork_server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", type=int, default=1, help="processes that run the tests, a file at a time")
    parser.addoption("--spread", action="store_true", help="let the workers take a test at a time, not a file")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run the collected tests in workers, where several are asked for."""
    options = session.config.option
    if session.testsfailed or options.collectonly or options.workers < 2:
        return None
    if "torch" in sys.modules:
        importlib.import_module("tests.helpers.server_imports")
    groups = [[*group] for _, group in itertools.groupby(session.items, lambda item: item.path)]
    if options.spread:
        groups = [[item] for item in session.items]
    waiting = _queue(len(groups))
    session.config._tmp_path_factory.getbasetemp()  # that all have a folder in
    workers: dict[Connection, int] = {}
    try:
        for number in range(options.workers):
            receiver, sender = Pipe(duplex=False)
            if not (process := os.fork()):
                _work(session.config, number, sender, groups, waiting)
            sender.close()
            workers[receiver] = process
        _report(session, workers)
    finally:
        for process in workers.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return True


NUMBER_BYTES = 4


def _queue(count: int) -> int:
    """A pipe that holds the numbers from 0 on, each for the first that reads it."""
    reading, writing = os.pipe()
    os.write(writing, b"".join(number.to_bytes(NUMBER_BYTES) for number in range(count)))
    os.close(writing)
    return reading


# --- in a worker


class Sender:
    """Sends what the terminal's reporter would be told to the first process."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self.config, self.connection = config, connection

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self.connection.send((nodeid, location, None))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.connection.send((report.nodeid, report.location, data))


def _work(
    config: pytest.Config, number: int, connection: Connection, groups: Sequence[Sequence[pytest.Item]], waiting: int
) -> NoReturn:
    """Run tests, and end without what the first process does at its end."""
    status = 1
    try:
        _become_worker(config, number, connection)
        _run(groups, waiting)
        connection.send(None)
        status = 0
    except BaseException:  # noqa: BLE001
        config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
        traceback.print_exc()
    finally:
        os._exit(status)


def _become_worker(config: pytest.Config, number: int, connection: Connection) -> None:
    """Have output, temporary files and a server of its own, and send what the first process is to print."""
    plugins = config.pluginmanager
    plugins.unregister(name="terminalreporter")
    plugins.register(Sender(config, connection))
    capture = plugins.getplugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    factory = config._tmp_path_factory
    factory._basetemp = factory.mktemp(f"worker-{number}", numbered=False)
    fork_server()


def _run(groups: Sequence[Sequence[pytest.Item]], waiting: int) -> None:
    """Run groups of tests until none waits. The first of the next is known before the last of one is torn down, so that
    fixtures of the session stay."""
    group = _next(groups, waiting)
    while group:
        for item, following in itertools.pairwise(group):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        item, group = group[-1], _next(groups, waiting)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=group[0] if group else None)


def _next(groups: Sequence[Sequence[pytest.Item]], waiting: int) -> Sequence[pytest.Item]:
    number = os.read(waiting, NUMBER_BYTES)
    return groups[int.from_bytes(number)] if number else []


# --- in the first process


def _report(session: pytest.Session, workers: dict[Connection, int]) -> None:
    """Report what the workers send until all have ended.

    Raises:
        session.Failed: a worker died, or as many tests failed as --maxfail says.
    """
    config, running = session.config, dict[Connection, str]()
    config.pluginmanager.getplugin("terminalreporter").showfspath = False  # each result is of another file
    while workers:
        for connection in wait([*workers]):
            try:
                message = connection.recv()
            except EOFError:
                status = os.waitstatus_to_exitcode(os.waitpid(workers.pop(connection), 0)[1])
                raise session.Failed(f"a worker ended with exit code {status} in {running.get(connection)}") from None
            if message is None:
                os.waitpid(workers.pop(connection), 0)
                continue
            nodeid, location, data = message
            if data is None:
                running[connection] = nodeid
                config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
                continue
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            config.hook.pytest_runtest_logreport(report=report)
            if report.when == "teardown":
                config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
