"""Envoy's aggregated discovery service on the wire, in both protocols.

Each stream has a session of its own, and waits for nothing but its own Envoy: one that does not read holds nobody.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import structlog
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf.any_pb2 import Any

from redoma_kit.errors import ShuttingDown
from redoma_kit.interceptors.drain import Drain
from redoma_kit.tls import peer_spiffe_id
from redoma_provisioner.edge.incremental import Incremental
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.session import Request, Response, Session
from redoma_provisioner.edge.state_of_the_world import StateOfTheWorld
from redoma_provisioner.errors import NodeMismatch

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

MAX_REFUSAL_CHARACTERS = 2_000
# Longer than a stream may last.
FOREVER_S = 10 * 86_400.0

Discovery = discovery_pb2.DiscoveryRequest | discovery_pb2.DeltaDiscoveryRequest
M = TypeVar("M", discovery_pb2.DiscoveryRequest, discovery_pb2.DeltaDiscoveryRequest)


class DiscoveryServicer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """Serves the Envoys of this site, each by its certificate."""

    def __init__(
        self,
        proxies: Iterable[Proxy],
        drain: Drain,
        metrics: EdgeMetrics,
        now: Callable[[], datetime],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._proxies = {proxy.peer: proxy for proxy in proxies}
        self._drain = drain
        self._metrics = metrics
        self._now = now
        self._log = log

    async def StreamAggregatedResources(
        self, request_iterator: AsyncIterator[discovery_pb2.DiscoveryRequest], context: "Context"
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """Serves one Envoy the state of the world."""
        first = await anext(request_iterator, None)
        if first is not None:
            proxy = self._proxy(first, context)
            responses = self._serve(proxy, StateOfTheWorld(self._now), first, request_iterator, _read)
            async with aclosing(responses):
                async for response in responses:
                    yield _response(response)

    async def DeltaAggregatedResources(
        self, request_iterator: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: "Context"
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """Serves one Envoy what changes."""
        first = await anext(request_iterator, None)
        if first is not None:
            proxy = self._proxy(first, context)
            responses = self._serve(proxy, Incremental(self._now), first, request_iterator, _read_incremental)
            async with aclosing(responses):
                async for response in responses:
                    yield _incremental_response(response)

    def _proxy(self, first: Discovery, context: "Context") -> Proxy:
        proxy = self._proxies.get(peer_spiffe_id(context.auth_context()))
        if proxy is None or first.node.id != proxy.name:
            raise NodeMismatch(first.node.id, "" if proxy is None else proxy.name)
        return proxy

    async def _serve(
        self,
        proxy: Proxy,
        session: Session,
        first: M,
        requests: AsyncIterator[M],
        read: Callable[[M], Request],
    ) -> AsyncGenerator[Response, None]:
        with proxy.watched(session) as woken:
            self._receive(proxy, session, read(first))
            tasks = [
                asyncio.create_task(self._read_on(proxy, session, requests, read, woken), name="discovery requests"),
                asyncio.create_task(self._drain.begins_within(FOREVER_S), name="discovery until drained"),
            ]
            for task in tasks:
                task.add_done_callback(lambda _: woken.set())
            reading, draining = tasks
            try:
                while not reading.done():
                    if draining.done():
                        raise ShuttingDown()
                    woken.clear()
                    while proxy.served is not None and (response := session.next_response(proxy.served)) is not None:
                        self._metrics.pushed(proxy.name, response.type_url)
                        yield response
                    await woken.wait()
                await reading
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_on(
        self,
        proxy: Proxy,
        session: Session,
        requests: AsyncIterator[M],
        read: Callable[[M], Request],
        woken: asyncio.Event,
    ) -> None:
        async for request in requests:
            self._receive(proxy, session, read(request))
            woken.set()

    def _receive(self, proxy: Proxy, session: Session, request: Request) -> None:
        if request.refusal:
            self._metrics.refused(proxy.name, request.type_url)
            self._log.error(
                "an Envoy refused what it was sent", proxy=proxy.name, type=request.type_url, problem=request.refusal
            )
        session.receive(request)


def _read(request: discovery_pb2.DiscoveryRequest) -> Request:
    return Request(
        type_url=request.type_url,
        nonce=request.response_nonce,
        refusal=_refusal(request),
        names=tuple(request.resource_names),
        version=request.version_info,
    )


def _read_incremental(request: discovery_pb2.DeltaDiscoveryRequest) -> Request:
    return Request(
        type_url=request.type_url,
        nonce=request.response_nonce,
        refusal=_refusal(request),
        subscribe=tuple(request.resource_names_subscribe),
        unsubscribe=tuple(request.resource_names_unsubscribe),
        held=dict(request.initial_resource_versions),
    )


def _refusal(request: Discovery) -> str:
    if not request.HasField("error_detail"):
        return ""
    return request.error_detail.message[:MAX_REFUSAL_CHARACTERS] or "refused without a reason"


def _response(response: Response) -> discovery_pb2.DiscoveryResponse:
    return discovery_pb2.DiscoveryResponse(
        version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        resources=[Any(type_url=response.type_url, value=encoded.content) for encoded in response.resources.values()],
    )


def _incremental_response(response: Response) -> discovery_pb2.DeltaDiscoveryResponse:
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.type_url,
        nonce=response.nonce,
        resources=[
            discovery_pb2.Resource(
                name=name,
                version=encoded.version,
                resource=Any(type_url=response.type_url, value=encoded.content),
            )
            for name, encoded in response.resources.items()
        ],
        removed_resources=response.removed,
    )
