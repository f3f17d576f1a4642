"""`redoma privacy`: what it sends and writes, and that nothing half-written is left."""

from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from redoma.tenant.v1 import privacy_pb2 as pb
from redoma.tenant.v1 import privacy_pb2_grpc
from redoma_cli.__main__ import build_app

NAME = f"tenants/acme/erasures/{'3f' * 16}"
AT = Timestamp(seconds=1_750_000_000)


class Privacy(privacy_pb2_grpc.PrivacyServiceServicer):
    """Plays the tenant service: an erasure is complete when it was asked for twice."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.breaks = False

    def ExportData(
        self, request: pb.ExportDataRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportDataResponse]:
        self.asked.append(request)
        yield pb.ExportDataResponse(data=b"PK")
        if self.breaks:
            context.abort(grpc.StatusCode.UNAVAILABLE, "The chat service does not answer right now; try again.")
        yield pb.ExportDataResponse(data=b"...")

    def EraseData(self, request: pb.EraseDataRequest, context: grpc.ServicerContext) -> pb.EraseDataResponse:
        self.asked.append(request)
        return pb.EraseDataResponse(erasure=self.erasure())

    def GetErasure(self, request: pb.GetErasureRequest, context: grpc.ServicerContext) -> pb.GetErasureResponse:
        self.asked.append(request)
        return pb.GetErasureResponse(erasure=self.erasure(complete=not self.breaks))

    def ListErasures(self, request: pb.ListErasuresRequest, context: grpc.ServicerContext) -> pb.ListErasuresResponse:
        self.asked.append(request)
        return pb.ListErasuresResponse(erasures=[self.erasure()])

    def erasure(self, complete: bool = False) -> pb.Erasure:
        if not complete:
            steps = [pb.ErasureStep(place="chat", problem="It is away.")]
            return pb.Erasure(name=NAME, state=pb.Erasure.STATE_PENDING, steps=steps)
        step = pb.ErasureStep(place="chat", acknowledge_time=AT, erased={"conversations": 12})
        return pb.Erasure(name=NAME, state=pb.Erasure.STATE_COMPLETE, steps=[step], certificate="a.b.c")


@pytest.fixture
def privacy() -> Iterator[Privacy]:
    servicer = Privacy()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    privacy_pb2_grpc.add_PrivacyServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")  # type: ignore[attr-defined]
    server.start()
    yield servicer
    server.stop(None).wait()


def run(privacy: Privacy, *arguments: str) -> Result:
    edge = f"http://127.0.0.1:{privacy.port}"  # type: ignore[attr-defined]
    return CliRunner().invoke(build_app(), ["privacy", *arguments, "--edge", edge, "--key", "rdm_x"])


def test_an_export_is_written_whole(privacy: Privacy, tmp_path: Path) -> None:
    target = tmp_path / "acme.zip"
    result = run(privacy, "export", "acme", "--principal", "users/jo", "--output", str(target))
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == b"PK..."
    assert privacy.asked == [pb.ExportDataRequest(parent="tenants/acme", principal="tenants/acme/users/jo")]


def test_an_export_that_breaks_leaves_no_file(privacy: Privacy, tmp_path: Path) -> None:
    privacy.breaks = True
    result = run(privacy, "export", "acme", "--output", str(tmp_path / "acme.zip"))
    assert result.exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_an_export_overwrites_nothing(privacy: Privacy, tmp_path: Path) -> None:
    target = tmp_path / "acme.zip"
    target.write_bytes(b"kept")
    assert run(privacy, "export", "acme", "--output", str(target)).exit_code != 0
    assert target.read_bytes() == b"kept"
    assert privacy.asked == []


def test_nothing_is_erased_without_a_yes(privacy: Privacy) -> None:
    result = run(privacy, "erase", "acme")
    assert result.exit_code != 0
    assert privacy.asked == []


def test_an_erasure_is_waited_for(privacy: Privacy) -> None:
    result = run(privacy, "erase", "acme", "--yes", "--purpose", "ticket 4711")
    assert result.exit_code == 0, result.output
    assert privacy.asked[0] == pb.EraseDataRequest(parent="tenants/acme", purpose="ticket 4711")
    assert privacy.asked[1] == pb.GetErasureRequest(name=NAME)
    assert "12 conversations" in result.output


def test_a_certificate_is_printed_alone(privacy: Privacy) -> None:
    result = run(privacy, "certificate", f"acme/{'3f' * 16}")
    assert (result.exit_code, result.stdout) == (0, "a.b.c\n")


def test_what_is_pending_has_no_certificate(privacy: Privacy) -> None:
    privacy.breaks = True
    result = run(privacy, "certificate", NAME)
    assert result.exit_code != 0
    assert "waits for chat" in str(result.exception)


def test_the_list_says_what_an_erasure_waits_for(privacy: Privacy) -> None:
    result = run(privacy, "list", "acme")
    assert result.exit_code == 0, result.output
    assert f"acme/{'3f' * 16}" in result.stdout
    assert "pending" in result.stdout
    assert "chat" in result.stdout
