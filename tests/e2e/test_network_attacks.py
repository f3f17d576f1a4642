"""Whoever has no business in the network is kept out of it, from the internet, at the port for joining, and inside."""

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from redoma.provisioner.v1 import (
    edge_pb2,
    link_grant_pb2,
    membership_pb2,
    network_pb2,
    network_pb2_grpc,
    operation_pb2,
)
from redoma_kit.join_token import parse_token
from redoma_kit.policy import spiffe_id
from redoma_kit.rest import method_path
from redoma_provisioner.trust.wrong_codes import MOST_PER_WINDOW
from tests.e2e.conftest import Site, wait_until

BOUND_S = 10
JOIN_NAME = "egress.public.redoma"
SITE = "private"
PROVISIONER = "/redoma.provisioner.v1"
REDEEM = f"{PROVISIONER}.NetworkService/RedeemLinkGrant"
DISCOVERY = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
MEMBERSHIP = [method_path(one) for one in membership_pb2.DESCRIPTOR.services_by_name["MembershipService"].methods]
FLUSH = "/redoma.egress/Flush"
NEVER_OUTSIDE = (
    *MEMBERSHIP,
    DISCOVERY,
    REDEEM,
    f"{PROVISIONER}.NetworkService/WatchReplicas",
    HEALTH,
    REFLECTION,
    FLUSH,
)
OPERATORS = [
    method_path(method)
    for file, service in (
        (network_pb2, "NetworkService"),
        (operation_pb2, "OperationService"),
        (edge_pb2, "EdgeService"),
    )
    for method in file.DESCRIPTOR.services_by_name[service].methods
    if method_path(method) not in NEVER_OUTSIDE
]
MODELS = "/redoma.model.v1"
INSIDE = {
    "provisioner": (f"{PROVISIONER}.NetworkService/ListSites", REDEEM, DISCOVERY),
    "tenant": ("/redoma.tenant.v1.TenantService/GetTenant", "/redoma.tenant.v1.TenantService/ListContentPolicies"),
    "chat": ("/redoma.chat.v1.ConversationService/ListConversations",),
}
FORGED = (
    ("x-node-id", "public"),
    ("redoma-replica", f"{SITE}.provisioner"),
    ("redoma-tenant", "globex"),
    ("redoma-affinity", "f" * 16),
    ("redoma-flush-site", SITE),
    ("redoma-identity", "e30.e30.e30"),
    ("x-forwarded-client-cert", f"URI={spiffe_id('public', 'provisioner')}"),
    ("x-forwarded-client-cert", f"By=x;URI={spiffe_id('public', 'edge')}"),
)
Metadata = tuple[tuple[str, str], ...]


def answer(channel: grpc.Channel, method: str, metadata: Metadata = (), body: bytes = b"") -> grpc.StatusCode:
    """Calls a method with a request as it is on the wire, and gives the status."""
    try:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        call(body, metadata=metadata, timeout=BOUND_S)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@dataclass(frozen=True, slots=True)
