"""The model in its private site: on a Unix socket behind the gateway, which says who calls."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma.model.v1 import model_pb2 as pb
from redoma.model.v1.engine_pb2 import PurgeTenantRequest
from redoma.model.v1.engine_pb2_grpc import EngineServiceStub
from redoma.model.v1.model_pb2_grpc import ModelServiceStub
from redoma_kit.callers import FORWARDED_CLIENT_CERT
from redoma_kit.channel import open_channel
from redoma_kit.errors import failure_from_status
from redoma_kit.policy import spiffe_id
from redoma_kit.settings import UpstreamSettings
from redoma_model.policy import MODEL_POLICY
from tests.conftest import TestPki
from tests.fakes.model_backend import FakeBackend, loader

from .conftest import Serve, Service, conversation

SOCKET = "model.sock"
GATEWAY = spiffe_id("private", "gateway")
CALLERS = ("chat", "tenant", "edge", "egress", "provisioner", "supervisor")


def naming(service: str) -> tuple[tuple[str, str], ...]:
    """Gives the metadata by which the gateway names a service of the public site."""
    value = f"By={spiffe_id('public', 'egress')};Hash={'0f' * 32};URI={spiffe_id('public', service)}"
    return ((FORWARDED_CLIENT_CERT, value),)


@pytest.fixture
async def service(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """The service on a socket in its working directory."""
    monkeypatch.chdir(tmp_path)
    async with serve(loader(FakeBackend()), listen=f"unix:{SOCKET}", forwarders=(GATEWAY,)) as running:
        yield running


@asynccontextmanager
async def peer(pki: TestPki, site: str, name: str) -> AsyncIterator[grpc.aio.Channel]:
    """Connects with the certificate of a service."""
    upstream = UpstreamSettings(target=f"unix:{SOCKET}", server_name="model.private.redoma")
    async with open_channel(upstream, pki.tls(site, name), 8 << 20) as channel:
        yield channel


async def reason(channel: grpc.aio.Channel, method: str, metadata: tuple[tuple[str, str], ...]) -> str:
    """Calls a method with nothing but metadata, and gives the reason that it fails for."""
    calling: Any = channel.unary_stream(method)
    call = calling(b"", metadata=metadata, timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call.read()
    failure = failure_from_status(raised.value)
    assert failure is not None
    return failure.reason


async def test_who_may_call_through_the_gateway_is_as_the_policy_says(service: Service) -> None:
    async with peer(service.pki, "private", "gateway") as channel:
        for method, rule in MODEL_POLICY.items():
            for caller in CALLERS:
                is_let_in = spiffe_id("public", caller) in rule.peers
                expected = "CREDENTIAL_INVALID" if is_let_in else "METHOD_DENIED"
                assert await reason(channel, method, naming(caller)) == expected, (method, caller)
            assert await reason(channel, method, ()) == "METHOD_DENIED", method


async def test_a_header_that_a_caller_forges_lets_him_in_nowhere(service: Service) -> None:
    async with peer(service.pki, "public", "provisioner") as channel:
        for method in MODEL_POLICY:
            for named in ("chat", "tenant", "edge"):
                assert await reason(channel, method, naming(named)) == "METHOD_DENIED"


async def test_chat_is_served_and_the_tenant_service_purges_through_the_gateway(service: Service) -> None:
    async with peer(service.pki, "private", "gateway") as channel:
        request = pb.GenerateRequest(messages=conversation("hello"))
        metadata = (*service.metadata(), *naming("chat"))
        events = [event async for event in ModelServiceStub(channel).Generate(request, metadata=metadata, timeout=60)]
        assert events[-1].WhichOneof("event") == "done"
        metadata = (*service.operator("PurgeTenant"), *naming("tenant"))
        await EngineServiceStub(channel).PurgeTenant(PurgeTenantRequest(tenant="acme"), metadata=metadata, timeout=60)


async def test_the_gateway_sees_its_health_without_a_caller(service: Service) -> None:
    async with peer(service.pki, "private", "gateway") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service="redoma.model.v1.ModelService"), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
