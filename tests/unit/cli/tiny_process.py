"""A program for the supervisor's tests: answers on a Unix socket whether it is ready, and does nothing else.

Usage: tiny_process.py NAME. Ready while the file NAME.ready exists in the working directory. Each start adds its pid to
NAME.starts.
"""

import http.server
import os
import pathlib
import socketserver
import sys

NAME = sys.argv[1]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers every GET."""

    def do_GET(self) -> None:
        self.send_response(200 if pathlib.Path(f"{NAME}.ready").exists() else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        print("asked", flush=True)


def main() -> None:
    with pathlib.Path(f"{NAME}.starts").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    pathlib.Path(f"{NAME}.sock").unlink(missing_ok=True)
    with socketserver.UnixStreamServer(f"{NAME}.sock", Handler) as server:
        server.serve_forever(poll_interval=0.05)


main()
