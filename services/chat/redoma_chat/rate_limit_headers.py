"""How limits stand, as OpenAI's headers say it: `x-ratelimit-limit-requests` and five others."""

from collections.abc import Iterator

from redoma_chat.inference import RateLimit, RateLimits

PREFIX = "x-ratelimit-"


def rate_limit_headers(limits: RateLimits) -> tuple[tuple[str, str], ...]:
    """Gives the headers of an answer; none for a limit that is not set."""
    return (*_headers("requests", limits.requests), *_headers("tokens", limits.tokens))


def duration(seconds: float) -> str:
    """Writes a duration as Go does, to the millisecond: 1s, 6m0s, 2h0m5.25s, 20ms."""
    milliseconds = max(0, round(seconds * 1000))
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _headers(what: str, limit: RateLimit | None) -> Iterator[tuple[str, str]]:
    if limit is not None:
        yield f"{PREFIX}limit-{what}", str(limit.limit)
        yield f"{PREFIX}remaining-{what}", str(max(0, limit.remaining))
        yield f"{PREFIX}reset-{what}", duration(limit.reset_s)