class Inside:
    """What someone on the machine of a site can use.

    Attributes:
        home: Where the site's files are.
        van_port: Where sites join and link.
        ports: Where the services of the public site listen, by name.
    """

    home: Path
    van_port: int
    ports: dict[str, int]

    @property
    def authority(self) -> bytes:
        """The authority's certificate, which all trust."""
        return (self.home / "pki" / "ca.crt").read_bytes()

    def identity(self, name: str) -> Path:
        """Gives the folder of a service's certificate: "chat", or "private/model"."""
        current = self.home / "private" / "membership" / "current"
        return current / name.removeprefix("private/") if "/" in name else self.home / "pki" / name

    @contextlib.contextmanager
    def channel(self, port: int, server: str, identity: str | None = None) -> Iterator[grpc.Channel]:
        """Opens a channel that shows the certificate of a service, or none."""
        folder = None if identity is None else self.identity(identity)
        pair = (None, None) if folder is None else [(folder / name).read_bytes() for name in ("tls.key", "tls.crt")]
        credentials = grpc.ssl_channel_credentials(self.authority, *pair)
        options = [("grpc.ssl_target_name_override", server), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
            yield channel

    @contextlib.contextmanager
    def tls(self, server: str | None, identity: str | None = None, **limits: ssl.TLSVersion) -> Iterator[ssl.SSLSocket]:
        """Connects to the port for joins and links, and shakes hands."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for name, value in limits.items():
            setattr(context, name, value)
        if identity is not None:
            folder = self.identity(identity)
            context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        with (
            socket.create_connection(("127.0.0.1", self.van_port), BOUND_S) as connection,
            context.wrap_socket(connection, server_hostname=server) as secured,
        ):
            yield secured

    def says(self, request: bytes, server: str = JOIN_NAME, identity: str | None = None) -> bytes:
        """Gives the first that is answered to `request`; nothing when it hangs up."""
        try:
            with self.tls(server, identity) as connection:
                connection.sendall(request)
                return connection.recv(4096)
        except OSError:
            return b""


@pytest.fixture(scope="module")
def inside(site: Site) -> Inside:
    """The running site, seen from its own machine."""
    ports = json.loads((site.home / "config" / "ports.json").read_text())
    return Inside(site.home, int(site.env["REDOMA_VAN_PORT"]), ports)


def test_from_the_internet_nothing_of_the_network_is_there(site: Site) -> None:
    admin = (("authorization", f"Bearer {site.admin_key}"),)
    with site.channel() as channel:
        for method in NEVER_OUTSIDE:
            for metadata in (admin, admin + FORGED):
                assert answer(channel, method, metadata) is grpc.StatusCode.UNIMPLEMENTED, method


def test_a_tenant_s_key_opens_nothing_of_the_network(site: Site) -> None:
    with site.channel() as channel:
        for method in OPERATORS:
            assert answer(channel, method) is grpc.StatusCode.UNAUTHENTICATED, method
            for metadata in (site.bearer(), site.bearer() + FORGED):
                assert answer(channel, method, metadata) is grpc.StatusCode.PERMISSION_DENIED, method


@pytest.mark.parametrize("server", [None, "evil.example", "nobody.site.redoma", "public.site.redoma"])
def test_the_port_for_links_knows_no_other_names(inside: Inside, server: str | None) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)), inside.tls(server):
        raise AssertionError("it shakes hands")


def test_the_port_for_links_speaks_no_old_tls(inside: Inside) -> None:
    with pytest.raises(ssl.SSLError), inside.tls(JOIN_NAME, maximum_version=ssl.TLSVersion.TLSv1_2):
        raise AssertionError("it shakes hands")


@pytest.mark.parametrize(
    "identity", [None, "edge", "egress", "chat", "provisioner", "private/model", "private/provisioner"]
)
def test_only_a_site_s_own_gateway_opens_its_tunnels(inside: Inside, identity: str | None) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    assert inside.says(request, f"{SITE}.site.redoma", identity) == b""
    assert inside.says(request, f"{SITE}.site.redoma", "private/gateway").startswith(b"HTTP/1.1 404"), "this would pass"


@pytest.mark.parametrize(
    "request_line",
    [
        b"HEAD /authority.pem HTTP/1.1",
        b"POST /authority.pem HTTP/1.1\r\ncontent-length: 0",
        b"GET /authority.pem/../healthz HTTP/1.1",
        b"GET /authority.pem%00 HTTP/1.1",
        b"GET / HTTP/1.1",
        b"GET /authority.pem HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket",
        b"POST /authority.pem HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 4",
        b"POST /authority.pem HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 0",
        b"\0\1\2 garbage",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1",
    ],
)
def test_who_joins_is_told_the_authority_and_nothing_else(inside: Inside, request_line: bytes) -> None:
    head = inside.says(request_line + b"\r\nhost: x\r\n\r\n").split(b"\r\n")[0].split(b" ")
    assert head[0] == b"" or (head[0] == b"HTTP/1.1" and head[1][:1] == b"4"), head
    assert inside.says(b"GET /authority.pem HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_who_joins_can_call_one_method_alone(inside: Inside) -> None:
    with inside.channel(inside.van_port, JOIN_NAME) as channel:
        assert answer(channel, REDEEM, FORGED) is grpc.StatusCode.INVALID_ARGUMENT
        for method in (*OPERATORS, *NEVER_OUTSIDE, f"{REDEEM}/", f"/{REDEEM}", f"{REDEEM}?x=1"):
            if method != REDEEM:
                assert answer(channel, method, FORGED) is grpc.StatusCode.UNIMPLEMENTED, method


def test_ten_megabytes_to_join_with_are_not_taken(inside: Inside) -> None:
    with inside.channel(inside.van_port, JOIN_NAME) as channel:
        request = network_pb2.RedeemLinkGrantRequest(code="x" * (10 << 20)).SerializeToString()
        assert answer(channel, REDEEM, (), request) is not grpc.StatusCode.OK
        assert answer(channel, REDEEM) is grpc.StatusCode.INVALID_ARGUMENT, "it serves on"


def test_a_good_token_is_never_slowed_by_who_guesses_from_the_same_address(site: Site, inside: Inside) -> None:
    keys = [network_pb2.CertificateRequest(service=name, csr=b"x") for name in ("gateway", "provisioner")]
    guess = network_pb2.RedeemLinkGrantRequest(code="guess", certificate_requests=keys).SerializeToString()
    with inside.channel(inside.van_port, JOIN_NAME) as channel:
        # Whatever it says of where it comes from.
        answers = [answer(channel, REDEEM, (("x-forwarded-for", f"192.0.2.{n}"),), guess) for n in range(30)]
        assert answers.count(grpc.StatusCode.PERMISSION_DENIED) <= MOST_PER_WINDOW
        assert answers[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
    admin = (("authorization", f"Bearer {site.admin_key}"),)
    with site.channel() as edge:
        network = network_pb2_grpc.NetworkServiceStub(edge)
        wanted = network_pb2.CreateLinkGrantRequest(link_grant=link_grant_pb2.LinkGrant(site="sites/guessed"))
        token = network.CreateLinkGrant(wanted, metadata=admin, timeout=BOUND_S).token
        good = network_pb2.RedeemLinkGrantRequest(code=parse_token(token).code, certificate_requests=keys)
        try:
            with inside.channel(inside.van_port, JOIN_NAME) as channel:
                told = answer(channel, REDEEM, (), good.SerializeToString())
            assert told is grpc.StatusCode.INVALID_ARGUMENT, "the code is known, and the keys are none"
        finally:
            forgotten = network_pb2.DeleteSiteRequest(name="sites/guessed")
            network.DeleteSite(forgotten, metadata=admin, timeout=BOUND_S)


def test_calls_of_a_site_s_services_reach_no_service_of_the_public_site(inside: Inside) -> None:
    """Whoever has a private site has its certificates: with them he calls neither other sites nor the public one."""
    for name in ("gateway", "model", "provisioner", "supervisor"):
        with inside.channel(inside.ports["egress"], JOIN_NAME, f"{SITE}/{name}") as channel:
            assert answer(channel, HEALTH, FORGED) is grpc.StatusCode.UNAVAILABLE, f"{name} gets into the egress"
        for service in ("provisioner", "tenant", "chat"):
            with inside.channel(inside.ports[service], f"{service}.public.redoma", f"{SITE}/{name}") as channel:
                for method in INSIDE[service]:
                    assert answer(channel, method, FORGED) is grpc.StatusCode.PERMISSION_DENIED, (name, method)


@pytest.mark.parametrize("caller", ["chat", "edge", "tenant"])
def test_a_service_of_the_public_site_passes_for_no_other_at_the_egress(inside: Inside, caller: str) -> None:
    of_edge, of_model = f"{MODELS}.EngineService/GetEngineState", f"{MODELS}.ModelService/ListModels"
    with inside.channel(inside.ports["egress"], JOIN_NAME, caller) as channel:
        for method in (*MEMBERSHIP, FLUSH):
            assert answer(channel, method, FORGED) is grpc.StatusCode.PERMISSION_DENIED, method
        replica = (("redoma-replica", f"{SITE}.model-0"), *FORGED[-2:])
        allowed = {"edge": of_edge, "chat": of_model}
        for method in (of_edge, of_model):
            # Who may call it still needs someone's identity, signed for the call.
            expected = "UNAUTHENTICATED" if method == allowed.get(caller) else "PERMISSION_DENIED"
            assert answer(channel, method, replica).name == expected, method


def test_the_egress_alone_can_hand_a_join_on_and_can_call_nothing_else(inside: Inside) -> None:
    service = "provisioner"
    for caller, expected in (("chat", "PERMISSION_DENIED"), ("egress", "INVALID_ARGUMENT")):
        with inside.channel(inside.ports[service], "provisioner.public.redoma", caller) as channel:
            assert answer(channel, REDEEM, FORGED[-1:]).name == expected
            for method in OPERATORS:
                assert answer(channel, method, FORGED[-1:]) is grpc.StatusCode.PERMISSION_DENIED, method


def test_a_thousand_connections_that_say_nothing_hinder_no_one(site: Site, inside: Inside) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(1_000):
            mute = stack.enter_context(socket.create_connection(("127.0.0.1", inside.van_port), BOUND_S))
            if number % 2:
                mute.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        assert inside.says(b"GET /authority.pem HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 200")
        site.kill("gateway")
        wait_until(lambda: site.redoma("van", "status", check=False).returncode == 0, "the site links anew")
    site.wait_ready()
