"""What a run holds while it trains: its connection with other ranks, its folder, its trackers."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from cache.common.folder import Folder
from cache.errors import LengthwiseError

from ..runtime import device as devices
from ..runtime.distributed import Ranks, process_group
from ..runtime.launch import launched_ranks
from ..runtime.signals import StopRequest
from ..settings import Settings
from .console import Log, TrainingProgress
from .creating import new_run
from .folder import RunInfo, open_shared_run, write_settings
from .trackers import Trackers, open_trackers


class Launch(NamedTuple):
    """This process as one rank of a run.

    Attributes:
        ranks: all of them.
        progress: what this one shows.
        stop: whether it was told to stop.
        stack: holds the run folder and its lock.
    """

    ranks: Ranks
    progress: TrainingProgress
    stop: StopRequest
    stack: ExitStack


@contextmanager
def launched(log: Log, warn: Log, quiet: bool) -> Iterator[Launch]:
    """Connect the ranks of a run, of which the first one alone prints."""
    ranks = launched_ranks()
    progress = TrainingProgress(quiet, log, warn) if ranks.first else TrainingProgress(True, log, lambda text: None)
    with devices.memory_errors(), process_group(ranks), StopRequest(progress.warn) as stop, ExitStack() as stack:
        yield Launch(ranks, progress, stop, stack)


def make_run(launch: Launch, info: RunInfo) -> tuple[Folder, Trackers]:
    """The folder of a new run, made by the first rank and opened by the others, and its trackers; if anything fails,
    nothing is left behind."""
    run: Folder | None = None
    content = b""
    try:
        with launch.ranks.together():
            if launch.ranks.first:
                run = launch.stack.enter_context(new_run(info.settings.out, info.cache_name))
                content = write_settings(run, info)
        path, content = launch.ranks.gather((run.path if run else Path(), content))[0]
        with launch.ranks.together():
            run = run or launch.stack.enter_context(open_shared_run(path, content))
        return run, open_run_trackers(launch, run, info, info.settings, None)
    except LengthwiseError:  # on the first rank, whichever failed
        if run is not None:
            for name in run.names():
                run.remove(name)
            run.path.rmdir()
        raise


def open_run_trackers(launch: Launch, run: Folder, info: RunInfo, settings: Settings, step: int | None) -> Trackers:
    """The trackers of the first rank; the others have none."""
    warn, quiet = launch.progress.warn, launch.progress.quiet
    with launch.ranks.together():
        return open_trackers(settings, run, info, step, warn, quiet) if launch.ranks.first else Trackers(warn)
