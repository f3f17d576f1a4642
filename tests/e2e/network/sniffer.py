"""Writes every frame that passes through a network namespace into a file, until it is told to stop.

Run in the namespace: `python sniffer.py FILE`. It writes a line to standard output once it listens.
"""

import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

EVERYTHING = 3
LONGEST_FRAME = 65_536
BUFFER_BYTES = 64 << 20


def main(path: str) -> None:
    """Sniffs."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING)) as wire, open(path, "wb") as file:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        print("listening", flush=True)
        try:
            while True:
                file.write(wire.recv(LONGEST_FRAME))
        except KeyboardInterrupt:
            # What came before it was told is read all the same.
            wire.setblocking(False)
            try:
                while True:
                    file.write(wire.recv(LONGEST_FRAME))
            except BlockingIOError:
                pass


if __name__ == "__main__":
    main(sys.argv[1])
