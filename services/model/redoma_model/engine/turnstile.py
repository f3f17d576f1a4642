"""How the engines of one process take turns on the processor: one step at a time, and none waits for two of another."""

import threading
from collections import deque
from types import TracebackType


class Turnstile:
    """A lock that is given to whoever waits longest. Hold it for one step, as a context manager.

    An ordinary lock goes to whoever asks first after its release, which is most often the thread that released it: one
    busy engine would keep the others out. With nobody waiting, going through costs less than a microsecond.
    """

    __slots__ = ("_busy", "_guard", "_queue")

    def __init__(self) -> None:
        # Guards the other two, and is held for a moment only.
        self._guard = threading.Lock()
        self._busy = False
        # One closed lock for each thread that waits, opened when its turn comes.
        self._queue: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._busy:
                self._busy = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._queue.append(turn)
        turn.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            if self._queue:
                # Busy it stays: the turn is handed on, so that nobody slips in between.
                self._queue.popleft().release()
            else:
                self._busy = False

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn."""
        with self._guard:
            return len(self._queue)
