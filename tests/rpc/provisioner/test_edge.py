"""EdgeService: what an operator can see of the Envoys."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from redoma.provisioner.v1 import edge_pb2
from redoma.provisioner.v1.edge_pb2_grpc import EdgeServiceStub
from redoma_kit.errors import failure_from_status
from redoma_provisioner.edge.snapshot import CLUSTER, Snapshot
from tests.conftest import TestPki
from tests.fakes.control_plane import MemorySnapshots
from tests.rpc.provisioner.discovery_site import BOUND_S, DiscoverySite, discovery_site
from tests.rpc.provisioner.test_discovery import replica


@pytest.fixture
async def site(pki: TestPki, tmp_path: Path) -> AsyncIterator[DiscoverySite]:
    """A control plane that serves the egress, and has served it something else."""
    async with discovery_site(pki, tmp_path, MemorySnapshots()) as made:
        await made.publish(cause="the control plane started")
        await made.publish(replica(0), cause="site private joined")
        yield made


def edge_service(site: DiscoverySite) -> EdgeServiceStub:
    """Gives a stub, as the edge."""
    return EdgeServiceStub(site.channel("edge", site.listen, "provisioner"))


async def reason_of(call: grpc.aio.UnaryUnaryCall[object, object]) -> str:
    """Gives the reason of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    failure = failure_from_status(refused.value)
    assert failure is not None
    return failure.reason


async def test_envoys_are_listed_whether_or_not_they_came(site: DiscoverySite) -> None:
    egress, edge = await site.proxy("egress"), await site.proxy("edge")
    assert not egress.connected
    assert egress.version
    assert egress.HasField("update_time")
    assert (edge.version, edge.HasField("update_time"), len(edge.types)) == ("", False, 0)


async def test_snapshot_is_shown_with_why_and_what_changed(site: DiscoverySite) -> None:
    stub, operator = edge_service(site), site.as_operator
    request = edge_pb2.GetSnapshotRequest(proxy="proxies/egress")
    shown = await stub.GetSnapshot(request, metadata=operator("GetSnapshot"), timeout=BOUND_S)
    assert shown.snapshot.cause == "site private joined"
    assert "cluster replica/private.model-0 added" in shown.snapshot.changes
    by_name = {(resource.type_url, resource.name): json.loads(resource.json) for resource in shown.resources}
    assert by_name[CLUSTER, "models"]["lb_policy"] == "RING_HASH"
    request.version = shown.snapshot.version
    again = await stub.GetSnapshot(request, metadata=operator("GetSnapshot"), timeout=BOUND_S)
    assert again == shown
    listed = await stub.ListSnapshots(
        edge_pb2.ListSnapshotsRequest(proxy="proxies/egress"), metadata=operator("ListSnapshots"), timeout=BOUND_S
    )
    assert listed.snapshots[0] == shown.snapshot


async def test_private_key_in_a_resource_is_not_shown(site: DiscoverySite) -> None:
    proxy = site.proxies["egress"]
    assert proxy.served is not None
    former = proxy.served.snapshot
    socket = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [
                    {"certificate_chain": {"filename": "x"}, "private_key": {"inline_string": "SECRET-KEY"}}
                ]
            },
        },
    }
    leaky = {"name": "leaky", "type": "STATIC", "transport_socket": socket}
    await site.publisher.publish(
        proxy, lambda: Snapshot({**former.resources, CLUSTER: {**former.of(CLUSTER), "leaky": leaky}}), "the test"
    )
    request = edge_pb2.GetSnapshotRequest(proxy="proxies/egress")
    shown = await edge_service(site).GetSnapshot(request, metadata=site.as_operator("GetSnapshot"), timeout=BOUND_S)
    assert any(resource.name == "leaky" for resource in shown.resources)
    assert b"SECRET-KEY" not in shown.SerializeToString()


@pytest.mark.parametrize(
    ("proxy", "version", "reason"),
    [
        ("", "", "INVALID_FIELD"),
        ("egress", "", "INVALID_FIELD"),
        ("proxies/nobody", "", "RESOURCE_NOT_FOUND"),
        ("proxies/" + "x" * 10_000, "", "RESOURCE_NOT_FOUND"),
        ("proxies/edge", "", "RESOURCE_NOT_FOUND"),
        ("proxies/egress", "0" * 1_000, "INVALID_FIELD"),
        ("proxies/egress", "é", "INVALID_FIELD"),
        ("proxies/egress", "a\0b", "INVALID_FIELD"),
    ],
)
async def test_what_is_not_there_is_named(site: DiscoverySite, proxy: str, version: str, reason: str) -> None:
    request = edge_pb2.GetSnapshotRequest(proxy=proxy, version=version)
    call = edge_service(site).GetSnapshot(request, metadata=site.as_operator("GetSnapshot"), timeout=BOUND_S)
    assert await reason_of(call) == reason


async def test_who_is_no_operator_sees_nothing(site: DiscoverySite) -> None:
    stub = edge_service(site)
    metadata = site.pki.metadata(
        ["provisioner"], scopes=["tenant.admin"], method="/redoma.provisioner.v1.EdgeService/ListProxies"
    )
    call = stub.ListProxies(edge_pb2.ListProxiesRequest(), metadata=metadata, timeout=BOUND_S)
    assert await reason_of(call) == "SCOPE_MISSING"
