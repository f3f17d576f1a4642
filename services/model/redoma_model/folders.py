"""Files that callers name: a path within a folder of the operator's, and never out of it."""

from pathlib import Path, PurePosixPath

MAX_PATH_CHARACTERS = 1_024


class PathOutside(Exception):
    """The path does not lead to something within the folder; the message is one phrase."""


def path_within(folder: Path, relative: str) -> Path:
    """Gives the file that `relative` names in `folder`, links followed. It may not exist.

    Raises:
        PathOutside: The path is absolute, climbs by `..`, or a link on it leads out of the folder.
    """
    path = PurePosixPath(relative)
    if not relative or len(relative) > MAX_PATH_CHARACTERS or "\0" in relative:
        raise PathOutside(f"must be a path of 1 to {MAX_PATH_CHARACTERS} characters.")
    if path.is_absolute() or ".." in path.parts:
        raise PathOutside("must be relative to the folder, without `..`.")
    try:
        root = folder.resolve()
        found = (root / path).resolve()
    except (OSError, RuntimeError) as error:
        raise PathOutside("can't be followed.") from error
    if not found.is_relative_to(root) or found == root:
        raise PathOutside("leads out of the folder.")
    return found
