"""Read files in a forked process with a memory limit.

A file can be made to crash its parser or to fill memory: JSON nested thousands of levels deep, a compressed cell of
gigabytes, a parquet page that unpacks to a million times its size. Here that ends the forked process, and the command
says which file it was. A fork takes milliseconds and copies no memory; Arrow starts its threads anew in the child.
"""

import contextlib
import faulthandler
import os
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import InputError, LengthwiseError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa

MIN_MEMORY = 256 << 20
"""Bytes that a forked process may take at least, however little memory is asked for."""
HEADROOM = 512 << 20
"""Address space beyond that: stacks of threads, and what allocators reserve for each."""
BATCH_ROWS = 1 << 14
"""Rows of a batch at most that is passed on."""
BATCH_BYTES = 16 << 20
"""Likewise bytes, but for a single row."""


class Forked:
    """Calls functions that read files, each call in a process of its own.

    Args:
        memory_bytes: what such a process may take.
        remedy: what to do about a file that takes more, for errors.
    """

    def __init__(self, memory_bytes: int, remedy: str = "pass a larger --memory") -> None:
        self.memory_bytes, self.remedy = max(memory_bytes, MIN_MEMORY), remedy

    def call(self, path: object, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result, which is pickled. `path` is the file it reads, for errors."""
        [result] = self._run(path, lambda: iter([function(*arguments)]))
        return result

    def stream(
        self, path: object, function: Callable[..., Iterator["pa.RecordBatch"]], *arguments: Any
    ) -> Iterator["pa.RecordBatch"]:
        """The record batches that the function yields, checked and cut to a moderate size."""
        return self._run(path, lambda: function(*arguments))

    def _run(self, path: object, items: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """
        Raises:
            InputError: as the function raises it; or reading took too much memory, or crashed.
            StorageError: the system gives no process.
        """
        import pyarrow as pa  # once here rather than in each child

        receiver, sender = Pipe(duplex=False)
        child, status = 0, None
        try:
            with _signals_held():
                try:
                    child = os.fork()
                except OSError as error:
                    raise StorageError(f"cannot start a process that reads {path}: {error.strerror}") from error
                if not child:
                    receiver.close()
                    _serve(sender, items, self.memory_bytes)
            sender.close()
            while True:
                try:
                    kind, value = receiver.recv()
                except EOFError:
                    status = _wait(child)
                    raise InputError(self._ended(path, status)) from None
                if kind == "end":
                    return
                if kind == "memory":
                    raise InputError(self._short(path))
                if kind == "error":
                    raise value
                yield pa.ipc.open_stream(receiver.recv_bytes()).read_next_batch() if kind == "batch" else value
        finally:
            receiver.close()
            if child and status is None:
                os.kill(child, signal.SIGKILL)
                _wait(child)

    def _short(self, path: object) -> str:
        return (
            f"cannot read {path}: it takes more than {self.memory_bytes >> 20:,} MiB of memory, as a file made to fill "
            f"memory does; if you trust it, {self.remedy}"
        )

    def _ended(self, path: object, status: int) -> str:
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return (
            f"cannot read {path}: the process that read it crashed ({how}); the file is damaged or made to crash its "
            f"reader, or it takes more memory than it was given: {self.remedy}"
        )


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Answer signals after the block: what their handlers raise while Python runs its hooks of a fork is lost."""
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for kind in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(kind) is not None:
                before[kind] = signal.signal(kind, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        for number in came:
            signal.raise_signal(number)


def _wait(child: int) -> int:
    try:
        return os.waitpid(child, 0)[1]
    except ChildProcessError:  # where SIGCHLD is ignored, the system has waited already
        return 0


def _serve(sender: Connection, items: Callable[[], Iterator[Any]], memory_bytes: int) -> NoReturn:
    """In the child: send what the iterator yields, then end without the parent's clean-up."""
    import pyarrow as pa

    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer; it ends this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries write there as they crash
        _limit(memory_bytes)
        for item in moderate(items()):
            if isinstance(item, pa.RecordBatch):
                packed = _packed(item)  # before it is announced, for this may take too much memory
                sender.send(("batch", None))
                sender.send_bytes(packed)
            else:
                sender.send(("value", item))
        sender.send(("end", None))
    except MemoryError:
        sender.send(("memory", None))
    except LengthwiseError as error:
        sender.send(("error", error))
    except BrokenPipeError:  # the parent has gone
        pass
    except BaseException:  # noqa: BLE001  # a defect is the parent's to report
        sender.send(("error", RuntimeError(traceback.format_exc())))
    finally:
        os._exit(0)


def _limit(memory_bytes: int) -> None:
    """Limit this process to what it has and so much more."""
    import pyarrow as pa

    pa.allocate_buffer(1)  # the default pool reserves a gigabyte for its first byte: here that counts as held
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(2)
    pa.set_io_thread_count(2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        held = int(statm.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = held + memory_bytes + HEADROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def moderate(items: Iterator[Any]) -> Iterator[Any]:
    """The items, small record batches together and large ones in parts; the first one as it comes, so that the parent
    has something to do."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    rows = size = 0
    sent = False
    for item in items:
        if not isinstance(item, pa.RecordBatch):
            yield item
        elif not sent:
            yield from parts(item, BATCH_ROWS, BATCH_BYTES)
            sent = item.num_rows > 0
        else:
            fits = size + item.nbytes <= BATCH_BYTES and rows + item.num_rows <= BATCH_ROWS
            if held and not (fits and item.schema == held[0].schema):
                yield from parts(_joined(held), BATCH_ROWS, BATCH_BYTES)
                held, rows, size = [], 0, 0
            held.append(item)
            rows, size = rows + item.num_rows, size + item.nbytes
    if held:
        yield from parts(_joined(held), BATCH_ROWS, BATCH_BYTES)


def _joined(held: list["pa.RecordBatch"]) -> "pa.RecordBatch":
    import pyarrow as pa

    return held[0] if len(held) == 1 else pa.concat_batches(held)  # which would copy a large one


def parts(batch: "pa.RecordBatch", max_rows: int, max_bytes: int) -> Iterator["pa.RecordBatch"]:
    """The batch cut into parts of at most so many rows and about so many bytes, each of at least one row."""
    rows = max(1, min(max_rows, batch.num_rows * max_bytes // max(batch.nbytes, 1)))
    for first in range(0, max(batch.num_rows, 1), rows):
        yield batch.slice(first, rows)


def _packed(batch: "pa.RecordBatch") -> "pa.Buffer":
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()
