"""A Unix socket to listen on: only this user may connect, and one that a dead process left is in nobody's way."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "unix:"
# The system's bound, less the byte that ends the path. A relative path counts as it is written.
MAX_PATH_BYTES = 107
PROBE_WAIT_S = 1.0
OWNER_ONLY = 0o177


class SocketUnusable(Exception):
    """The socket can't be listened on; the message says why."""


def socket_path(address: str) -> Path | None:
    """Gives the path in an address such as `unix:model.sock`; None for another kind of address."""
    return Path(address.removeprefix(PREFIX)) if address.startswith(PREFIX) else None


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Makes way for a socket at `path`; what is bound there inside is for this user alone.

    Raises:
        SocketUnusable: The path is too long, another process listens there, or something else is there.
    """
    if not 0 < len(os.fsencode(path)) <= MAX_PATH_BYTES:
        raise SocketUnusable(
            f"its path has {len(os.fsencode(path))} bytes, of which the system allows {MAX_PATH_BYTES}. Choose a "
            "shorter one, or one relative to the working directory."
        )
    if path.exists() or path.is_symlink():
        if not path.is_socket():
            raise SocketUnusable("something that is no socket is there. Move it away.")
        if _is_served(path):
            raise SocketUnusable("another process listens there.")
        path.unlink(missing_ok=True)
    former = os.umask(OWNER_ONLY)
    try:
        yield
    finally:
        os.umask(former)


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_WAIT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # It may be one that takes no more connections, or another user's.
            return True
    return True
