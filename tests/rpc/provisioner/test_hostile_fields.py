"""Hostile values in every field of every call that comes from outside the service."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from redoma.provisioner.v1 import edge_pb2, edge_pb2_grpc, link_grant_pb2, network_pb2, operation_pb2, site_pb2
from redoma_kit.channel import open_channel
from redoma_kit.identity import IdentityVerifier
from redoma_kit.server import GrpcServer
from redoma_kit.settings import UpstreamSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.errors import ERRORS
from redoma_provisioner.policy import PUBLIC_POLICY
from redoma_provisioner.servicers.edge import EdgeServicer
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.store.snapshots import SqlSnapshotStore
from tests.conftest import TestPki
from tests.fakes.hostile_requests import LONG, Hostile, forged_tokens, hostile_requests, problem_of
from tests.fakes.membership_service import FakeMember
from tests.fakes.trust_parties import SiteKeys
from tests.rpc.provisioner.join_site import JoinSite
from tests.rpc.provisioner.network_site import CALL_TIMEOUT_S, NETWORK, OPERATIONS, NetworkSite

SITE = "hospital-a"
AT_ONCE = 16
MAX_LOGGED = 1_000
GRANTS = ("CreateLinkGrant", "ListLinkGrants", "RevokeLinkGrant", "RedeemLinkGrant")
NOTHING_TO_SET = ("ListListeners", "WatchNetwork", "WatchReplicas", "ListProxies")
EDGE = "/redoma.provisioner.v1.EdgeService/"
Call = Callable[[str, Message], Awaitable[object]]


def methods() -> tuple[MethodDescriptor, ...]:
    """Gives every method that is called from outside."""
    files = (network_pb2, operation_pb2, edge_pb2)
    services = [one for file in files for one in file.DESCRIPTOR.services_by_name.values()]
    return tuple(method for service in services for method in service.methods)


async def attack(call: Call, name: str, sound: Message, tokens: tuple[str, ...] = ()) -> list[str]:
    """Sends each hostile form of a request, and gives what is wrong with the answers."""
    turns, found = asyncio.Semaphore(AT_ONCE), []

    async def send(hostile: Hostile) -> None:
        async with turns:
            try:
                await call(name, hostile.request)
            except grpc.aio.AioRpcError as error:
                if problem := problem_of(error, ERRORS):
                    found.append(f"{name}.{hostile.field} = {hostile.value}: {problem}")

    async with asyncio.TaskGroup() as group:
        for hostile in hostile_requests(sound, tokens):
            group.create_task(send(hostile))
    return found


def check_log(log: str) -> None:
    """Checks that nothing failed inside, and that nobody's megabyte is in the log."""
    assert '"level": "error"' not in log and "Traceback" not in log, log[-3_000:]
    assert LONG[:MAX_LOGGED] not in log


async def test_no_hostile_value_does_more_than_being_refused_by_the_network(network_on_each: NetworkSite) -> None:
    network = network_on_each
    for site in (SITE, "hospital-b", "goner"):
        network.egress.change(site, FakeMember())
        await network.join(site)
        await network.until_linked(site)
    rotate = network_pb2.RotateCertificatesRequest(name=f"sites/{SITE}")
    operation = (await network.call(NETWORK + "RotateCertificates", rotate)).operation.name
    watched = network.call(OPERATIONS + "WatchOperation", operation_pb2.WatchOperationRequest(name=operation))
    async with asyncio.timeout(CALL_TIMEOUT_S):
        assert [one.operation.state async for one in watched][-1] == operation_pb2.Operation.STATE_SUCCEEDED
    second = network_pb2.RotateCertificatesRequest(name="sites/hospital-b")
    await network.call(NETWORK + "RotateCertificates", second)
    changed = site_pb2.Site(name=f"sites/{SITE}", display_name="A", priority=1)
    mask = FieldMask(paths=["display_name", "priority"])
    sound: Mapping[str, Message] = {
        "GetSite": network_pb2.GetSiteRequest(name=f"sites/{SITE}"),
        "ListSites": network_pb2.ListSitesRequest(page_size=1),
        "UpdateSite": network_pb2.UpdateSiteRequest(site=changed, update_mask=mask),
        "RevokeSite": network_pb2.RevokeSiteRequest(name="sites/goner"),
        "DeleteSite": network_pb2.DeleteSiteRequest(name=f"sites/{SITE}"),
        "RotateCertificates": rotate,
        "ListLinks": network_pb2.ListLinksRequest(parent=f"sites/{SITE}"),
        "ListConnectors": network_pb2.ListConnectorsRequest(parent=f"sites/{SITE}"),
        "GetOperation": operation_pb2.GetOperationRequest(name=operation),
        "ListOperations": operation_pb2.ListOperationsRequest(page_size=1),
        "WatchOperation": operation_pb2.WatchOperationRequest(name=operation),
        "CancelOperation": operation_pb2.CancelOperationRequest(name=operation),
    }
    assert {*sound, *GRANTS, *NOTHING_TO_SET, "GetSnapshot", "ListSnapshots"} == {one.name for one in methods()}
    pages = {name: await network.call(_path(name), sound[name]) for name in ("ListSites", "ListOperations")}
    tokens = {name: forged_tokens(page.next_page_token) for name, page in pages.items()}
    tokens["ListSites"] += (pages["ListOperations"].next_page_token,)

    async def call(name: str, request: Message) -> None:
        answer = network.call(_path(name), request)
        if not name.startswith("Watch"):
            await answer
            return
        async for _ in answer:
            pass

    found = [
        problem
        for name, request in sound.items()
        for problem in await attack(call, name, request, tokens.get(name, ()))
    ]
    assert not found, "\n".join(found)
    again = await network.call(NETWORK + "GetSite", network_pb2.GetSiteRequest(name=f"sites/{SITE}"))
    assert again.site.state == site_pb2.Site.STATE_JOINED
    check_log(network.log_text.getvalue())


