"""Callers of a site that go on calling whatever happens to it, each for one thing that people need of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from redoma.provisioner.v1 import condition_pb2, network_pb2, network_pb2_grpc
from redoma_cli.local.private_site import DEFAULT_SITE
from tests.bench.load import Ask, read
from tests.bench.outage import Visit
from tests.bench.site import BenchSite
from tests.bench.targets import Access, EdgeSse, engine_service

CALL_S = 2.0
PAUSE_S = 0.02
POLL_S = 0.05
TENANT = "acme"
ANSWERS, NETWORK, LINKED = "answers", "network service", "linked"
LINKED_CONDITION = "Linked"


class Need(Protocol):
    """One thing that people need of a site."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    async def is_met(self) -> bool:
        """Calls once; takes CALL_S at most."""
        ...


class Answers:
    """An answer of one token, through all there is, on a connection of its own."""

    name = ANSWERS

    def __init__(self, sse: EdgeSse) -> None:
        self._sse = sse

    async def is_met(self) -> bool:
        """Asks for it."""
        try:
            async with asyncio.timeout(CALL_S):
                await read(self._sse, Ask(TENANT, (("user", "Hi"),), 1))
        except (OSError, RuntimeError, ValueError, LookupError):
            return False
        return True


class NetworkAnswers:
    """An answer of NetworkService, by the edge; with `linked` one that says that the private site is linked."""

    def __init__(self, stub: "network_pb2_grpc.NetworkServiceAsyncStub", admin_key: str, linked: bool) -> None:
        self.name = LINKED if linked else NETWORK
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {admin_key}"),)
        self._linked = linked

    async def is_met(self) -> bool:
        """Gets the private site."""
        request = network_pb2.GetSiteRequest(name=f"sites/{DEFAULT_SITE}")
        try:
            site = (await self._stub.GetSite(request, metadata=self._metadata, timeout=CALL_S)).site
        except grpc.aio.AioRpcError:
            return False
        holds = {one.type for one in site.conditions if one.status == condition_pb2.Condition.STATUS_TRUE}
        return not self._linked or LINKED_CONDITION in holds


@dataclass(slots=True)
class Caller:
    """Calls for one thing, one call after the other.

    Attributes:
        visits: Its calls since they were taken last.
    """

    need: Need
    visits: list[Visit] = field(default_factory=list)

    async def keep_calling(self) -> None:
        """Calls until it is cancelled."""
        while True:
            began = time.monotonic()
            ok = await self.need.is_met()
            self.visits.append(Visit(began, time.monotonic(), ok))
            await asyncio.sleep(PAUSE_S)

    def content_since(self) -> float:
        """Gives when the first of the calls was made that all were answered since; infinity if the last one was not."""
        since = float("inf")
        for visit in reversed(self.visits):
            if not visit.ok:
                break
            since = visit.began
        return since


@asynccontextmanager
async def callers(site: BenchSite) -> AsyncIterator[Sequence[Caller]]:
    """Keeps a caller for each need calling."""
    async with AsyncExitStack() as stack:
        sse = EdgeSse(Access(site.site, site.keys, await engine_service(site.site, stack)))
        # A client that was cut off comes back as soon as the edge does.
        options = [("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
        edge = grpc.aio.insecure_channel(site.site.edge.removeprefix("http://"), options=options)
        await stack.enter_async_context(edge)
        stub = network_pb2_grpc.NetworkServiceStub(edge)
        needs: list[Need] = [Answers(sse)]
        needs += [NetworkAnswers(stub, site.site.admin_key, linked) for linked in (False, True)]
        calling = [Caller(need) for need in needs]
        tasks = [asyncio.create_task(caller.keep_calling()) for caller in calling]
        try:
            yield calling
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until_content(calling: Sequence[Caller], for_s: float, within_s: float, begin: float) -> None:
    """Waits until every call of all of them was answered for so many seconds after `begin`, in monotonic seconds.

    Raises:
        RuntimeError: That takes longer than `within_s` seconds.
    """
    while waiting := [one.need.name for one in calling if time.monotonic() < max(begin, one.content_since()) + for_s]:
        if time.monotonic() > begin + within_s:
            raise RuntimeError(f"the site is not well again after {within_s:.0f} s: {', '.join(waiting)}")
        await asyncio.sleep(POLL_S)
