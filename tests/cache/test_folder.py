"""Nothing outside a `Folder` is read, written or removed, whatever links it holds."""

import multiprocessing
import os
import pickle
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import CorruptCacheError
from cache.common.folder import Folder
from cache.errors import StorageError
from cache.writing.publishing import exchange, sync_tree


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file that must be as it was at the end."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(b"secret")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_bytes() == b"secret"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "inside").mkdir()
    return Folder.open(tmp_path / "inside")


def write(folder: Folder, name: str) -> None:
    with folder.create(name) as file:
        file.write(b"x")


FILE_OPERATIONS: dict[str, Callable[[Folder, str], object]] = {
    "open": lambda folder, name: folder.open_file(name),
    "read": lambda folder, name: folder.read(name, 100),
    "append": lambda folder, name: folder.append(name),
}


@pytest.mark.parametrize("operation", FILE_OPERATIONS)
def test_a_link_to_a_file_is_not_followed(folder: Folder, outside: Path, operation: str) -> None:
    (folder.path / "link").symlink_to(outside / "secret")
    with pytest.raises(CorruptCacheError, match="link"):
        FILE_OPERATIONS[operation](folder, "link")


@pytest.mark.parametrize("operation", [*FILE_OPERATIONS, "create", "replace", "make"])
def test_a_link_to_a_folder_is_not_followed(folder: Folder, outside: Path, operation: str) -> None:
    (folder.path / "link").symlink_to(outside)
    operations = {
        **FILE_OPERATIONS,
        "create": write,
        "replace": lambda folder, name: folder.write(name, b"x"),
        "make": lambda folder, name: folder.folder(name, make=True),
    }
    with pytest.raises(CorruptCacheError, match="link"):
        operations[operation](folder, "link/secret")


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(folder: Folder, outside: Path) -> None:
    (folder.path / "link").symlink_to(outside / "secret")
    folder.write("link", b"new")
    assert not (folder.path / "link").is_symlink()
    assert folder.read("link", 10) == b"new"


def test_removing_takes_a_link_and_leaves_its_target(folder: Folder, outside: Path) -> None:
    (folder.path / "deep").mkdir()
    (folder.path / "deep" / "link").symlink_to(outside)
    (folder.path / "link").symlink_to(outside)
    folder.remove("link")
    folder.remove("deep")
    folder.remove("deep")
    assert folder.names() == []


@pytest.mark.parametrize("name", ["../outside/secret", "..", ".", "", "/etc/passwd", "a//b", "a\0b"])
def test_a_name_does_not_leave_the_folder(folder: Folder, outside: Path, name: str) -> None:
    for operation in FILE_OPERATIONS.values():
        with pytest.raises(CorruptCacheError, match="not a path below"):
            operation(folder, name)


@pytest.mark.parametrize("operation", FILE_OPERATIONS)
def test_a_pipe_does_not_block(folder: Folder, operation: str) -> None:
    os.mkfifo(folder.path / "pipe")
    with pytest.raises(CorruptCacheError, match="not a regular file"):
        FILE_OPERATIONS[operation](folder, "pipe")


def test_it_stays_the_same_folder_when_its_path_goes_to_another_one(folder: Folder, tmp_path: Path) -> None:
    folder.path.rename(tmp_path / "moved")
    folder.path.mkdir()
    folder.write("file", b"x")
    assert list(folder.path.iterdir()) == []
    assert (tmp_path / "moved" / "file").read_bytes() == b"x"


def test_files_and_folders_are_renamed_and_exchanged(folder: Folder) -> None:
    folder.folder("one/two", make=True)
    folder.write("one/two/file", b"x")
    folder.rename("one/two/file", "file")
    exchange(folder, "one", "file") or pytest.skip("no exchange on this system")
    assert folder.read("one", 10) == b"x"
    folder.rename("file", "again")
    assert folder.names() == ["again", "one"]
    with pytest.raises(FileNotFoundError):
        exchange(folder, "one", "none")


def test_links_are_moved_and_removed_and_their_targets_stay(folder: Folder, outside: Path) -> None:
    (folder.path / "link").symlink_to(outside)
    (folder.path / "file").symlink_to(outside / "secret")
    for attempt in (lambda: folder.rename("link/secret", "stolen"), lambda: folder.remove("link/secret")):
        with pytest.raises(CorruptCacheError, match="link"):
            attempt()
    sync_tree(folder)
    assert not folder.is_file("file")
    folder.rename("link", "moved")
    assert (folder.path / "moved").readlink() == outside


