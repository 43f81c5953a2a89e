"""Requests to stop a run: SIGTERM, which a cluster sends before it takes a machine away, Ctrl-C, a closed terminal."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self


class Stopped(SystemExit):
    """The process was told to stop. Uncaught, it exits with the code that shells report for a process that a signal
    ended: 143 for SIGTERM, 130 for Ctrl-C, 129 for SIGHUP."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)


class StopRequest:
    """While entered, a first SIGTERM, SIGHUP or Ctrl-C sets `signum`; a second Ctrl-C raises `Stopped` at once.

    Until `graceful` is set the first one raises too: before the first step there is nothing to save.
    Threads other than the main one install no handlers.
    """

    def __init__(self, notice: Callable[[str], None]) -> None:
        self.signum: int | None = None
        self.graceful = False
        self.notice = notice
        self.previous: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.signum is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # by nohup
            for signum in (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,))):
                self.previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.graceful or (self.signum is not None and signum == signal.SIGINT):
            raise Stopped(signum)
        if self.signum is None:
            self.signum = signum
            with contextlib.suppress(RuntimeError):  # a signal that comes while a line is printed cannot print another
                self.notice("stopping after this step; press Ctrl-C again to stop at once")
