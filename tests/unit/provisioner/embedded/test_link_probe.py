"""A site without a tunnel is told why, by what answers where it dials."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from redoma_provisioner.network.drivers.embedded.link_probe import LinkProbe
from redoma_provisioner.settings import ProxySettings
from redoma_provisioner.trust.authority import Authority
from tests.fakes.trust_parties import MovedClock, identity_files, make_authority
from tests.unit.provisioner.embedded.embedded_lab import free_port, proxy_files

SITE = "hospital-a"


class Place:
    """An authority, a site's gateway, and servers of the public site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = MovedClock()
        self.authority = make_authority(folder / "authority", self.clock)
        self.files = proxy_files(identity_files(self.authority, folder / "gateway", SITE, "gateway"))

    async def reason(self, address: str, files: ProxySettings | None = None) -> str:
        """Gives why there is no tunnel, after a look at the sentence."""
        problem = await LinkProbe(files or self.files, SITE, self.clock, timeout_s=1.5).look(address)
        assert problem.message.endswith("."), problem
        return problem.reason

    @asynccontextmanager
    async def server(
        self, authority: Authority, service: str = "egress", trusts: Authority | None = None
    ) -> AsyncIterator[str]:
        """Serves TLS as a service of the public site does, and asks for certificates of `trusts`."""
        files = identity_files(authority, self.folder / "server", "public", service)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert_file, files.key_file)
        context.verify_mode = ssl.CERT_REQUIRED
        trusted = self.folder / "trusted.crt"
        trusted.write_bytes(_pem(trusts or authority))
        context.load_verify_locations(trusted)
        server = await asyncio.start_server(_wait, "127.0.0.1", 0, ssl=context)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()


async def _wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def _pem(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """One for each test."""
    return Place(tmp_path)


async def test_nobody_listens(place: Place) -> None:
    assert await place.reason(f"127.0.0.1:{free_port()}") == "Refused"


async def test_nobody_answers(place: Place) -> None:
    silent = await asyncio.start_server(_wait, "127.0.0.1", 0)
    assert await place.reason(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}") == "NoAnswer"
    silent.close()


async def test_no_such_name(place: Place) -> None:
    assert await place.reason("no-such-host.invalid:8443") in ("NameUnknown", "Unreachable", "NoAnswer")


async def test_not_an_address(place: Place) -> None:
    assert await place.reason("nonsense") == "BadAddress"


async def test_another_server(place: Place) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    assert await place.reason(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") == "NotAdmitted"
    server.close()


async def test_another_authority(place: Place) -> None:
    other = make_authority(place.folder / "other", place.clock)
    async with place.server(other) as address:
        assert await place.reason(address) == "WrongAuthority"


async def test_another_service(place: Place) -> None:
    async with place.server(place.authority, "chat") as address:
        assert await place.reason(address) == "WrongServer"


async def test_a_certificate_that_is_refused(place: Place) -> None:
    other = make_authority(place.folder / "other", place.clock)
    async with place.server(place.authority, trusts=other) as address:
        assert await place.reason(address) == "CertificateRefused"


async def test_a_certificate_that_is_taken(place: Place) -> None:
    async with place.server(place.authority) as address:
        assert await place.reason(address) == "NotDialled"


async def test_an_expired_certificate_and_a_wrong_clock(place: Place) -> None:
    place.clock.moved = timedelta(days=400)
    assert await place.reason("127.0.0.1:1") == "CertificateExpired"
    place.clock.moved = timedelta(days=-400)
    assert await place.reason("127.0.0.1:1") == "ClockOutOfStep"


async def test_no_identity(place: Place) -> None:
    missing = ProxySettings(ca_file=place.folder / "x", cert_file=place.folder / "y", key_file=place.folder / "z")
    assert await place.reason("127.0.0.1:1", missing) == "NoIdentity"
