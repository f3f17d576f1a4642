"""A service behind a proxy takes the caller from it, and from nobody else."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_kit.callers import FORWARDED_CLIENT_CERT
from redoma_kit.policy import spiffe_id
from tests.conftest import TestPki
from tests.rpc.kit.echo_service import KINDS, SERVICE, Echo, Running, echo_server, refused

DENIED = (grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED")
GATEWAY = spiffe_id("private", "gateway")
EDGE, CHAT = spiffe_id("public", "edge"), spiffe_id("public", "chat")


def by_envoy(caller: str) -> str:
    """Gives the header as Envoy writes it."""
    return f"By={spiffe_id('public', 'egress')};Hash={'ab' * 32};URI={caller}"


@pytest.fixture
async def behind(pki: TestPki) -> AsyncIterator[Running]:
    """A service behind the gateway of its site, and the gateway's connection to it."""
    echo = Echo()
    server = echo_server(pki, echo, forwarders=(GATEWAY,))
    await server.start()
    system = Running(echo, server, None, None, None, pki)  # type: ignore[arg-type]
    async with system.open("private", "gateway") as channel:
        system.channel = channel
        yield system
    await server.stop(0)


async def call(behind: Running, kind: str, *forwarded: str, channel: Any = None) -> list[str]:
    """Calls as someone with a good identity, with these values of the header."""
    headers = tuple((FORWARDED_CLIENT_CERT, value) for value in forwarded)
    metadata = (*behind.pki.metadata(["test"], method=f"/{SERVICE}/{kind}"), *headers)
    return await behind.call(kind, metadata=metadata, channel=channel)


@pytest.mark.parametrize("kind", KINDS)
async def test_whom_the_forwarder_names_is_the_caller(behind: Running, kind: str) -> None:
    assert (await call(behind, kind, by_envoy(EDGE)))[-1] == "hello"
    behind.echo.entered.clear()
    assert await refused(call(behind, kind, by_envoy(CHAT))) == DENIED
    assert not behind.echo.entered.is_set()


@pytest.mark.parametrize(
    "forwarded",
    [(), ("",), ("nonsense",), (by_envoy(EDGE), by_envoy(EDGE)), (f"{by_envoy(EDGE)},{by_envoy(CHAT)}",), (EDGE,)],
    ids=["none", "empty", "nonsense", "two headers", "two elements", "a bare name"],
)
async def test_a_forwarder_that_names_nobody_gets_nowhere(behind: Running, forwarded: tuple[str, ...]) -> None:
    assert await refused(call(behind, "UnaryUnary", *forwarded)) == DENIED
    assert not behind.echo.entered.is_set()


async def test_who_forges_the_header_is_still_himself(behind: Running) -> None:
    async with behind.open("public", "chat") as chat, behind.open("public", "edge") as edge:
        assert await refused(call(behind, "UnaryUnary", by_envoy(EDGE), channel=chat)) == DENIED
        assert not behind.echo.entered.is_set()
        # Nor does it take anything away.
        assert await call(behind, "UnaryUnary", by_envoy(CHAT), "nonsense", channel=edge) == ["hello"]


async def test_a_proxy_that_is_no_forwarder_here_is_not_believed(pki: TestPki) -> None:
    server = echo_server(pki, echo := Echo())
    await server.start()
    system = Running(echo, server, None, None, None, pki)  # type: ignore[arg-type]
    try:
        async with system.open("private", "gateway") as channel:
            assert await refused(call(system, "UnaryUnary", by_envoy(EDGE), channel=channel)) == DENIED
    finally:
        await server.stop(0)


async def test_a_forwarders_own_health_probe_needs_no_header(behind: Running) -> None:
    stub = health_pb2_grpc.HealthStub(behind.channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)).status
    bad = ((FORWARDED_CLIENT_CERT, "nonsense"),)
    assert await refused(stub.Check(health_pb2.HealthCheckRequest(), timeout=20, metadata=bad)) == DENIED