def _path(name: str) -> str:
    return (OPERATIONS if "Operation" in name else NETWORK) + name


async def test_no_hostile_value_does_more_than_being_refused_by_those_who_let_sites_join(
    migrated_url: str, pki: TestPki, tmp_path: Path
) -> None:
    site = JoinSite(pki, tmp_path, migrated_url)
    await site.start()
    try:
        grants = [await site.call("CreateLinkGrant", _grant(name)) for name in (SITE, "hospital-b")]
        code = await site.public.code("hospital-c")
        requests = [network_pb2.CertificateRequest(service=one.service, csr=one.csr) for one in SiteKeys().requests()]
        exposed = site_pb2.Connector(routing_key="model-0", service=site_pb2.Connector.SERVICE_MODEL, target="unix:m")
        page = await site.call("ListLinkGrants", network_pb2.ListLinkGrantsRequest(page_size=1))
        sound: Mapping[str, Message] = {
            "CreateLinkGrant": _grant("hospital-d"),
            "ListLinkGrants": network_pb2.ListLinkGrantsRequest(page_size=1),
            "RevokeLinkGrant": network_pb2.RevokeLinkGrantRequest(name=grants[0].link_grant.name),
            "RedeemLinkGrant": network_pb2.RedeemLinkGrantRequest(
                code=code, certificate_requests=requests, connectors=[exposed], version="0.1.0"
            ),
        }
        assert set(sound) == set(GRANTS)

        async def call(name: str, request: Message) -> object:
            # A site that joins comes through the egress.
            return await site.call(name, request, "egress" if name == "RedeemLinkGrant" else "edge")

        tokens = {"ListLinkGrants": forged_tokens(page.next_page_token)}
        found = [
            problem
            for name, request in sound.items()
            for problem in await attack(call, name, request, tokens.get(name, ()))
        ]
        assert not found, "\n".join(found)
    finally:
        await site.stop()


def _grant(site: str) -> network_pb2.CreateLinkGrantRequest:
    return network_pb2.CreateLinkGrantRequest(link_grant=link_grant_pb2.LinkGrant(site=f"sites/{site}"), rejoin=True)


@pytest.fixture
async def edge_call(network_on_each: NetworkSite, pki: TestPki) -> AsyncIterator[tuple[Call, io.StringIO]]:
    """Calls EdgeService on each database; with what it logs."""
    text = io.StringIO()
    log: structlog.stdlib.BoundLogger = structlog.wrap_logger(structlog.PrintLogger(text))
    settings = ProvisionerSettings(
        role="public",
        listen="127.0.0.1:0",
        tls=pki.tls("public", "provisioner"),
        jwks_file=pki.jwks_file,
        database_url="sqlite+aiosqlite:////tmp/unused.db",
    )
    telemetry = Telemetry("provisioner", settings.metrics, settings.tracing)
    server = GrpcServer(
        settings, PUBLIC_POLICY, ERRORS, IdentityVerifier(settings.jwks_file, "provisioner"), telemetry, log
    )
    proxy = Proxy("egress", "spiffe://redoma/public/egress", EdgeMetrics(telemetry))
    servicer = EdgeServicer([proxy], SqlSnapshotStore(network_on_each.database))
    server.add(
        lambda inner: edge_pb2_grpc.add_EdgeServiceServicer_to_server(servicer, inner),
        "redoma.provisioner.v1.EdgeService",
    )
    await server.start()
    upstream = UpstreamSettings(target=f"127.0.0.1:{server.port}", server_name="provisioner.public.redoma")
    channel = open_channel(upstream, pki.tls("public", "edge"), 8 << 20)
    stub = edge_pb2_grpc.EdgeServiceStub(channel)

    async def call(name: str, request: Any) -> object:
        claims: Mapping[str, Any] = {"method": EDGE + name, "tenant": "", "scopes": ("platform.admin",)}
        return await getattr(stub, name)(
            request, metadata=pki.metadata(["provisioner"], **claims), timeout=CALL_TIMEOUT_S
        )

    yield call, text
    await channel.close()
    await server.stop(0.0)


async def test_no_hostile_value_does_more_than_being_refused_by_those_who_show_envoys(
    edge_call: tuple[Call, io.StringIO],
) -> None:
    call, log = edge_call
    sound: Mapping[str, Message] = {
        "GetSnapshot": edge_pb2.GetSnapshotRequest(proxy="proxies/egress", version="0" * 16),
        "ListSnapshots": edge_pb2.ListSnapshotsRequest(proxy="proxies/egress"),
    }
    found = [problem for name, request in sound.items() for problem in await attack(call, name, request)]
    assert not found, "\n".join(found)
    check_log(log.getvalue())
