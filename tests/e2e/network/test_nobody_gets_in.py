"""A private site listens nowhere, nobody dials into it, and nobody on the way reads what is said."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from redoma.common.v1 import sampling_pb2
from redoma.model.v1 import model_pb2, model_pb2_grpc
from tests.e2e.network.conftest import Van
from tests.e2e.network.namespaces import HERE, PUBLIC
from tests.e2e.network.streams import ask, call_metadata, until_answered

if TYPE_CHECKING:
    # grpcio's classes take type arguments in its stubs alone.
    Method = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
MARKER = "the patient of bed seventeen"
LISTEN = (
    "import socket; server = socket.create_server(('0.0.0.0', 9000)); print('listening', flush=True);"
    "[server.accept() for _ in range(99)]"
)
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 9000), 1.5)"
SHOUT = "import socket, sys; socket.socket(type=socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), (sys.argv[1], 9))"


@contextmanager
def background(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Runs a program that says so when it is ready, until the block ends."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "listening"
            yield process
        finally:
            process.terminate()
            process.wait(10)


async def test_each_site_answers_under_its_own_routing_key(van: Van, calls: grpc.aio.Channel) -> None:
    for site in (van.a, van.b):
        answer, _ = await until_answered(calls, van.pki, site.model_key)
        assert answer.model == f"model-of-{site.name}"


@pytest.mark.parametrize("option", ["-t", "-u"])
def test_a_private_site_listens_on_no_port(van: Van, option: str) -> None:
    for site in (van.a, van.b):
        assert van.network.run(site.namespace, "ss", "-H", "-l", "-n", option).stdout == ""
    seen = van.network.run(van.network.public, "ss", "-H", "-l", "-n", "-t").stdout
    assert ":7443" in seen, "this would see a listening port"


def test_nobody_dials_into_a_private_site(van: Van) -> None:
    site = van.a
    inside, own = van.network.inside, van.network.address(site.name)
    with background(inside(site.namespace, [sys.executable, "-c", LISTEN])):
        from_inside = van.network.run(site.namespace, sys.executable, "-c", CONNECT, own, check=False)
        from_outside = van.network.run(van.network.public, sys.executable, "-c", CONNECT, own, check=False)
    assert from_inside.returncode == 0
    assert "TimeoutError" in from_outside.stderr


async def test_nobody_on_the_way_reads_a_prompt_or_who_asks(van: Van, calls: grpc.aio.Channel, tmp_path: Path) -> None:
    capture = tmp_path / "frames"
    sniffer = van.network.inside(van.network.gateway, [sys.executable, str(HERE / "sniffer.py"), str(capture)])
    prompt = model_pb2.Message(role=model_pb2.ROLE_USER, content=f"{MARKER}, " * 50)
    request = model_pb2.GenerateRequest(
        messages=[prompt], sampling=sampling_pb2.SamplingOptions(max_output_tokens=8, temperature=0.0)
    )
    with background(sniffer):
        stub = model_pb2_grpc.ModelServiceStub(calls)
        metadata = call_metadata(van.pki, van.a.model_key, {"x-marker": MARKER * 20})
        events = [event async for event in stub.Generate(request, metadata=metadata, timeout=60)]
        van.network.run(van.a.namespace, sys.executable, "-c", SHOUT, PUBLIC, "heard in the clear")
    assert events[-1].WhichOneof("event") == "done"
    frames = capture.read_bytes()
    assert b"heard in the clear" in frames, "the sniffer hears what is not encrypted"
    assert len(frames) > 4_000, "the sniffer hears the call"
    for secret in (MARKER, "model-0", "GetModel", "Generate", "redoma-identity", "spiffe://"):
        assert secret.encode() not in frames, secret


async def test_a_caller_can_not_choose_another_site_by_its_own_headers(van: Van, calls: grpc.aio.Channel) -> None:
    forged = {
        "x-node-id": van.b.name,
        "redoma-flush-site": van.b.name,
        "x-forwarded-client-cert": "URI=spiffe://redoma/public/provisioner",
    }
    answer = await ask(calls, van.pki, van.a.model_key, more=forged)
    assert answer.model == f"model-of-{van.a.name}"


async def test_only_the_provisioner_may_close_tunnels(van: Van, calls: grpc.aio.Channel) -> None:
    flush: Method = calls.unary_unary("/redoma.egress/Flush")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await flush(b"", metadata=(("redoma-flush-site", van.a.name),), timeout=5)
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
