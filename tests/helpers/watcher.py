"""A watcher on a folder that proves what an attack changed outside its target."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Picture = dict[str, tuple[int, int, bytes]]


def picture(folder: Path, apart_from: Path) -> Picture:
    """Mode, time and content of everything below a folder but for one part of it."""
    found = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(parent, name) != apart_from]
        for name in [*folders, *files]:
            path = Path(parent, name)
            status = path.lstat()
            content = (
                os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            )
            found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


@contextmanager
def unchanged_outside(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that holds files; at the end nothing beside `target` may have changed."""
    outside = target.parent / "outside"
    (outside / "deep").mkdir(parents=True)
    for name in ("secret", ".hidden", "plan.json", "epoch-0000.safetensors", "deep/.epoch-0000.safetensors.0123abcd"):
        (outside / name).write_text(f"the content of {name}")
    before = picture(target.parent, target)
    yield outside
    assert picture(target.parent, target) == before
