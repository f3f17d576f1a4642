"""Ids that sort by the time they were made and can't be guessed (the layout of RFC 9562 version 7, in hex)."""

import secrets
from collections.abc import Callable

_RANDOM_BITS = 62


class IdSource:
    """Makes ids, each greater than all that it made before."""

    def __init__(self, now_s: Callable[[], float], random_bits: Callable[[int], int] = secrets.randbits) -> None:
        self._now_s = now_s
        self._random_bits = random_bits
        self._last = 0

    def new(self, after: str = "") -> str:
        """Makes an id; it is greater than `after` too, whatever clock that one was made by."""
        # 48 bits of milliseconds and a 12 bit counter make one number that only grows.
        tick = max(int(self._now_s() * 1000) << 12, self._last + 1)
        if after:
            tick = max(tick, (int(after[:12], 16) << 12 | int(after[13:16], 16)) + 1)
        self._last = tick
        value = (tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62 | self._random_bits(_RANDOM_BITS)
        return f"{value:032x}"
