"""Whether Skupper's system controller runs: without it statuses stay as they were, which looks like health."""

from pathlib import Path

LOCKS = Path("/proc/locks")


def controller_runs(lock: Path, locks: Path = LOCKS) -> bool | None:
    """Tells whether a process holds the controller's lock.

    The lock is looked up, not tried: taking it even for a moment would keep a controller that starts just then away.

    Args:
        lock: The controller's lock file.
        locks: The kernel's list of locks.

    Returns:
        None where it can't be known on this machine.
    """
    try:
        status = lock.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    # By inode alone: overlay and btrfs show another device here than the kernel's list has.
    return any(_locks_whole(line.split(), status.st_ino) for line in lines)


def _locks_whole(words: list[str], inode: int) -> bool:
    """A line reads "1: FLOCK ADVISORY WRITE 4242 08:01:131 0 EOF"."""
    return len(words) > 5 and words[1] == "FLOCK" and words[3] == "WRITE" and words[5].endswith(f":{inode}")
