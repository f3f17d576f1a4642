"""Redeeming a token at a grant server that answers as Skupper's does, over TLS by an authority of its own."""

import asyncio
import base64
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from redoma_provisioner.network.driver import DriverRefused, DriverUnavailable
from redoma_provisioner.network.drivers.skupper.link_resources import AccessToken, LinkCredentials, parse
from redoma_provisioner.network.drivers.skupper.probe import NetworkProbe, Trust
from redoma_provisioner.network.drivers.skupper.redemption import GrantServer
from tests.unit.provisioner.skupper_system.test_links import link_yaml

CODE = "one-time-code"


@dataclass(slots=True)
class Grants:
    """A grant server: what it answers, and what it was asked."""

    port: int
    ca: str
    answer: tuple[int, str] = (200, "")
    asked: list[str] = field(default_factory=list)

    def token(self) -> AccessToken:
        """Gives a token for it."""
        return AccessToken("grant-1", f"https://127.0.0.1:{self.port}/tokens/grant-1", CODE, self.ca, 7)


def self_signed(directory: Path) -> tuple[str, ssl.SSLContext]:
    """Makes a certificate for 127.0.0.1; gives its PEM and a server's context."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "grants")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "tls.pem").write_bytes(private + pem.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "tls.pem")
    return pem, context


@pytest.fixture
async def grants(tmp_path: Path) -> AsyncIterator[Grants]:
    """A grant server on a port of the loopback."""
    pem, context = self_signed(tmp_path)
    made = Grants(0, pem)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            made.asked.append(head + (await reader.readexactly(len(CODE))).decode())
            status, body = made.answer
            content = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
            writer.write(content)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def test_a_good_token_gives_the_link_with_the_tokens_cost(grants: Grants) -> None:
    grants.answer = (200, link_yaml().encode("ascii").decode())
    found = await GrantServer().redeem(grants.token(), "hospital-a")
    assert (len(found.endpoints), found.cost) == (2, 7)
    (asked,) = grants.asked
    assert asked.startswith("POST /tokens/grant-1 HTTP/1.1\r\n")
    assert "\r\nname: grant-1\r\n" in asked
    assert "\r\nsubject: hospital-a\r\n" in asked
    assert asked.endswith(CODE)


@pytest.mark.parametrize(
    ("answer", "words", "kind"),
    [
        ((404, "No such access granted"), "used up or has expired", DriverRefused),
        ((403, "Redemption of access token refused"), "refused the token's code", DriverRefused),
        ((500, "oops"), "answered 500", DriverUnavailable),
        ((200, ""), "must be one AccessToken", DriverRefused),
        ((200, "garbage"), "must be one AccessToken", DriverRefused),
        ((200, "x" * 200_000), "must be one AccessToken", DriverRefused),
    ],
)
async def test_an_answer_of_another_kind_says_what_to_do(
    grants: Grants, answer: tuple[int, str], words: str, kind: type[Exception]
) -> None:
    grants.answer = answer
    with pytest.raises(kind, match=words) as raised:
        await GrantServer().redeem(grants.token(), "hospital-a")
    assert type(raised.value) is kind
    assert CODE not in str(raised.value)


async def test_a_server_of_another_authority_never_sees_the_code(grants: Grants, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _ = self_signed(tmp_path / "other")
    with pytest.raises(DriverRefused, match="certificate that the token does not trust"):
        await GrantServer().redeem(replace(grants.token(), ca=other), "hospital-a")
    assert grants.asked == []


async def test_a_server_that_is_away_leaves_the_token_good(unused_tcp_port: int) -> None:
    token = AccessToken("grant-1", f"https://127.0.0.1:{unused_tcp_port}/x", CODE, self_signed_pem(), 1)
    with pytest.raises(DriverUnavailable, match="the token is still good"):
        await GrantServer().redeem(token, "hospital-a")


async def test_a_probe_tells_trusted_from_untrusted_and_closed(grants: Grants, unused_tcp_port: int) -> None:
    probe, other = NetworkProbe(), parse(link_yaml())
    assert isinstance(other, LinkCredentials)
    known = replace(other, data={**other.data, "ca.crt": base64.b64encode(grants.ca.encode()).decode()})
    assert await probe.opens("127.0.0.1", grants.port)
    assert not await probe.opens("127.0.0.1", unused_tcp_port)
    assert await probe.trusts("127.0.0.1", grants.port, known) is Trust.TRUSTED
    assert await probe.trusts("127.0.0.1", grants.port, other) is Trust.UNTRUSTED
    assert await probe.trusts("127.0.0.1", unused_tcp_port, known) is Trust.UNREACHABLE


def self_signed_pem() -> str:
    """Gives a certificate of nobody."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
