"""Who is served what, and that one Envoy holds up neither another nor the end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from redoma_kit.errors import failure_from_status
from redoma_provisioner.edge.snapshot import CLUSTER, ENDPOINTS, LISTENER
from redoma_provisioner.edge.state import Endpoint
from redoma_provisioner.edge.subscription import MAX_NAMES
from tests.conftest import TestPki
from tests.fakes.control_plane import MemorySnapshots
from tests.rpc.provisioner.discovery_site import BOUND_S, DiscoverySite, discovery_site, until

EGRESS = base_pb2.Node(id="egress")
Delta = discovery_pb2.DeltaDiscoveryRequest
Whole = discovery_pb2.DiscoveryRequest


@pytest.fixture
async def site(pki: TestPki, tmp_path: Path) -> AsyncIterator[DiscoverySite]:
    """A control plane that has something to serve both Envoys."""
    async with discovery_site(pki, tmp_path, MemorySnapshots()) as made:
        await made.publish()
        await made.publish_edge()
        yield made


def replica(number: int) -> Endpoint:
    """Gives a replica that nobody calls."""
    return Endpoint(f"private.model-{number}", "private", "model", address=f"127.0.0.1:{number + 1}")


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Gives code and reason of a stream's end."""
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        while await call.read() is not grpc.aio.EOF:
            pass
    failure = failure_from_status(ended.value)
    return ended.value.code(), "" if failure is None else failure.reason


@pytest.mark.parametrize("caller", ["egress", "edge"])
async def test_each_envoy_is_served_its_own(site: DiscoverySite, caller: str) -> None:
    stub = site.discovery(caller)
    for call, request in (
        (stub.DeltaAggregatedResources(), Delta(node=base_pb2.Node(id=caller), type_url=LISTENER)),
        (stub.StreamAggregatedResources(), Whole(node=base_pb2.Node(id=caller), type_url=LISTENER)),
    ):
        await call.write(request)
        response = await call.read()
        served = site.proxies[caller].served
        assert served is not None
        assert len(response.resources) == len(served.snapshot.of(LISTENER))
        call.cancel()


@pytest.mark.parametrize(("caller", "node"), [("egress", "edge"), ("edge", "egress"), ("egress", ""), ("egress", "x")])
async def test_envoy_that_is_another_than_it_says_is_refused(site: DiscoverySite, caller: str, node: str) -> None:
    stub = site.discovery(caller)
    delta, whole = stub.DeltaAggregatedResources(), stub.StreamAggregatedResources()
    await delta.write(Delta(node=base_pb2.Node(id=node), type_url=CLUSTER))
    await whole.write(Whole(node=base_pb2.Node(id=node), type_url=CLUSTER))
    for call in (delta, whole):
        assert await refusal_of(call) == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED")


@pytest.mark.parametrize("caller", ["chat", "tenant", "provisioner"])
async def test_service_that_is_no_envoy_is_refused(site: DiscoverySite, caller: str) -> None:
    call = site.discovery(caller).DeltaAggregatedResources()
    await call.write(Delta(node=EGRESS, type_url=CLUSTER))
    assert await refusal_of(call) == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_DENIED")


async def test_stream_that_asks_for_nothing_ends(site: DiscoverySite) -> None:
    call = site.discovery("egress").DeltaAggregatedResources()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_hostile_requests_end_their_own_stream_alone(site: DiscoverySite) -> None:
    stub = site.discovery("egress")
    good = stub.DeltaAggregatedResources()
    await good.write(Delta(node=EGRESS, type_url=CLUSTER))
    assert (await good.read()).resources
    names = [f"n{number}" for number in range(MAX_NAMES + 1)]
    for request in (
        Delta(node=EGRESS, type_url=ENDPOINTS, resource_names_subscribe=names),
        Delta(node=EGRESS, type_url=CLUSTER, resource_names_subscribe=["x" * 10_000]),
        Delta(node=EGRESS, type_url=CLUSTER, initial_resource_versions=dict.fromkeys(names, "1")),
    ):
        call = stub.DeltaAggregatedResources()
        await call.write(request)
        assert await refusal_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    # What is not served is not answered, and neither are answers to what was never sent.
    for request in (
        Delta(type_url="type.googleapis.com/envoy.service.runtime.v3.Runtime"),
        Delta(type_url=CLUSTER, response_nonce="999"),
        Delta(type_url=CLUSTER, response_nonce="no number"),
        Delta(),
    ):
        await good.write(request)
    await site.publish(replica(0))
    response = await good.read()
    assert {resource.name for resource in response.resources} == {"models", "replica/private.model-0"}


async def test_envoy_that_does_not_read_holds_no_other(site: DiscoverySite) -> None:
    stuck = site.discovery("egress").StreamAggregatedResources()
    await stuck.write(Whole(node=EGRESS, type_url=CLUSTER))
    reader = site.discovery("egress").DeltaAggregatedResources()
    await reader.write(Delta(node=EGRESS, type_url=CLUSTER))
    nonce = (await reader.read()).nonce
    for number in range(30):
        await reader.write(Delta(type_url=CLUSTER, response_nonce=nonce))
        await site.publish(*(replica(other) for other in range(number + 1)))
        async with asyncio.timeout(BOUND_S):
            nonce = (await reader.read()).nonce
    stuck.cancel()
    reader.cancel()


async def test_streams_end_when_the_service_drains(site: DiscoverySite) -> None:
    call = site.discovery("egress").DeltaAggregatedResources()
    await call.write(Delta(node=EGRESS, type_url=CLUSTER))
    assert (await call.read()).resources
    assert site.proxies["egress"].connected
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(site.server.stop(BOUND_S), ended_by_drain(call))
    assert not site.proxies["egress"].connected


async def ended_by_drain(call: Any) -> None:
    """Returns when the stream was ended with the status of a service that shuts down."""
    assert await refusal_of(call) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")


async def test_stream_that_is_cut_is_forgotten(site: DiscoverySite) -> None:
    call = site.discovery("egress").DeltaAggregatedResources()
    await call.write(Delta(node=EGRESS, type_url=CLUSTER))
    assert (await call.read()).resources
    call.cancel()
    await until(lambda: not site.proxies["egress"].connected, "the stream is over")


async def test_first_snapshot_reaches_who_waits_for_it(pki: TestPki, tmp_path: Path) -> None:
    async with discovery_site(pki, tmp_path, MemorySnapshots()) as site:
        call = site.discovery("egress").DeltaAggregatedResources()
        await call.write(Delta(node=EGRESS, type_url=CLUSTER))
        await until(lambda: site.proxies["egress"].connected, "it is connected")
        await site.publish()
        async with asyncio.timeout(BOUND_S):
            assert (await call.read()).resources
        call.cancel()
