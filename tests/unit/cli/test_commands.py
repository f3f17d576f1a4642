"""What commands make of what a person types, and of calls that fail."""

import errno
from concurrent import futures
from datetime import timedelta

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.tenant.v1.api_key_pb2 import ApiKey
from redoma.tenant.v1.tenant_pb2 import ListTenantsRequest
from redoma_cli.client import EdgeClient
from redoma_cli.commands.durations import parse_duration, short_duration
from redoma_cli.commands.key import key_resource
from redoma_cli.commands.keys import key_id
from redoma_cli.errors import MENDS_BY_REASON, VAN_MENDS, CliError, error_from_os


class Refusing(grpc.GenericRpcHandler):
    """Ends every call with one status, and keeps the credentials it was called with."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status
        self.credentials: list[str | bytes] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Serves any method."""

        def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.credentials += [value for key, value in context.invocation_metadata() if key == "authorization"]
            context.set_trailing_metadata((("grpc-status-details-bin", self.status.SerializeToString()),))
            code = next(code for code in grpc.StatusCode if code.value[0] == self.status.code)
            context.abort(code, self.status.message)
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(refuse)


def failure(reason: str, code: int, message: str, **metadata: str) -> CliError:
    """Gives what is told of a call that a server refused so."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(domain="redoma", reason=reason, metadata=metadata))
    handler = Refusing(status_pb2.Status(code=code, message=message, details=[detail] if reason else []))
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with EdgeClient(f"http://127.0.0.1:{port}", "k") as client, pytest.raises(CliError) as told, client.telling():
            client.tenants.ListTenants(ListTenantsRequest(), timeout=60)
    finally:
        server.stop(None)
    assert handler.credentials == ["Bearer k"]
    return told.value


def test_refused_call_is_told_with_the_mend_for_its_reason() -> None:
    error = failure("TENANT_DISABLED", 7, "Tenant acme is disabled.")
    assert error.message == "Tenant acme is disabled."
    assert "redoma tenant enable" in error.mend
    error = failure("INTERNAL", 13, "Something went wrong.", request_id="0198")
    assert "0198" in error.message
    assert failure("", 16, "No.").mend == MENDS_BY_REASON["CREDENTIAL_INVALID"]


def test_unreachable_edge_is_told_with_its_address() -> None:
    no_edge = pytest.raises(CliError, match=r"127\.0\.0\.1:1")
    with EdgeClient("http://127.0.0.1:1", "k") as client, no_edge as told, client.telling():
        client.tenants.ListTenants(ListTenantsRequest(), timeout=60)
    assert "redoma up" in told.value.mend


def test_every_mend_is_for_a_documented_reason() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118
    assert MENDS_BY_REASON.keys() | VAN_MENDS.keys() <= reasons


@pytest.mark.parametrize("edge", ["ftp://x", "http://", "http:///path"])
def test_url_that_is_no_edge_is_refused(edge: str) -> None:
    with pytest.raises(CliError, match="not the URL of an edge"):
        EdgeClient(edge, "k")


def test_full_disk_is_told_with_its_mend() -> None:
    error = error_from_os(OSError(errno.ENOSPC, "No space left on device", "/x"))
    assert error.message == "No space left on device (/x)."
    assert "REDOMA_HOME" in error.mend


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2), ("90m", 5_400), ("12h", 43_200), ("30d", 2_592_000)])
def test_durations_are_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "d", "0d", "-1d", "1.5h", "30", "1y", "²d", "999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="not a duration"):
        parse_duration(text)


def test_keys_are_named_with_their_tenant() -> None:
    name = "tenants/acme/apiKeys/01"
    assert key_id(ApiKey(name=name)) == "acme/01"
    assert key_resource("acme/01") == name
    assert key_resource(name) == name
    for text in ("01", "acme/", "/01", "tenants/acme/keys/01"):
        with pytest.raises(CliError):
            key_resource(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")]
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text
