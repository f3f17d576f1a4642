"""What the embedded driver asks of the egress, with the provisioner's own certificate: the same on every platform."""

import asyncio
from collections.abc import Iterable
from enum import Enum, auto

import grpc

from redoma_kit.routing import REPLICA_KEY
from redoma_provisioner.edge.resources.flush import FLUSH_METHOD, FLUSH_SITE_HEADER, FLUSHED_HEADER
from redoma_provisioner.edge.resources.refusals import NO_SERVICE, NO_TUNNEL, NOT_EXPOSED, REFUSAL_HEADER

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
PROBE_TIMEOUT_S = 2.0
FLUSH_TIMEOUT_S = 3.0
# More than an egress has workers, so that each is met by one at least.
FLUSH_CALLS = 32
MOST_PROBES = 32

# Both have requests that are empty, and nobody reads what they answer.
Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


class EgressAway(Exception):
    """The egress does not answer."""


class Reach(Enum):
    """What came of a call to a service of a private site."""

    ANSWERS = auto()
    NO_TUNNEL = auto()
    NOT_EXPOSED = auto()
    NO_SERVICE = auto()
    SILENT = auto()
    UNKNOWN_TO_EGRESS = auto()
    EGRESS_AWAY = auto()


_REACHES = {NO_TUNNEL: Reach.NO_TUNNEL, NOT_EXPOSED: Reach.NOT_EXPOSED, NO_SERVICE: Reach.NO_SERVICE}


class GrpcEgressCalls:
    """Calls through one channel to the egress."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._health: Method = channel.unary_unary(HEALTH_METHOD)
        self._flush: Method = channel.unary_unary(FLUSH_METHOD)
        self._probes = asyncio.Semaphore(MOST_PROBES)

    async def flush(self, site: str) -> None:
        """Closes tunnels of a site that nothing uses: one of each worker at least, where there is any.

        Raises:
            EgressAway: It does not answer.
        """
        await asyncio.gather(*(self._flush_one(site) for _ in range(FLUSH_CALLS)))

    async def reach(self, routing_key: str) -> Reach:
        """Calls a service of a private site, and says what came of it."""
        async with self._probes:
            try:
                await self._health(b"", metadata=((REPLICA_KEY, routing_key),), timeout=PROBE_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                return _reach(error)
        return Reach.ANSWERS

    async def _flush_one(self, site: str) -> None:
        try:
            await self._flush(b"", metadata=((FLUSH_SITE_HEADER, site),), timeout=FLUSH_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if not _value(error, FLUSHED_HEADER):
                raise EgressAway("The egress does not answer.") from error


def _reach(error: grpc.aio.AioRpcError) -> Reach:
    if refusal := _value(error, REFUSAL_HEADER):
        return _REACHES[refusal]
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Reach.SILENT
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        # Somebody refused, which only the service itself does.
        return Reach.ANSWERS
    return Reach.UNKNOWN_TO_EGRESS if any(_metadata(error)) else Reach.EGRESS_AWAY


def _value(error: grpc.aio.AioRpcError, name: str) -> str:
    return next((str(value) for key, value in _metadata(error) if key == name), "")


def _metadata(error: grpc.aio.AioRpcError) -> Iterable[tuple[str, str | bytes]]:
    yield from error.initial_metadata() or ()
    yield from error.trailing_metadata() or ()
