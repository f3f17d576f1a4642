"""The kit's server around a servicer of all four call kinds: what each interceptor promises, over real mutual TLS."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from redoma_kit.channel import open_channel
from redoma_kit.errors import DomainError, InvalidField
from redoma_kit.identity import IdentityVerifier, current_identity
from redoma_kit.policy import EDGE, Rule
from redoma_kit.server import AddressInUse, GrpcServer
from redoma_kit.settings import MetricsSettings, ServiceSettings, TracingSettings, UpstreamSettings
from redoma_kit.telemetry import Telemetry
from tests.conftest import TestPki
from tests.fakes.link import Link
from tests.rpc.kit.echo_service import GENERATE, KINDS, SERVICE, Echo, Running, details_of, refused


@pytest.fixture
async def running(pki: TestPki) -> AsyncIterator[Running]:
    settings = ServiceSettings(listen="127.0.0.1:0", tls=pki.tls("public", "chat"), jwks_file=pki.jwks_file)
    policy = {f"/{SERVICE}/{kind}": Rule(peers=EDGE, any_scope=GENERATE) for kind in KINDS}
    telemetry = Telemetry("test", MetricsSettings(), TracingSettings())
    verifier = IdentityVerifier(pki.jwks_file, "test")
    echo = Echo()
    server = GrpcServer(settings, policy, {}, verifier, telemetry, structlog.get_logger("redoma.test"))
    server.add(echo.register, SERVICE)
    await server.start()
    system = Running(echo, server, telemetry, settings, None, pki)  # type: ignore[arg-type]
    async with system.open("public", "edge") as channel:
        system.channel = channel
        yield system
    await server.stop(0)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_reaches_its_handler_with_the_identity(running: Running, kind: str) -> None:
    running.echo.act = lambda text: f"{text} from {current_identity().tenant}"
    assert (await running.call(kind))[-1] == "hello from acme"


@pytest.mark.parametrize("kind", KINDS)
async def test_domain_error_carries_one_error_info(running: Running, kind: str) -> None:
    def act(_text: str) -> str:
        raise InvalidField("sampling.top_p", "must be above 0")

    running.echo.act = act
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(kind)
    info, delays = details_of(caught.value)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (info.reason, dict(info.metadata), delays) == ("INVALID_FIELD", {"field": "sampling.top_p"}, [])


@pytest.mark.parametrize("kind", KINDS)
async def test_defect_tells_the_caller_nothing_but_the_request_id(
    running: Running, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def act(_text: str) -> str:
        raise RuntimeError("password=hunter2")

    running.echo.act = act
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call(
            kind, metadata=(*running.pki.metadata(["test"], method=f"/{SERVICE}/{kind}"), ("x-request-id", "abc-1"))
        )
    info, _ = details_of(caught.value)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(caught.value.details())
    assert dict(info.metadata) == {"request_id": "abc-1"}


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_message_are_an_invalid_argument(running: Running, kind: str) -> None:
    path = f"/{SERVICE}/{kind}"
    shape = kind.replace("Unary", "unary_", 1) if kind.startswith("Unary") else kind.replace("Stream", "stream_", 1)
    method = getattr(running.channel, shape.lower())(path, lambda data: data, StringValue.FromString)
    metadata = running.pki.metadata(["test"], method=path)
    payload = b"\x0a\x02\xff\xfe"

    async def payloads() -> AsyncIterator[bytes]:
        yield payload

    async def call() -> None:
        response = method(payload if kind.startswith("Unary") else payloads(), metadata=metadata, timeout=20)
        if kind.endswith("Stream"):
            _ = [message async for message in response]
        else:
            await response

    assert await refused(call()) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert not running.echo.entered.is_set()


async def test_error_class_without_a_rule_is_a_defect_not_a_crash(running: Running) -> None:
    class Unlisted(DomainError):
        pass

    def act(_text: str) -> str:
        raise Unlisted("secret")

    running.echo.act = act
    assert await refused(running.call("UnaryUnary")) == (grpc.StatusCode.INTERNAL, "INTERNAL")


async def test_method_missing_from_the_policy_is_denied(running: Running) -> None:
    assert await refused(running.call("Unlisted")) == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED")
    assert not running.echo.entered.is_set()


@pytest.mark.parametrize("kind", KINDS)
async def test_peer_that_may_not_call_is_denied(running: Running, kind: str) -> None:
    async with running.open("private", "model") as channel:
        outcome = await refused(running.call(kind, channel=channel))
    assert outcome == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED")
    assert not running.echo.entered.is_set()


async def test_client_without_a_certificate_is_cut_off(running: Running) -> None:
    ca = running.settings.tls.ca_file.read_bytes()
    options = [("grpc.ssl_target_name_override", "chat.public.redoma")]
    target = f"127.0.0.1:{running.server.port}"
    async with grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(ca), options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.call("UnaryUnary", channel=channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not running.echo.entered.is_set()


@pytest.mark.parametrize(
    "claims",
    [
        {"audience": ["tenant"]},
        {"audience": ["test"], "method": f"/{SERVICE}/UnaryStream"},
        {"audience": ["test"], "iat": 1_000, "exp": 1_060},
        {"audience": ["test"], "exp": 4_000_000_000},
        {"audience": ["test"], "iss": "someone"},
        {"audience": ["test"], "scopes": None},
        {"audience": ["test"], "jti": None},
    ],
    ids=["other audience", "other method", "expired", "lives too long", "other issuer", "scopes not a list", "no jti"],
)
async def test_identity_that_does_not_fit_is_refused(running: Running, claims: dict[str, Any]) -> None:
    metadata = running.pki.metadata(**{"method": f"/{SERVICE}/UnaryUnary", **claims})
    outcome = await refused(running.call("UnaryUnary", metadata=metadata))
    assert outcome == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
    assert not running.echo.entered.is_set()


async def test_identity_signed_by_another_key_is_refused(running: Running) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    forged = running.pki.metadata(["test"], method=f"/{SERVICE}/UnaryUnary", key=Ed25519PrivateKey.generate())
    for metadata in (forged, (), (("redoma-identity", "x" * 4_000),)):
        outcome = await refused(running.call("UnaryUnary", metadata=metadata))
        assert outcome == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


async def test_missing_scope_is_named(running: Running) -> None:
    metadata = running.pki.metadata(["test"], method=f"/{SERVICE}/UnaryUnary", scopes=("conversations",))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call("UnaryUnary", metadata=metadata)
    info, _ = details_of(caught.value)
    assert (info.reason, dict(info.metadata)) == ("SCOPE_MISSING", {"scope": "generate"})


@pytest.mark.parametrize("kind", KINDS)
async def test_client_that_goes_away_cancels_the_handler(running: Running, kind: str) -> None:
    async def wait_forever(_text: str) -> str:
        await asyncio.Event().wait()
        return ""

    running.echo.act = wait_forever
    call = asyncio.ensure_future(running.call(kind))
    await asyncio.wait_for(running.echo.entered.wait(), 20)
    call.cancel()
    await asyncio.wait_for(running.echo.cancelled.wait(), 20)


async def test_longest_call_is_ended_with_a_typed_status(pki: TestPki) -> None:
    settings = ServiceSettings(
        listen="127.0.0.1:0", tls=pki.tls("public", "chat"), jwks_file=pki.jwks_file, max_stream_s=0.2
    )
    telemetry = Telemetry("test", MetricsSettings(), TracingSettings())
    echo = Echo(act=lambda _text: asyncio.Event().wait())
    server = GrpcServer(
        settings,
        {f"/{SERVICE}/UnaryUnary": Rule(peers=EDGE)},
        {},
        IdentityVerifier(pki.jwks_file, "test"),
        telemetry,
        structlog.get_logger("redoma.test"),
    )
    server.add(echo.register, SERVICE)
    await server.start()
    system = Running(echo, server, telemetry, settings, None, pki)  # type: ignore[arg-type]
    async with system.open("public", "edge") as channel:
        system.channel = channel
        outcome = await refused(system.call("UnaryUnary", timeout_s=None))
    await server.stop(0)
    assert outcome == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_drain_lets_the_running_stream_finish_and_refuses_new_calls(running: Running) -> None:
    release = asyncio.Event()

    async def wait_for_release(text: str) -> str:
        await release.wait()
        return text

    running.echo.act = wait_for_release
    stub = health_pb2_grpc.HealthStub(running.channel)
    await running.server.set_serving(True)
    answer = asyncio.ensure_future(running.call("UnaryStream"))
    await asyncio.wait_for(running.echo.entered.wait(), 20)
    stopping = asyncio.ensure_future(running.server.stop(60))
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    async for update in watch:
        if update.status == health_pb2.HealthCheckResponse.NOT_SERVING:
            break
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.call("UnaryUnary")
    info, delays = details_of(caught.value)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (info.reason, delays) == ("SHUTTING_DOWN", [1.0])
    release.set()
    assert await answer == ["first", "hello"]
    await asyncio.wait_for(stopping, 20)


async def test_calls_left_after_the_grace_end_as_shutting_down(running: Running) -> None:
    running.echo.act = lambda _text: asyncio.Event().wait()
    answer = asyncio.ensure_future(refused(running.call("UnaryStream")))
    await asyncio.wait_for(running.echo.entered.wait(), 20)
    await asyncio.wait_for(running.server.stop(0), 20)
    assert await answer == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_second_signal_ends_what_the_first_would_wait_for(running: Running) -> None:
    running.echo.act = lambda _text: asyncio.Event().wait()
    answer = asyncio.ensure_future(refused(running.call("UnaryStream")))
    await asyncio.wait_for(running.echo.entered.wait(), 20)
    serving = asyncio.ensure_future(running.server.serve_until_stopped())
    running.server.request_stop()
    running.server.request_stop()
    await asyncio.wait_for(serving, 20)
    assert await answer == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_client_that_goes_away_while_the_service_ends_is_no_failure_of_the_service(running: Running) -> None:
    running.echo.act = lambda _text: asyncio.Event().wait()
    answer = asyncio.ensure_future(running.call("UnaryStream"))
    await asyncio.wait_for(running.echo.entered.wait(), 20)
    stopping = asyncio.ensure_future(running.server.stop(60))
    answer.cancel()
    await asyncio.wait_for(stopping, 20)
    assert running.server.drain.running == 0


async def test_silently_cut_link_ends_open_streams_long_before_their_deadline(running: Running) -> None:
    running.echo.act = lambda _text: asyncio.Event().wait()
    async with Link(running.server.port).open() as link:
        upstream = UpstreamSettings(target=f"127.0.0.1:{link.port}", server_name="chat.public.redoma")
        async with open_channel(upstream, running.pki.tls("public", "edge"), 1 << 20) as channel:
            answer = asyncio.ensure_future(running.call("UnaryStream", timeout_s=120, channel=channel))
            await asyncio.wait_for(running.echo.entered.wait(), 20)
            link.cut()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                # The promise is 3 s. After 15 s the pings of the server would end it, whatever the client does.
                await asyncio.wait_for(answer, 10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_what_is_said_is_not_on_the_wire_in_clear(running: Running) -> None:
    async with Link(running.server.port).open() as link:
        upstream = UpstreamSettings(target=f"127.0.0.1:{link.port}", server_name="chat.public.redoma")
        async with open_channel(upstream, running.pki.tls("public", "edge"), 1 << 20) as channel:
            assert await running.call("UnaryUnary", "between us", channel=channel) == ["between us"]
    assert len(link.carried) > 1_000
    assert b"between us" not in link.carried


async def test_health_is_not_serving_until_told(running: Running) -> None:
    stub = health_pb2_grpc.HealthStub(running.channel)
    for name in ("", SERVICE):
        response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
    await running.server.set_serving(True)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_port_in_use_is_said_in_one_sentence(running: Running, pki: TestPki) -> None:
    settings = running.settings.model_copy(update={"listen": f"127.0.0.1:{running.server.port}"})
    log = structlog.get_logger("redoma.test")
    telemetry = Telemetry("test", MetricsSettings(), TracingSettings())
    second = GrpcServer(settings, {}, {}, IdentityVerifier(pki.jwks_file, "test"), telemetry, log)
    with pytest.raises(AddressInUse, match=str(running.server.port)):
        await second.start()


async def test_calls_are_counted_by_outcome(running: Running) -> None:
    await running.call("UnaryUnary")
    await refused(running.call("UnaryUnary", metadata=()))
    sample = running.telemetry.registry.get_sample_value
    method = f"/{SERVICE}/UnaryUnary"
    assert sample("redoma_calls_total", {"method": method, "code": "OK"}) == 1
    assert sample("redoma_calls_total", {"method": method, "code": "UNAUTHENTICATED"}) == 1
    assert sample("redoma_calls_running", {"method": method}) == 0
