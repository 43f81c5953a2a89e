"""Files as manifests list them, from their paths."""

from pathlib import Path

from cache.format.files import FileInfo, open_file_info


def file_info(path: Path) -> FileInfo:
    """Name, size and checksum of a file."""
    with path.open("rb") as file:
        return open_file_info(path.name, file)
