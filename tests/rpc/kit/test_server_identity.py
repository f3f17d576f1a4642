"""Certificates are replaced under a running server: who is connected notices nothing, who connects sees the new one."""

import asyncio
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from structlog.testing import LogCapture

from redoma_cli.local.pki import DevelopmentAuthority
from redoma_kit.server import GrpcServer
from redoma_kit.server_identity import IdentityUnusable
from redoma_kit.settings import TlsSettings
from tests.conftest import TestPki
from tests.rpc.kit.echo_service import Echo, Running, echo_server

FILES = ("ca.crt", "tls.crt", "tls.key")


@dataclass
class Rotating:
    """A server whose identity lies behind a symlink `current`, as a private site keeps it."""

    pki: TestPki
    folder: Path
    log: LogCapture = field(default_factory=LogCapture)
    echo: Echo = field(default_factory=Echo)
    server: GrpcServer = field(init=False)
    sets: int = 0

    async def start(self) -> None:
        self.swap(self.new_set())
        current = self.folder / "current"
        tls = TlsSettings(
            **{f"{kind}_file": current / name for kind, name in zip(("ca", "cert", "key"), FILES, strict=True)}
        )
        log = structlog.wrap_logger(structlog.PrintLogger(), processors=[self.log])
        self.server = echo_server(self.pki, self.echo, log, tls=tls)
        await self.server.start()

    def new_set(self, of: TestPki | None = None) -> Path:
        """Makes a certificate of the authority for a new key."""
        made = self.folder / f"authority-{self.sets}"
        self.sets += 1
        made.mkdir()
        authority = (of or self.pki).authority
        shutil.copy(authority.certificate, made)
        shutil.copy(authority.key, made)
        DevelopmentAuthority(made, services={"chat": "public"}).ensure()
        return made / "chat"

    def swap(self, made: Path) -> None:
        """Points `current` at a set, in one step."""
        link = self.folder / "next"
        link.symlink_to(made)
        link.replace(self.folder / "current")

    async def shown(self) -> int:
        """Connects as the edge, and gives the serial number of the certificate that the server shows."""
        tls = self.pki.tls("public", "edge")
        context = ssl.create_default_context(cafile=str(tls.ca_file))
        context.load_cert_chain(tls.cert_file, tls.key_file)
        context.set_alpn_protocols(["h2"])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", self.server.port, ssl=context, server_hostname="chat.public.redoma"
        )
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(found).serial_number

    def told(self, event: str) -> int:
        """Counts a line of the log."""
        return sum(event in entry["event"] for entry in self.log.entries)


def serial(made: Path) -> int:
    """Gives the serial number of a set's certificate."""
    return x509.load_pem_x509_certificate((made / "tls.crt").read_bytes()).serial_number


@pytest.fixture
async def rotating(pki: TestPki, tmp_path: Path) -> AsyncIterator[Rotating]:
    made = Rotating(pki, tmp_path)
    await made.start()
    yield made
    await made.server.stop(0)


async def test_a_swapped_set_is_shown_to_who_connects_and_breaks_no_stream(rotating: Rotating) -> None:
    release = asyncio.Event()

    async def wait(text: str) -> str:
        await release.wait()
        return text

    rotating.echo.act = wait
    system = Running(rotating.echo, rotating.server, None, None, None, rotating.pki)  # type: ignore[arg-type]
    async with system.open("public", "edge") as channel:
        stream = asyncio.ensure_future(system.call("UnaryStream", channel=channel))
        await asyncio.wait_for(rotating.echo.entered.wait(), 20)
        former = await rotating.shown()
        rotating.swap(made := rotating.new_set())
        assert await rotating.shown() == serial(made) != former
        assert await rotating.shown() == serial(made)
        release.set()
        assert await stream == ["first", "hello"]
        assert await system.call("UnaryUnary", channel=channel) == ["hello"]
    assert rotating.told("read anew") == 1


