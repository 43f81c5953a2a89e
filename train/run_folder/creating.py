"""Making the folder of a run, and the lock that keeps other processes from training in it."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CacheError, InputError, StorageError
from cache.reading.manifest import open_folder, read_manifest

from .folder import RUNS, SETTINGS


@contextmanager
def new_run(out: str | None, cache_name: str) -> Iterator[Folder]:
    """The empty folder of a new run, locked: `out`, or the first free runs/<cache name>-<n>.

    What a process left that was killed before it wrote settings.json counts as free, and is removed.

    Raises:
        InputError: `out` exists and is not empty, or another process is training there.
        StorageError: it cannot be created.
    """
    with ExitStack() as stack:
        if out is None:
            run = _first_free(cache_name, stack)
        else:
            with storage_errors(Path(out)):
                run = stack.enter_context(Folder.make(out))
            stack.enter_context(lock_run(run))
            check_out(out)
        with storage_errors(run.path):
            remove_leftovers(run)
        yield run


def _first_free(cache_name: str, stack: ExitStack) -> Folder:
    with storage_errors(Path(RUNS)), Folder.make(RUNS) as runs:
        for number in range(1, 1_000_000):
            name = f"{cache_name}-{number}"
            made = False
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=runs.handle)
                runs.sync()
                made = True
            with ExitStack() as attempt:
                try:
                    run = attempt.enter_context(runs.folder(name))
                    held = attempt.enter_context(lock_run(run))
                except (CacheError, InputError, NotADirectoryError):
                    continue  # a link or a file, or another process is training there
                if (held or made) and _is_free(run):  # without locks, one that was there may be another process's
                    stack.push(attempt.pop_all())
                    return run
    raise StorageError(f"{RUNS}/ is full; pass --out FOLDER")


def _is_free(run: Folder) -> bool:
    return run.names() == run.leftovers()


def remove_leftovers(run: Folder) -> None:
    """Remove the temporary files of killed processes; to be called by the process that holds the lock."""
    for name in run.leftovers():
        run.remove(name)


def check_out(out: str | None) -> None:
    """Refuse a run folder that exists and is not empty, or lies in a cache; None stands for one under runs/.

    Raises:
        InputError: it does.
        StorageError: it cannot be read.
    """
    if out is not None:
        _check_empty(out)
    for folder in Path(out or RUNS).resolve().parents:
        with suppress(CacheError, StorageError), open_folder(folder) as files:
            read_manifest(files)
            raise InputError(f"{out or RUNS} would lie in the cache {folder}, which holds no runs; pass another --out")


def _check_empty(out: str) -> None:
    hint = ""
    try:
        with Folder.open(out) as run:
            if _is_free(run):
                return
            if run.stat(SETTINGS) is not None:
                hint = f"go on with `train run --resume {out}`, or "
    except FileNotFoundError:
        return
    except NotADirectoryError:
        pass
    except OSError as error:
        raise StorageError(f"cannot read {out}: {error.strerror}") from error
    raise InputError(f"--out {out} already exists and is not empty; {hint}pass another --out")


def lock_run(run: Folder) -> AbstractContextManager[bool]:
    """Keep other processes from training the same run; an InputError if one does. Its value is False where the file
    system has no locks."""

    def refuse() -> NoReturn:
        raise InputError(f"{run.path} is being trained by another process; wait for it, or stop it first")

    return run.locked(refuse)
