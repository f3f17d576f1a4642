"""Files that are whole at every moment, a crash of the machine included."""

import os
from pathlib import Path

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def write_new(path: Path, content: bytes) -> None:
    """Writes a file that nobody reads yet, for its owner alone, and has it on the disk when it returns.

    Raises:
        OSError: It can't be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), PRIVATE_FILE)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file for its owner alone; whoever reads it meanwhile has the former one or this one.

    Raises:
        OSError: It can't be written.
    """
    fresh = path.with_name(f".{path.name}.new")
    write_new(fresh, content)
    fresh.replace(path)
    sync_directory(path.parent)


def point_to(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to `target`; whoever follows it meanwhile comes to the former one or to this one.

    Raises:
        OSError: It can't be made.
    """
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
    sync_directory(link.parent)


def sync_directory(directory: Path) -> None:
    """Has the names in a directory on the disk when it returns.

    Raises:
        OSError: It can't be read.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
