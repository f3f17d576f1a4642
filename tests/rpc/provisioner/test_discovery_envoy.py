"""Real Envoys, fed by the control plane: what changes arrives, what runs goes on, and what is wrong is told."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from redoma_cli.local.pki import DevelopmentAuthority
from redoma_kit.settings import TlsSettings
from redoma_provisioner.edge.snapshot import CLUSTER, Config, Snapshot
from tests.conftest import SITES, TestPki
from tests.fakes.control_plane import MemorySnapshots
from tests.rpc.provisioner.discovery_site import HOLD, DiscoverySite, discovery_site, until

# An Envoy that waits for what never comes gives up after 15 s; nothing here may take as long.
AT_ONCE_S = 8.0


@pytest.fixture(params=[False, True], ids=["state of the world", "incremental"])
async def site(request: pytest.FixtureRequest, pki: TestPki, tmp_path: Path) -> AsyncIterator[DiscoverySite]:
    """A control plane, in either protocol."""
    async with discovery_site(pki, tmp_path, MemorySnapshots(), request.param) as made:
        yield made


async def holding(channel: grpc.aio.Channel) -> "grpc.aio.UnaryStreamCall[bytes, bytes]":
    """Opens a stream that goes on until its model is told."""
    call = channel.unary_stream(HOLD)(b"")
    assert await call.read() == b"first"
    return call


def with_a_cluster_that_envoy_refuses(snapshot: Snapshot) -> Snapshot:
    """Adds what its API has and Envoy does not take: a ring that must be larger than it may."""
    refused: Config = {
        "name": "refused",
        "type": "STATIC",
        "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {"minimum_ring_size": 9, "maximum_ring_size": 8},
        "load_assignment": {"cluster_name": "refused"},
    }
    return Snapshot({**snapshot.resources, CLUSTER: {**snapshot.of(CLUSTER), "refused": refused}})


async def test_endpoints_change_under_a_running_stream(site: DiscoverySite) -> None:
    first, second = await site.model("model-0"), await site.model("model-1")
    await site.publish(first.endpoint())
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    assert "spiffe://redoma/public/chat" in str(first.metadata["x-forwarded-client-cert"])
    stream = await holding(chat)
    # Another replica is a cluster and endpoints more, and other endpoints of the cluster of all.
    await site.publish(second.endpoint())
    await site.answered(chat, "model-1", AT_ONCE_S)
    assert await site.who(chat, ("redoma-replica", "private.model-1")) == "model-1"
    with pytest.raises(grpc.aio.AioRpcError) as gone:
        await site.who(chat, ("redoma-replica", "private.model-0"))
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
    first.go_on.set()
    assert await stream.read() == b"last"
    assert await stream.code() is grpc.StatusCode.OK


async def test_changed_cluster_is_in_use_at_once(site: DiscoverySite) -> None:
    first, second = await site.model("model-0"), await site.model("model-1")
    await site.publish(first.endpoint())
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    stream = await holding(chat)
    # That of a service of another kind has TLS of its own, so that the cluster of all changes too.
    elsewhere = first.endpoint(address=site.nowhere)
    provisioner = type(elsewhere)("other.model-9", "other", "model", address=site.nowhere, priority=1)
    await site.publish(second.endpoint(), provisioner)
    await site.answered(chat, "model-1", AT_ONCE_S)
    first.go_on.set()
    assert await stream.read() == b"last"
    egress = await site.proxy("egress")
    assert egress.connected
    assert {status.accepted_version for status in egress.types} <= {egress.version, ""}


async def test_site_of_higher_priority_number_stands_in(site: DiscoverySite) -> None:
    first, second = await site.model("model-0"), await site.model("model-1")
    await site.publish(first.endpoint(), second.endpoint(priority=1))
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    assert {await site.who(chat, ("redoma-affinity", str(key))) for key in range(20)} == {"model-0"}
    await first.stop()
    await site.answered(chat, "model-1", AT_ONCE_S)


async def test_tenant_with_replicas_of_its_own_is_served_by_no_other(site: DiscoverySite) -> None:
    shared, own = await site.model("model-0"), await site.model("model-acme")
    await site.publish(shared.endpoint(), own.endpoint(tenant="acme"))
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    await until_answers(site, chat, "model-acme", ("redoma-tenant", "acme"))
    assert "redoma-tenant" not in own.metadata
    assert await site.who(chat, ("redoma-tenant", "globex"), ("x-node-id", "forged")) == "model-0"
    assert "x-node-id" not in shared.metadata
    await own.stop()
    await until_refused(site, chat, ("redoma-tenant", "acme"))


async def until_answers(site: DiscoverySite, channel: grpc.aio.Channel, name: str, *metadata: tuple[str, str]) -> None:
    """Returns once a call with that metadata is answered by the stand-in of that name."""
    async with asyncio.timeout(AT_ONCE_S):
        while True:
            try:
                assert await site.who(channel, *metadata) == name
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)


async def until_refused(site: DiscoverySite, channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> None:
    """Returns once a call with that metadata is refused; until then the one that stopped must not have a substitute."""
    code = None
    async with asyncio.timeout(AT_ONCE_S):
        while code is None:
            try:
                assert await site.who(channel, *metadata) == "model-acme"
            except grpc.aio.AioRpcError as refused:
                code = refused.code()
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_refusal_is_told_in_envoys_words_and_the_former_configuration_serves(site: DiscoverySite) -> None:
    model = await site.model("model-0")
    await site.publish(model.endpoint())
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    proxy = site.proxies["egress"]
    assert proxy.served is not None
    former = proxy.served.snapshot
    await site.publisher.publish(proxy, lambda: with_a_cluster_that_envoy_refuses(former), "the test breaks it")
    clusters = proxy.session
    assert clusters is not None
    await until(lambda: clusters.subscriptions[CLUSTER].refusal, "Envoy refuses the cluster")
    told = await site.proxy("egress")
    status = next(status for status in told.types if status.type_url == CLUSTER)
    assert "ring" in status.refusal
    assert status.accepted_version == former.version != status.sent_version == told.version
    assert "ring" in site.log_text.getvalue()
    assert await site.who(chat) == "model-0"
    await site.publisher.publish(proxy, lambda: former, "the test mends it")
    await until(lambda: not clusters.subscriptions[CLUSTER].refusal, "Envoy takes the mended clusters")
    assert await site.who(chat) == "model-0"


async def test_envoy_serves_on_without_a_control_plane_and_is_sent_nothing_twice(site: DiscoverySite) -> None:
    model, other = await site.model("model-0"), await site.model("model-1")
    await site.publish(model.endpoint())
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    version = (await site.proxy("egress")).version
    stream = await holding(chat)
    await site.stop()
    assert await site.who(chat) == "model-0"
    await site.start()
    await until(lambda: site.proxies["egress"].connected, "Envoy comes back")
    await until(
        lambda: len(getattr(site.proxies["egress"].session, "subscriptions", ())) == 5, "it asks for all it has"
    )
    assert site.proxies["egress"].record is not None
    assert site.proxies["egress"].record.version == version
    # The same state again is no other snapshot.
    await site.publish(model.endpoint())
    assert site.pushes("egress") == 0
    await site.publish(other.endpoint())
    await site.answered(chat, "model-1", AT_ONCE_S)
    model.go_on.set()
    assert await stream.read() == b"last"


async def test_dangling_reference_never_reaches_an_envoy(site: DiscoverySite) -> None:
    model = await site.model("model-0")
    await site.publish(model.endpoint())
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    proxy = site.proxies["egress"]
    assert proxy.served is not None
    former, pushes = proxy.served.snapshot, site.pushes("egress")
    clusters = {name: config for name, config in former.of(CLUSTER).items() if name != "models"}
    await site.publisher.publish(proxy, lambda: Snapshot({**former.resources, CLUSTER: clusters}), "the test")
    told = await site.proxy("egress")
    assert told.withheld == "RouteConfiguration services names the Cluster models, which is not there."
    assert told.version == former.version
    assert site.pushes("egress") == pushes
    assert await site.who(chat) == "model-0"


async def shown_certificate(site: DiscoverySite) -> int:
    """Gives the serial number of the certificate that the egress shows to a caller."""
    chat = site.pki.tls("public", "chat")
    context = ssl.create_default_context(cafile=str(chat.ca_file))
    context.load_cert_chain(chat.cert_file, chat.key_file)
    context.set_alpn_protocols(["h2"])
    host, _, port = site.services.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="egress.public.redoma")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


async def test_renewed_certificate_is_shown_and_used_under_a_running_stream(site: DiscoverySite) -> None:
    authority = site.pki.authority
    renewed = DevelopmentAuthority(site.folder / "renewed", services=SITES)
    shutil.copytree(authority.certificate.parent, site.folder / "renewed")
    shutil.rmtree(renewed.identity("egress").directory)
    renewed.ensure()
    versions = site.folder / "membership"
    versions.mkdir()
    current = versions / "current"
    current.symlink_to(authority.certificate.parent)
    files = {name: current / "egress" / name for name in ("ca.crt", "tls.crt", "tls.key")}
    site.identities["egress"] = TlsSettings(
        ca_file=files["ca.crt"], cert_file=files["tls.crt"], key_file=files["tls.key"]
    )
    model = await site.model("model-0")
    await site.publish(model.endpoint())
    await site.envoy("egress")
    chat = site.channel("chat", site.services, "egress")
    await site.answered(chat, "model-0")
    stream = await holding(chat)
    former = await shown_certificate(site)
    (versions / "next").symlink_to(site.folder / "renewed")
    (versions / "next").rename(current)
    async with asyncio.timeout(AT_ONCE_S):
        while (renewed_serial := await shown_certificate(site)) == former:  # noqa: ASYNC110 (a real Envoy)
            await asyncio.sleep(0.02)
    # The control plane is called with it too, when it is called again.
    assert site.discovery_service.shown == former
    await site.stop()
    await site.start()
    await until(lambda: site.discovery_service.shown == renewed_serial, "Envoy comes back with it")
    model.go_on.set()
    assert await stream.read() == b"last"


async def test_edge_serves_what_it_is_told(site: DiscoverySite) -> None:
    await site.publish_edge()
    await site.envoy("edge")

    async def healthz() -> bytes:
        host, _, port = site.world.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    async with asyncio.timeout(AT_ONCE_S):
        while True:
            try:
                assert b"200 OK" in await healthz()
                break
            except ConnectionError:
                await asyncio.sleep(0.02)
    edge = await site.proxy("edge")
    assert edge.connected
    assert not edge.withheld
