"""Running what blocks on a network: in threads that are left behind when they hang, with progress, on Ctrl-C at once.

A library that waits for a server can neither be interrupted nor be given a time limit everywhere. Here it waits in
threads, and the caller waits for messages from them: when none comes for a minute, it gives up.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from ..console.progress import ABANDONED, Progress
from .failures import UnreachableError

WORKERS = 8
"""Files under way at once: of a bucket, a single connection gives a fraction of what the line does."""
PATIENCE_S = 60.0
"""Silence after which a transfer is given up, seconds."""
ATTEMPTS = 3

Report = Callable[[int], object]
"""Called with bytes as they are transferred."""

T = TypeVar("T")
R = TypeVar("R")


class _StoppedError(Exception):
    """The caller has gone: the thread has nothing left to do."""


def transfer(
    items: Iterable[T],
    work: Callable[[T, Report], object],
    source: object,
    progress: Progress | None = None,
    patience_s: float | None = None,
) -> None:
    """Call `work` with each item and a function that reports bytes, several at once; the first error ends it.

    What ends with `UnreachableError` is tried again, three times in all.

    Args:
        items: what to work on, in this order.
        work: does one item; it must report now and then.
        source: a name of the other side, for errors.
        progress: a bar that is told the bytes; those of an item that is tried again are taken back.
        patience_s: silence after which it is given up, seconds.  [default: `PATIENCE_S`]

    Raises:
        UnreachableError: nothing was reported for that long, or an item failed three times.
        LengthwiseError: `work` raised it.
    """
    patience_s = patience_s or PATIENCE_S
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    messages: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()
    todo = list(items)
    for item in todo:
        waiting.put(item)

    def run() -> None:
        while not stopped.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                _attempt(item, work, messages.put, stopped)
                messages.put(None)
            except BaseException as error:  # noqa: BLE001  # raised again by the caller
                messages.put(error)

    threads = [threading.Thread(target=run, name=ABANDONED, daemon=True) for _ in range(min(WORKERS, len(todo)))]
    for thread in threads:
        thread.start()
    try:
        _collect(messages, len(todo), progress, patience_s)
    except queue.Empty:
        raise UnreachableError(
            f"{source}: nothing came or went for {patience_s:.0f} seconds; check the network, then repeat the command: "
            "what was transferred whole is not transferred again"
        ) from None
    finally:
        stopped.set()
    for thread in threads:
        thread.join()


def _collect(
    messages: "queue.SimpleQueue[int | BaseException | None]", left: int, progress: Progress | None, patience_s: float
) -> None:
    """Read messages until none of `left` items is under way: bytes, an error, None for an item that is done."""
    while left:
        message = messages.get(timeout=patience_s)
        if isinstance(message, BaseException):
            raise message
        if message is None:
            left -= 1
        elif progress:
            progress.update(message)


def _attempt(
    item: T, work: Callable[[T, Report], object], tell: Callable[[int], object], stop: threading.Event
) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        done = 0

        def report(size: int) -> None:
            nonlocal done
            if stop.is_set():
                raise _StoppedError
            done += size
            tell(size)

        try:
            work(item, report)
            return
        except UnreachableError:
            if attempt == ATTEMPTS or stop.wait(attempt):
                raise
            tell(-done)


def watched(function: Callable[[Report], R], source: object) -> R:
    """What `function` returns, which is run as `transfer` runs an item: it must report now and then."""
    found: list[R] = []
    transfer([function], lambda call, report: found.append(call(report)), source)
    return found[-1]
