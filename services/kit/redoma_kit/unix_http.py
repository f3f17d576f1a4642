"""HTTP over a Unix socket, as Envoy's admin interface speaks it."""

import http.client
import os
import socket
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """A connection to what listens on a socket; its methods raise OSError or http.client.HTTPException."""

    def __init__(self, socket_file: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._socket_file = socket_file

    def connect(self) -> None:
        """Connects."""
        # A socket's whole path may have 107 bytes; through a descriptor of its directory it is always short.
        directory = os.open(self._socket_file.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{directory}/{self._socket_file.name}")
        finally:
            os.close(directory)
