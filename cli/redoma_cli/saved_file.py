"""A file that comes over the wire: it is there under its name when it is whole, and not before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from redoma_cli.errors import CliError


@contextmanager
def saved_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file to write that gets its name at the end; what fails leaves nothing behind.

    Raises:
        CliError: There is a file of that name.
    """
    if path.exists():
        raise CliError(f"{path} exists already.", "Choose another name, or remove it first.")
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
