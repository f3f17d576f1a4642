"""Buckets that fill up evenly within a minute. All that is kept of one is when it is full again.

Times are microseconds since the epoch. What is taken rounds up and what is there rounds down, so a bucket never gives
more than its size and what has flowed in.
"""

MINUTE_US = 60_000_000
# Single units whose time is no whole number of microseconds round up each; without this the last of them would not fit.
# Less than a unit's time, so it never lets one more in.
MOST_SLACK_US = 1_000


def taken(full_us: int, size: int, now_us: int) -> int:
    """Gives how much is not there, at most `size`."""
    away_us = min(max(0, full_us - now_us - _slack_us(size)), MINUTE_US)
    return -(-away_us * size // MINUTE_US)


def left(full_us: int, size: int, now_us: int) -> int:
    """Gives how much is there."""
    return size - taken(full_us, size, now_us)


def take(full_us: int, size: int, amount: int, now_us: int) -> int:
    """Gives when the bucket is full again once `amount` is taken, whether or not as much is there."""
    if size == 0:
        return full_us
    return max(full_us, now_us) + _time_us(size, amount)


def wait_us(full_us: int, size: int, amount: int, now_us: int) -> int | None:
    """Gives how long it takes until `amount` is there, 0 if it is; None if it never is."""
    if amount > size:
        return None
    if left(full_us, size, now_us) >= amount:
        return 0
    return max(1, full_us - now_us - (size - amount) * MINUTE_US // size)


def _time_us(size: int, amount: int) -> int:
    return -(-amount * MINUTE_US // size)


def _slack_us(size: int) -> int:
    return min(MOST_SLACK_US, (MINUTE_US - 1) // size) if size else 0