async def test_files_written_in_place_are_found_when_they_are_whole(rotating: Rotating) -> None:
    former = await rotating.shown()
    current, made = rotating.folder / "current", rotating.new_set()
    (current / "tls.crt").write_bytes((made / "tls.crt").read_bytes())
    assert await rotating.shown() == former
    assert await rotating.shown() == former
    assert rotating.told("can't be used") == 1
    (current / "tls.key").write_bytes(b"-----BEGIN PRIV")
    assert await rotating.shown() == former
    (current / "tls.key").write_bytes((made / "tls.key").read_bytes())
    assert await rotating.shown() == serial(made)


@pytest.mark.parametrize("name", FILES)
async def test_a_set_that_is_gone_or_nonsense_leaves_the_former_and_is_told_once(rotating: Rotating, name: str) -> None:
    former = await rotating.shown()
    bad = rotating.new_set()
    (bad / name).unlink()
    rotating.swap(bad)
    for _ in range(3):
        assert await rotating.shown() == former
    assert rotating.told("can't be used") == 1
    (bad / name).write_bytes(b"nonsense")
    for _ in range(3):
        assert await rotating.shown() == former
    assert rotating.told("can't be used") == 2
    rotating.swap(made := rotating.new_set())
    assert await rotating.shown() == serial(made)


async def test_the_authorities_are_read_anew_too(rotating: Rotating, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = DevelopmentAuthority(tmp_path / "other", services={"edge": "public"})
    other.ensure()
    files = other.identity("edge")
    made = rotating.new_set()
    (made / "ca.crt").write_bytes((made / "ca.crt").read_bytes() + files.ca.read_bytes())
    context = ssl.create_default_context(cafile=str(rotating.pki.tls("public", "edge").ca_file))
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["h2"])

    async def is_let_in() -> bool:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", rotating.server.port, ssl=context, server_hostname="chat.public.redoma"
        )
        try:
            # HTTP/2's preface and its settings; TLS 1.3 tells a client of its refusal only now.
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            return b"\x04" in await asyncio.wait_for(reader.read(9), 20)
        except ssl.SSLError:
            return False
        finally:
            writer.close()

    assert not await is_let_in()
    rotating.swap(made)
    assert await is_let_in()


SERVER = """
import os
from redoma_kit.polling import poll_without_event_engine
from redoma_kit.tls_floor import require_tls_1_3
require_tls_1_3(os.environ)
poll_without_event_engine(os.environ)
import asyncio, sys, structlog, grpc
from redoma_kit.polling import run_service
from redoma_kit.server_identity import ServerIdentity
from redoma_kit.settings import TlsSettings
from tests.fakes.model_service import SERVER_OPTIONS
async def main(ca, certificate, key):
    server = grpc.aio.server(options=SERVER_OPTIONS)
    tls = TlsSettings(ca_file=ca, cert_file=certificate, key_file=key)
    credentials = ServerIdentity(tls, structlog.get_logger()).credentials()
    print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
    await server.start()
    await server.wait_for_termination()
run_service(main(*sys.argv[1:]))
"""


async def test_tls_1_2_is_refused_also_with_certificates_that_are_read_anew(pki: TestPki) -> None:
    served, tls = pki.tls("public", "chat"), pki.tls("public", "edge")
    arguments = (sys.executable, "-c", SERVER, str(served.ca_file), str(served.cert_file), str(served.key_file))
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), 60))

        async def agreed(version: ssl.TLSVersion) -> str:
            context = ssl.create_default_context(cafile=str(tls.ca_file))
            context.load_cert_chain(tls.cert_file, tls.key_file)
            context.set_alpn_protocols(["h2"])
            context.minimum_version = context.maximum_version = version
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="chat.public.redoma"
            )
            writer.close()
            return str(writer.get_extra_info("ssl_object").version())

        assert await agreed(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await agreed(ssl.TLSVersion.TLSv1_2)
    finally:
        process.kill()
        await process.wait()


async def test_an_identity_that_can_not_be_used_at_the_start_is_one_sentence(pki: TestPki, tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    rotating = Rotating(pki, tmp_path / "ca")
    made, other = rotating.new_set(), rotating.new_set()
    tls = TlsSettings(ca_file=made / "ca.crt", cert_file=made / "tls.crt", key_file=other / "tls.key")
    with pytest.raises(IdentityUnusable, match="not the certificate's"):
        await echo_server(pki, Echo(), tls=tls).start()
