"""A service on a Unix socket: mutual TLS as on a port, for this user alone, and in nobody's way."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from redoma_kit.channel import open_channel
from redoma_kit.server import AddressInUse, GrpcServer
from redoma_kit.settings import UpstreamSettings
from redoma_kit.unix_socket import MAX_PATH_BYTES
from tests.conftest import TestPki
from tests.rpc.kit.echo_service import Echo, Running, echo_server, refused

NAME = "echo.sock"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def answers(pki: TestPki, server: GrpcServer, service: str = "edge") -> list[str]:
    """Calls over the socket as a service."""
    system = Running(Echo(), server, None, None, None, pki)  # type: ignore[arg-type]
    upstream = UpstreamSettings(target=f"unix:{NAME}", server_name="chat.public.redoma")
    async with open_channel(upstream, pki.tls("public", service), 1 << 20) as channel:
        return await system.call("UnaryUnary", channel=channel)


async def started(pki: TestPki, address: str = f"unix:{NAME}") -> GrpcServer:
    server = echo_server(pki, Echo(), listen=address)
    await server.start()
    return server


async def test_calls_over_the_socket_are_held_to_the_policy(pki: TestPki) -> None:
    server = await started(pki)
    try:
        assert server.port == 0
        assert await answers(pki, server) == ["hello"]
        assert (await refused(answers(pki, server, "tenant")))[1] == "METHOD_DENIED"
    finally:
        await server.stop(0)


def umask() -> int:
    """Gives what is masked of the modes of new files."""
    found = os.umask(0)
    os.umask(found)
    return found


async def test_nobody_else_may_connect(pki: TestPki, tmp_path: Path) -> None:
    before = umask()
    server = await started(pki)
    try:
        mode = (tmp_path / NAME).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert umask() == before
    finally:
        await server.stop(0)


async def test_the_socket_of_a_dead_process_is_replaced(pki: TestPki) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(NAME)
    dead.close()
    server = await started(pki)
    try:
        assert await answers(pki, server) == ["hello"]
    finally:
        await server.stop(0)


async def test_the_socket_of_a_live_process_is_left_to_it(pki: TestPki) -> None:
    server = await started(pki)
    try:
        with pytest.raises(AddressInUse, match="another process listens"):
            await started(pki)
        assert await answers(pki, server) == ["hello"]
    finally:
        await server.stop(0)


async def test_a_live_process_that_takes_no_connections_is_not_pushed_aside(pki: TestPki) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(NAME)
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(NAME)
            with pytest.raises(AddressInUse, match="another process listens"):
                await asyncio.wait_for(started(pki), 20)
        finally:
            for one in waiting:
                one.close()


async def test_what_is_no_socket_is_left_alone(pki: TestPki, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("mine")
    with pytest.raises(AddressInUse, match="no socket"):
        await started(pki)
    assert (tmp_path / NAME).read_text() == "mine"


async def test_a_path_that_is_too_long_is_told_with_its_length(pki: TestPki) -> None:
    with pytest.raises(AddressInUse, match=f"{MAX_PATH_BYTES + 1} bytes"):
        await started(pki, "unix:" + "x" * (MAX_PATH_BYTES + 1))
    server = await started(pki, "unix:" + "x" * MAX_PATH_BYTES)
    await server.stop(0)


@pytest.mark.parametrize("address", ["unix:missing/echo.sock", "unix:"])
async def test_a_socket_that_can_not_be_is_one_sentence(pki: TestPki, address: str) -> None:
    with pytest.raises(AddressInUse, match="Can't listen on"):
        await started(pki, address)
