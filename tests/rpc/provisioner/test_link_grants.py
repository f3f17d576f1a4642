"""Grants and joining as callers meet them: operators at the edge, private sites at the port for joining."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from redoma.provisioner.v1 import link_grant_pb2, network_pb2, site_pb2
from redoma_kit.errors import Failure, failure_from_status
from redoma_kit.join_token import JoinToken, parse_token
from redoma_provisioner.errors import CannotStart
from redoma_provisioner.settings import ProvisionerSettings
from redoma_provisioner.trust.join_channel import GrpcJoinChannel
from redoma_provisioner.trust.join_failure import JoinFailed
from redoma_provisioner.trust.join_program import join
from tests.conftest import TestPki
from tests.fakes.trust_parties import SiteKeys, identity_files, make_authority
from tests.rpc.provisioner.join_site import CALL_TIMEOUT_S, JoinSite

LinkGrant = link_grant_pb2.LinkGrant
MODEL = site_pb2.Connector.SERVICE_MODEL
pytestmark = pytest.mark.parametrize("migrated_url", ["sqlite"], indirect=True)


@pytest.fixture
async def site(pki: TestPki, tmp_path: Path, migrated_url: str) -> AsyncIterator[JoinSite]:
    """A running service, and the port for joining."""
    site = JoinSite(pki, tmp_path, migrated_url)
    await site.start()
    yield site
    await site.stop()


async def _failure(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    failure = failure_from_status(raised.value)
    assert failure is not None, raised.value
    return failure


async def _create(site: JoinSite, name: str = "sites/hospital-a", **fields: Any) -> network_pb2.CreateLinkGrantResponse:
    rejoin = fields.pop("rejoin", False)
    request = network_pb2.CreateLinkGrantRequest(link_grant=LinkGrant(site=name, **fields), rejoin=rejoin)
    response: network_pb2.CreateLinkGrantResponse = await site.call("CreateLinkGrant", request)
    return response


def _redemption(code: str, **fields: Any) -> network_pb2.RedeemLinkGrantRequest:
    requests = [network_pb2.CertificateRequest(service=one.service, csr=one.csr) for one in SiteKeys().requests()]
    return network_pb2.RedeemLinkGrantRequest(code=code, **{"certificate_requests": requests} | fields)


async def _redeem(site: JoinSite, request: network_pb2.RedeemLinkGrantRequest, forwarded_for: str = "") -> Any:
    metadata = (("x-forwarded-for", forwarded_for),) if forwarded_for else ()
    return await site.stub("egress").RedeemLinkGrant(request, metadata=metadata, timeout=CALL_TIMEOUT_S)


async def test_an_operator_makes_lists_and_revokes_grants(site: JoinSite) -> None:
    made = await _create(site, ttl=Duration(seconds=120), driver=site_pb2.DRIVER_SKUPPER_SYSTEM)
    grant = made.link_grant
    assert (grant.site, grant.state, grant.driver) == (
        "sites/hospital-a",
        LinkGrant.STATE_ACTIVE,
        site_pb2.DRIVER_SKUPPER_SYSTEM,
    )
    assert grant.ttl.seconds == 120 and grant.creator == "tenants//apiKeys/test"
    token = parse_token(made.token)
    assert (token.address, token.digest) == (site.address, site.authority.digest)
    listed = (await site.call("ListLinkGrants", network_pb2.ListLinkGrantsRequest())).link_grants
    assert list(listed) == [grant]
    assert token.code not in str(listed)
    request = network_pb2.RevokeLinkGrantRequest(name=grant.name)
    for _ in range(2):
        revoked = (await site.call("RevokeLinkGrant", request)).link_grant
        assert revoked.state == LinkGrant.STATE_REVOKED


async def test_a_grant_lasts_fifteen_minutes_and_is_of_the_own_driver_unless_told(site: JoinSite) -> None:
    grant = (await _create(site)).link_grant
    assert grant.ttl.seconds == 900 and grant.driver == site_pb2.DRIVER_EMBEDDED
    site.clock.moved = timedelta(minutes=15)
    (listed,) = (await site.call("ListLinkGrants", network_pb2.ListLinkGrantsRequest())).link_grants
    assert listed.state == LinkGrant.STATE_EXPIRED


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "hospital-a"}, "link_grant.site"),
        ({"name": "sites/public"}, "link_grant.site"),
        ({"name": "sites/A"}, "link_grant.site"),
        ({"ttl": Duration(seconds=1)}, "link_grant.ttl"),
        ({"ttl": Duration(seconds=2**62)}, "link_grant.ttl"),
        ({"driver": 77}, "link_grant.driver"),
    ],
)
async def test_a_grant_that_can_not_be_is_refused_by_field(site: JoinSite, fields: dict[str, Any], field: str) -> None:
    failure = await _failure(_create(site, **fields))
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", field)


@pytest.mark.parametrize("method", ["CreateLinkGrant", "ListLinkGrants", "RevokeLinkGrant"])
async def test_grants_are_for_operators_at_the_edge(site: JoinSite, method: str) -> None:
    request = getattr(network_pb2, f"{method}Request")()
    assert (await _failure(site.call(method, request, scopes=("tenant.admin",)))).reason == "SCOPE_MISSING"
    assert (await _failure(site.call(method, request, "egress"))).reason == "METHOD_DENIED"


async def test_only_the_egress_passes_redemptions_on(site: JoinSite) -> None:
    assert (await _failure(site.call("RedeemLinkGrant", _redemption("x"), "edge"))).reason == "METHOD_DENIED"


async def test_a_site_joins_by_a_code_and_its_name_alone_tells_its_connectors(site: JoinSite) -> None:
    code = parse_token((await _create(site)).token).code
    connector = site_pb2.Connector(routing_key="model-0", service=site_pb2.Connector.SERVICE_MODEL, target="unix:m")
    answer = await _redeem(site, _redemption(code, connectors=[connector]))
    assert (answer.site, answer.driver, answer.link_address) == (
        "sites/hospital-a",
        site_pb2.DRIVER_EMBEDDED,
        "join.example:8443",
    )
    assert [one.service for one in answer.certificates] == ["gateway", "model", "provisioner", "supervisor"]
    (grant,) = (await site.call("ListLinkGrants", network_pb2.ListLinkGrantsRequest())).link_grants
    assert grant.state == LinkGrant.STATE_REDEEMED and grant.HasField("redeem_time")
    failure = await _failure(_create(site))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_EXISTS")


@pytest.mark.parametrize(
    ("connectors", "field"),
    [
        (
            [site_pb2.Connector(routing_key="hospital-b.model-0", service=MODEL, target="x")],
            "connectors[0].routing_key",
        ),
        ([site_pb2.Connector(routing_key="model-0", target="x")], "connectors[0].service"),
        ([site_pb2.Connector(routing_key="model-0", service=MODEL)], "connectors[0].target"),
        ([site_pb2.Connector(routing_key="m", service=MODEL, target="x", tenant="acme")], "connectors[0].tenant"),
        ([site_pb2.Connector(routing_key="m", service=MODEL, target="x", tenant="tenants/")], "connectors[0].tenant"),
        ([site_pb2.Connector(routing_key="m", service=MODEL, target="x")] * 2, "connectors"),
        ([site_pb2.Connector(routing_key=f"m{n}", service=MODEL, target="x") for n in range(65)], "connectors"),
    ],
)
async def test_what_a_site_may_not_expose_is_refused_and_the_grant_is_left(
    site: JoinSite, connectors: list[site_pb2.Connector], field: str
) -> None:
    code = parse_token((await _create(site)).token).code
    failure = await _failure(_redeem(site, _redemption(code, connectors=connectors)))
    assert (failure.reason, failure.metadata["field"]) == ("INVALID_FIELD", field)
    assert (await _redeem(site, _redemption(code))).site == "sites/hospital-a"


async def test_each_code_that_lets_nobody_in_has_a_reason_of_its_own(site: JoinSite) -> None:
    unknown = await _failure(_redeem(site, _redemption("x" * 43)))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.PERMISSION_DENIED, "GRANT_UNKNOWN")
    code = parse_token((await _create(site)).token).code
    await _redeem(site, _redemption(code))
    redeemed = await _failure(_redeem(site, _redemption(code)))
    assert (redeemed.reason, redeemed.metadata) == ("GRANT_REDEEMED", {"site": "sites/hospital-a"})
    made = await _create(site, "sites/hospital-b")
    await site.call("RevokeLinkGrant", network_pb2.RevokeLinkGrantRequest(name=made.link_grant.name))
    revoked = await _failure(_redeem(site, _redemption(parse_token(made.token).code)))
    assert revoked.reason == "GRANT_REVOKED"
    late = parse_token((await _create(site, "sites/hospital-c")).token).code
    site.clock.moved = timedelta(minutes=16)
    expired = await _failure(_redeem(site, _redemption(late)))
    assert expired.reason == "GRANT_EXPIRED" and expired.metadata["expire_time"]


async def test_who_guesses_is_slowed_by_the_address_that_the_proxy_saw(site: JoinSite) -> None:
    for number in range(10):
        guess = _redeem(site, _redemption("x" * 43), f"10.0.0.{number}, 192.0.2.1")
        assert (await _failure(guess)).reason == "GRANT_UNKNOWN"
    slowed = await _failure(_redeem(site, _redemption("x" * 43), "10.0.0.99, 192.0.2.1"))
    assert (slowed.code, slowed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SIGN_IN_SLOWED")
    assert slowed.retry_after_s
    assert (await _failure(_redeem(site, _redemption("x" * 43), "192.0.2.2"))).reason == "GRANT_UNKNOWN"
    # A good code is never slowed.
    code = parse_token((await _create(site)).token).code
    assert (await _redeem(site, _redemption(code), "192.0.2.1")).site == "sites/hospital-a"


def _private_settings(folder: Path) -> ProvisionerSettings:
    return ProvisionerSettings.model_validate(
        {
            "role": "private",
            "listen": "unix:provisioner.sock",
            "tls": {"ca_file": "ca", "cert_file": "cert", "key_file": "key"},
            "jwks_file": "jwks",
            "database_url": "sqlite+aiosqlite:////tmp/unused.db",
            "membership_dir": folder,
            "exposed": [{"name": "provisioner", "service": "provisioner", "target": "unix:provisioner.sock"}],
        }
    )


async def _join(site: JoinSite, folder: Path, token: str) -> tuple[int, list[Mapping[str, Any]]]:
    said: list[Mapping[str, Any]] = []
    return await join(_private_settings(folder), token, "0.1.0", site.clock, said.append), said


async def test_the_program_joins_through_the_port_for_joining(site: JoinSite, tmp_path: Path) -> None:
    token = (await _create(site)).token
    status, said = await _join(site, tmp_path / "membership", token)
    assert status == 0, said
    assert said[-1] == {"phase": "JOINED", "site": "hospital-a", "error": None}
    state = json.loads((tmp_path / "membership" / "state.json").read_text())
    assert state["phase"] == "JOINED"
    # What it got serves and calls with TLS as it is.
    current = tmp_path / "membership" / "current" / "model"
    ssl.create_default_context(cafile=str(current / "ca.crt")).load_cert_chain(current / "tls.crt", current / "tls.key")
    status, said = await _join(site, tmp_path / "other", token)
    assert status == 1 and said[-1]["error"]["reason"] == "GRANT_REDEEMED"


async def test_the_program_learns_from_the_server_that_the_clock_is_wrong(site: JoinSite, tmp_path: Path) -> None:
    token = (await _create(site)).token
    site.join_port.moved_date = timedelta(hours=1)
    _, said = await _join(site, tmp_path / "membership", token)
    assert said[-1]["error"]["reason"] == "CLOCK_WRONG" and "behind" in said[-1]["error"]["message"]
    site.join_port.moved_date = timedelta()
    status, _ = await _join(site, tmp_path / "membership", token)
    assert status == 0


async def test_a_server_of_another_redoma_is_told_before_the_code_leaves(site: JoinSite, tmp_path: Path) -> None:
    token = parse_token((await _create(site)).token)
    elsewhere = JoinToken(token.address, b"\0" * 32, token.code)
    _, said = await _join(site, tmp_path / "membership", elsewhere.text)
    assert said[-1]["error"]["reason"] == "AUTHORITY_MISMATCH"
    assert (await _redeem(site, _redemption(token.code))).site == "sites/hospital-a"


async def test_a_server_that_shows_the_right_authority_without_its_key_learns_no_code(
    site: JoinSite, tmp_path: Path
) -> None:
    token = (await _create(site)).token
    liar = make_authority(tmp_path / "liar", site.clock)
    site.join_port.tls = identity_files(liar, tmp_path / "liar's egress", "public", "egress")
    port = site.join_port.port
    await site.join_port.stop()
    await site.join_port.start()
    moved = JoinToken(f"127.0.0.1:{site.join_port.port}", parse_token(token).digest, parse_token(token).code)
    assert port
    _, said = await _join(site, tmp_path / "membership", moved.text)
    assert said[-1]["error"]["reason"] == "PUBLIC_SITE_UNREACHABLE"
    assert (await _redeem(site, _redemption(moved.code))).site == "sites/hospital-a"


async def test_joining_is_for_private_sites(site: JoinSite, tmp_path: Path) -> None:
    settings = _private_settings(tmp_path).model_copy(update={"role": "public"})
    with pytest.raises(CannotStart, match="private"):
        await join(settings, "x", "0.1.0", site.clock, lambda line: None)


@pytest.mark.parametrize(
    "spoiled",
    [
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 4_000 + b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"",
    ],
)
async def test_a_server_that_is_something_else_is_told(site: JoinSite, spoiled: bytes) -> None:
    site.join_port.spoil = lambda answer: spoiled
    channel = GrpcJoinChannel("0.1.0", timeout_s=1.0 if spoiled == b"" else 20.0)
    with pytest.raises(JoinFailed) as raised:
        await channel.meet(site.address)
    wanted = "PUBLIC_SITE_SILENT" if spoiled == b"" else "AUTHORITY_MISMATCH"
    assert raised.value.error.reason == wanted


async def test_an_address_where_nobody_answers_says_why(site: JoinSite, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = GrpcJoinChannel("0.1.0", timeout_s=0.3)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(JoinFailed) as refused:
            await channel.meet(f"127.0.0.1:{port}")
        closed.listen()
        # It takes the connection and says nothing.
        with pytest.raises(JoinFailed) as silent:
            await channel.meet(f"127.0.0.1:{port}")

    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown, raising=False)
        with pytest.raises(JoinFailed) as nameless:
            await channel.meet("join.example:8443")
    reasons = [raised.value.error.reason for raised in (refused, silent, nameless)]
    assert reasons == ["PUBLIC_SITE_REFUSED", "PUBLIC_SITE_SILENT", "PUBLIC_SITE_NAME_UNKNOWN"]