def test_the_names_of_new_folders_are_flushed_to_disk(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(Folder, "sync", lambda self: synced.append(self.path))
    for _ in range(2):
        Folder.make(folder.path / "a" / "b")
        folder.folder("c/d", make=True)
    assert synced == [folder.path, folder.path / "a", folder.path, folder.path / "c"]


def test_a_folder_is_not_made_below_a_file(folder: Folder) -> None:
    folder.write("file", b"x")
    for path in ("file", "file/two"):
        with pytest.raises(NotADirectoryError):
            Folder.make(folder.path / path)


def test_it_knows_whether_a_path_leads_to_it(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder.path)
    assert folder.is_at(folder.path)
    assert folder.is_at(tmp_path / "link")
    folder.path.rename(tmp_path / "moved")
    assert not folder.is_at(folder.path)
    folder.path.mkdir()
    assert not folder.is_at(folder.path)
    assert folder.is_at(tmp_path / "moved")


def test_it_is_not_pickled(folder: Folder) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(folder)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_modes_follow_the_umask(folder: Folder, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder.write("replaced", b"x")
        write(folder, "created")
        folder.folder("one/two", make=True)
    finally:
        os.umask(before)
    for parent, folders, files in os.walk(folder.path):
        for name in files:
            assert stat.S_IMODE(Path(parent, name).stat().st_mode) == 0o666 & ~umask
        for name in folders:
            assert stat.S_IMODE(Path(parent, name).stat().st_mode) == 0o777 & ~umask


def test_a_file_is_replaced_as_a_whole_or_not_at_all(folder: Folder) -> None:
    folder.write("file", b"old")
    with pytest.raises(ZeroDivisionError), folder.replace("file") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert folder.read("file", 10) == b"old"
    assert folder.names() == ["file"]


def test_appending_keeps_what_is_there(folder: Folder) -> None:
    for text in (b"one", b"two"):
        with folder.append("file") as file:
            file.write(text)
    with folder.append("file") as file:
        file.seek(0)
        assert file.read() == b"onetwo"


def stage(folder: Folder, text: bytes) -> None:
    with folder.staging("model") as staged:
        staged.write("file", text)


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(folder: Folder) -> None:
    stage(folder, b"old")
    stage(folder, b"new")
    with pytest.raises(ZeroDivisionError), folder.staging("model") as staged:
        staged.write("file", b"newer")
        raise ZeroDivisionError
    assert folder.read("model/file", 10) == b"new"
    assert folder.names() == ["model"]


def test_a_staged_folder_replaces_a_link_and_leaves_its_target(folder: Folder, outside: Path) -> None:
    (folder.path / "model").symlink_to(outside)
    stage(folder, b"new")
    assert not (folder.path / "model").is_symlink()


def test_leftovers_are_the_temporary_names_alone(folder: Folder) -> None:
    with folder.replace("a.json") as file, folder.staging("model"):
        file.write(b"x")
        write(folder, ".hidden")
        write(folder, "plain")
        assert len(folder.leftovers()) == 2
    assert folder.leftovers() == []


def test_its_path_is_not_given_to_a_library_when_another_folder_is_there(folder: Folder, tmp_path: Path) -> None:
    assert folder.checked_path() == folder.path
    folder.path.rename(tmp_path / "moved")
    for _ in range(2):
        with pytest.raises(StorageError, match="moved or replaced"):
            folder.checked_path()
        folder.path.mkdir(exist_ok=True)


def test_reading_is_bounded(folder: Folder) -> None:
    folder.write("file", b"12345")
    assert folder.read("file", 5) == b"12345"
    with pytest.raises(CorruptCacheError, match="larger than 4 bytes"):
        folder.read("file", 4)


def _hold(path: Path, ready: Any) -> None:
    with Folder.open(path).locked() as held:
        assert held
        ready.set()
        time.sleep(600)


@pytest.mark.slow
def test_a_lock_excludes_others_and_dies_with_its_owner(folder: Folder) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    owner = context.Process(target=_hold, args=(folder.path, ready))
    owner.start()
    try:
        assert ready.wait(30)
        with folder.locked() as held:
            assert not held
    finally:
        owner.kill()
        owner.join()
    with folder.locked() as held:
        assert held
        child = os.fork()
        if child == 0:  # a forked child holds no lock of its parent's
            with folder.locked() as taken:
                os._exit(0 if not taken else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with folder.locked() as again:
            assert not again
    waited = []
    with folder.locked(lambda: waited.append(1)) as held:
        assert held
    assert waited == []


def test_a_folder_that_outlives_its_module_at_the_interpreter_s_end_says_nothing(folder: Folder, monkeypatch) -> None:
    """Python sets the names of modules to None before it lets go of what objects of theirs are left."""
    monkeypatch.setattr("cache.common.folder.os", None)
    folder.__del__()
