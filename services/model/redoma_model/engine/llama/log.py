"""llama.cpp's own log, passed on to this process's log a line at a time instead of raw to standard error."""

import ctypes
import logging
from typing import Any

_log = logging.getLogger("llama.cpp")
# ggml's levels. What it calls information is chatter at this level, and a continuation belongs to the line before.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUATION = 5


class LlamaLog:
    """Receives llama.cpp's log."""

    __slots__ = ("_buffer", "_callback", "_level", "last_error")

    def __init__(self) -> None:
        self._buffer = ""
        self._level = logging.DEBUG
        self._callback: Any = None
        self.last_error = ""

    def install(self, lib: Any) -> None:
        """Makes llama.cpp log here; lasts for the life of the process, as llama.cpp keeps one receiver."""
        self._callback = lib.llama_log_callback(self._receive)
        _installed.append(self)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _receive(self, level: int, text: bytes | None, _: object) -> None:
        if level != _CONTINUATION:
            self._level = _LEVELS.get(level, logging.DEBUG)
        self._buffer += (text or b"").decode(errors="replace")
        *lines, self._buffer = self._buffer.split("\n")
        for line in filter(None, map(str.strip, lines)):
            if self._level == logging.ERROR:
                self.last_error = line
            _log.log(self._level, "%s", line)


# The receivers that C code may still call; llama.cpp keeps the pointer and no reference.
_installed: list[LlamaLog] = []
