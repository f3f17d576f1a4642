"""What the edge lets in, what it takes off, and what its errors look like: a real Envoy, a real client."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc, openai_pb2
from redoma.model.v1 import engine_pb2, engine_pb2_grpc, model_pb2
from redoma.provisioner.v1 import edge_pb2, network_pb2, operation_pb2
from redoma.tenant.v1 import api_key_pb2, audit_pb2, privacy_pb2, quota_pb2, tenant_pb2, usage_pb2, user_pb2
from redoma_cli.local.pki import DevelopmentAuthority
from redoma_provisioner.edge.resources.api import edge_methods
from redoma_provisioner.edge.resources.edge_filters import MAX_REQUEST_BYTES
from redoma_provisioner.edge.resources.names import MODEL_HEALTH_SERVICE
from tests.fakes.static_edge import static_edge
from tests.unit.cli.edge_site import EMBEDDING_PIECE_BYTES, EMBEDDING_PIECES, GENEROUS_S, USED_UP, Edge, envoy_binary

# MeterService, ContentService and ModelService are between services only.
PUBLIC_FILES = (
    *(conversation_pb2, message_pb2, openai_pb2, engine_pb2, tenant_pb2, user_pb2),
    *(api_key_pb2, quota_pb2, usage_pb2, audit_pb2, privacy_pb2),
    *(network_pb2, operation_pb2, edge_pb2),
)
GOOD = {"authorization": "Bearer good"}
JSON = {"content-type": "application/json"}


def ask(
    edge: Edge, verb: str, path: str, headers: Mapping[str, str] = GOOD, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Sends one HTTP/1 request and gives status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=GENEROUS_S)
    try:
        # A server may answer before it has read the whole body, and then hang up.
        with contextlib.suppress(ConnectionError):
            connection.request(verb, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def await_ready(edge: Edge, status: int = 200) -> None:
    """Returns once /readyz gives `status`."""
    for _ in range(300):
        if ask(edge, "GET", "/readyz", {})[0] == status:
            return
        assert not edge.envoy.ended(0.1)
    pytest.fail(f"/readyz never gave {status}")


def test_allowlist_is_exactly_the_public_methods() -> None:
    expected = {
        f"/{service.full_name}/{method.name}"
        for file in PUBLIC_FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    expected -= {f"/redoma.tenant.v1.TenantService/{name}" for name in ("GetContentChecks", "ListContentPolicies")}
    expected -= {f"/redoma.provisioner.v1.NetworkService/{name}" for name in ("RedeemLinkGrant", "WatchReplicas")}
    assert {method.path for method in edge_methods()} == expected
    rest = {(rule.verb, rule.template) for method in edge_methods() for rule in method.rest}
    assert rest == {
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model}"),
        ("POST", "/ask"),
    }


@pytest.mark.parametrize("reflection", [False, True])
def test_envoy_accepts_the_configuration(authority: DevelopmentAuthority, tmp_path: Path, reflection: bool) -> None:
    origins = ("https://chat.example.com",)
    config = static_edge(1, {}, authority.identity("edge"), "admin.sock", 1.5, origins=origins, reflection=reflection)
    file = tmp_path / "envoy.json"
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=GENEROUS_S,
    )
    assert done.returncode == 0, done.stderr
    assert ("grpc.reflection" in json.dumps(config)) is reflection


def test_health_needs_no_key_and_readiness_follows_each_service(edge: Edge) -> None:
    assert ask(edge, "GET", "/healthz", {})[0::2] == (200, b"ok\n")
    await_ready(edge)
    edge.health.set(MODEL_HEALTH_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    await_ready(edge, 503)
    edge.health.set(MODEL_HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    await_ready(edge)
    assert not edge.services.asked


def test_client_sent_identity_never_passes_and_the_credential_stops_here(edge: Edge) -> None:
    await_ready(edge)
    forged = {
        "redoma-identity": "forged",
        "x-node-id": "forged",
        "x-forwarded-client-cert": "forged",
        "redoma-openai-error": "forged",
        "x-api-key": "spare",
        "x-request-id": "mine",
    }
    status, headers, body = ask(edge, "GET", "/v1/models", GOOD | forged)
    assert (status, body) == (200, b'{"object":"list"}')
    assert headers["x-request-id"] == "mine"
    (seen,) = edge.services.seen
    assert seen["redoma-identity"] == "signed"
    assert seen["x-request-id"] == "mine"
    assert (
        not {"authorization", "x-api-key", "x-node-id", "x-forwarded-client-cert", "redoma-openai-error"} & seen.keys()
    )
    (asked,) = edge.services.asked
    assert "forged" not in asked.values()


def test_grpc_and_grpc_web_pass_and_unknown_methods_do_not(edge: Edge) -> None:
    await_ready(edge)
    with grpc.insecure_channel(edge.address) as channel:
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        metadata = (("authorization", "Bearer good"),)
        answer = stub.ListConversations(
            conversation_pb2.ListConversationsRequest(), metadata=metadata, timeout=GENEROUS_S
        )
        assert answer.next_page_token == "seen"
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListConversations(conversation_pb2.ListConversationsRequest(), timeout=GENEROUS_S)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for path in (
            "/redoma.tenant.v1.TenantService/GetContentChecks",
            "/redoma.model.v1.ModelService/Generate",
            "/envoy.service.auth.v3.Authorization/Check",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ):
            with pytest.raises(grpc.RpcError) as unknown:
                call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path, bytes, bytes)
                call(b"", metadata=metadata, timeout=GENEROUS_S)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED, path
    web = GOOD | {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": "http://localhost:5173"}
    path = "/redoma.chat.v1.ConversationService/ListConversations"
    status, headers, body = ask(edge, "POST", path, web, b"\0\0\0\0\0")
    assert status == 200
    assert b"seen" in body and b"grpc-status:0" in body
    assert headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "grpc-status-details-bin" in headers["access-control-expose-headers"]
    for content_type in ("application/grpc-web+json", "application/grpc-web2", "application/json"):
        assert ask(edge, "POST", path, web | {"content-type": content_type}, b"{}")[0] == 404
    status, headers, _ = ask(edge, "POST", path, web | {"authorization": "Bearer bad"}, b"\0\0\0\0\0")
    assert (status, headers["grpc-status"]) == (200, "16")


def test_operators_reach_the_engine_and_nobody_the_model(edge: Edge) -> None:
    await_ready(edge)
    metadata = (("authorization", "Bearer good"),)
    with grpc.insecure_channel(edge.address) as channel:
        stub = engine_pb2_grpc.EngineServiceStub(channel)
        request = engine_pb2.GetEngineStateRequest()
        answer = stub.GetEngineState(request, metadata=metadata, timeout=GENEROUS_S, wait_for_ready=True)
        assert answer.state.dedicated_tenant == "seen"
        assert edge.services.seen[-1]["redoma-identity"] == "signed"
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetEngineState(request, timeout=GENEROUS_S)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        asked = len(edge.services.asked)
        for method in model_pb2.DESCRIPTOR.services_by_name["ModelService"].methods:
            path = f"/redoma.model.v1.ModelService/{method.name}"
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path, bytes, bytes)
            with pytest.raises(grpc.RpcError) as unknown:
                call(b"", metadata=metadata, timeout=GENEROUS_S)
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED, path
        assert len(edge.services.asked) == asked


def test_preflight_needs_no_key_and_strange_origins_get_no_leave(edge: Edge) -> None:
    preflight = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,grpc-timeout",
    }
    path = "/redoma.chat.v1.ChatService/SendMessage"
    status, headers, _ = ask(edge, "OPTIONS", path, preflight | {"origin": "http://localhost:5173"})
    assert (status, headers["access-control-allow-origin"]) == (200, "http://localhost:5173")
    assert "authorization" in headers["access-control-allow-headers"]
    for origin in ("http://localhost.evil.example", "http://evil.example"):
        _, headers, _ = ask(edge, "OPTIONS", path, preflight | {"origin": origin})
        assert "access-control-allow-origin" not in headers
    assert not edge.services.asked


@pytest.mark.parametrize("early", [False, True], ids=["trailers only", "after headers"])
def test_error_prepared_by_the_service_replaces_the_body(edge: Edge, early: bool) -> None:
    await_ready(edge)
    body = json.dumps({"fail": True, "early": early}).encode()
    status, headers, answer = ask(edge, "POST", "/v1/chat/completions", GOOD | JSON, body)
    assert status == 400
    assert json.loads(answer)["error"] == {
        "message": '50% "too long" é\n',
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    assert "redoma-openai-error" not in headers
    assert headers["content-type"] == "application/json"


def test_every_other_error_of_openai_paths_has_openai_shape(edge: Edge) -> None:
    await_ready(edge)
    status, _, answer = ask(edge, "GET", "/v1/models/nope")
    error = json.loads(answer)["error"]
    assert (status, error["message"], error["code"]) == (404, 'No model "nope"\n\\ é', "model_not_found")
    for path in ("/", "/v1", "/v1/nothing", "/ask/", "/elsewhere", "/redoma.model.v1.ModelService/Generate"):
        status, headers, answer = ask(edge, "GET", path, {})
        assert (status, json.loads(answer)["error"]["code"]) == (404, "unknown_url"), path
        assert headers["content-type"] == "application/json"
    for verb, path, allowed in (
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("POST", "/v1/models/any", "GET"),
        ("GET", "/ask", "POST"),
    ):
        status, headers, answer = ask(edge, verb, path, {})
        assert (status, json.loads(answer)["error"]["code"]) == (405, "method_not_allowed"), path
        assert (headers["allow"], headers["content-type"]) == (allowed, "application/json")
    status, _, answer = ask(edge, "GET", "/v1/models", {})
    assert (status, json.loads(answer)["error"]["type"]) == (401, "mine")
    status, _, answer = ask(edge, "GET", "/v1/models/" + "x" * 3_000)
    assert (status, json.loads(answer)["error"]["code"]) == (414, "url_too_long")


def exchange(edge: Edge, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes that no client library would and gives status, headers and body."""
    with socket.create_connection(("127.0.0.1", edge.port), GENEROUS_S) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /v1/models%00 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.1\r\n\r\n", 400),
        ("POST /ask HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /v1/models HTTP/1.0\r\n\r\n", 426),
        ("GET /v1/models HTTP/1.1\r\nhost: x\r\n" + "x: y\r\n" * 200 + "\r\n", 431),
        ("GET /v1/models HTTP/1.1\r\nhost: x\r\nx: " + "y" * 100_000 + "\r\n\r\n", 431),
        ("POST /ask HTTP/1.1\r\nhost: x\r\ntransfer-encoding: strange\r\n\r\n", 501),
    ],
    ids=["nul", "no host", "smuggling", "HTTP/1.0", "many headers", "long header", "transfer encoding"],
)
def test_request_that_no_filter_sees_gets_openais_shape(edge: Edge, request_text: str, status: int) -> None:
    found, headers, answer = exchange(edge, request_text.encode())
    assert (found, json.loads(answer)["error"]["code"]) == (status, "malformed_request")
    assert headers["content-type"] == "application/json"
    assert not edge.services.asked


@pytest.mark.parametrize(
    "headers",
    [
        {f"x-{index}": "y" for index in range(90)},
        {"cookie": "c" * 30_000},
        {"user-agent": "u" * 30_000},
        {"any-bin": "no base64"},
        {"grpc-timeout": "-1S"},
        {"grpc-timeout": "9" * 20 + "H"},
        {"x-forwarded-for": "192.0.2.1", "x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-original-path": "/healthz"},
    ],
    ids=["many", "cookies", "user agent", "binary", "negative timeout", "huge timeout", "envoy's"],
)
def test_header_that_no_service_reads_stops_at_the_edge(edge: Edge, headers: dict[str, str]) -> None:
    await_ready(edge)
    status, _, answer = ask(edge, "GET", "/v1/models", GOOD | headers)
    assert (status, answer) == (200, b'{"object":"list"}')
    (seen,) = edge.services.seen
    for name in headers.keys() - {"user-agent"}:
        assert seen.get(name) != headers[name], name


def test_grpc_callers_get_no_json(edge: Edge) -> None:
    await_ready(edge)
    edge.tenant.stop(None).wait(GENEROUS_S)
    with grpc.insecure_channel(edge.address) as channel:
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListConversations(conversation_pb2.ListConversationsRequest(), timeout=GENEROUS_S)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(refused.value) == ("SERVICE_UNREACHABLE", {}, 1.0)
    assert refused.value.details() == "The service is not available now. Try again in a moment."


@pytest.mark.parametrize("early", [False, True], ids=["trailers only", "after headers"])
def test_retry_after_of_the_service_reaches_rest_callers(edge: Edge, early: bool) -> None:
    await_ready(edge)
    body = json.dumps({"full": True, "early": early}).encode()
    status, headers, answer = ask(edge, "POST", "/v1/chat/completions", GOOD | JSON, body)
    assert (status, headers["retry-after"]) == (429, "7")
    assert json.loads(answer)["error"]["code"] == "queue_full"


@pytest.mark.parametrize("early", [False, True], ids=["trailers only", "after headers"])
def test_what_is_used_up_says_so_in_headers_and_not_to_come_back(edge: Edge, early: bool) -> None:
    await_ready(edge)
    body = json.dumps({"used_up": True, "early": early}).encode()
    status, headers, answer = ask(edge, "POST", "/v1/chat/completions", GOOD | JSON, body)
    assert (status, json.loads(answer)["error"]["code"]) == (429, "insufficient_quota")
    assert USED_UP.items() <= headers.items()
    assert "retry-after" not in headers


def test_large_bodies_are_refused_and_allowed_ones_pass_whole(edge: Edge) -> None:
    await_ready(edge)
    fits = b"x" * (MAX_REQUEST_BYTES - 64)
    status, _, answer = ask(edge, "POST", "/ask", GOOD | JSON, fits)
    assert (status, json.loads(answer)) == (200, {"answer": len(fits)})
    status, headers, answer = ask(edge, "POST", "/ask", GOOD | JSON, b"x" * (20 << 20))
    assert (status, json.loads(answer)["error"]["code"]) == (413, "request_too_large")
    assert headers["content-type"] == "application/json"
    with grpc.insecure_channel(edge.address) as channel:
        stub = message_pb2_grpc.ChatServiceStub(channel)
        request = message_pb2.SendMessageRequest(content="x" * (MAX_REQUEST_BYTES + 1))
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.SendMessage(request, metadata=(("authorization", "Bearer good"),), timeout=GENEROUS_S))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(refused.value) == ("REQUEST_TOO_LARGE", {"limit_bytes": "4194304"}, None)


def test_embeddings_larger_than_any_message_pass_whole(edge: Edge) -> None:
    await_ready(edge)
    status, headers, answer = ask(edge, "POST", "/v1/embeddings", GOOD | JSON, b"{}")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert len(json.loads(answer)["data"]) == EMBEDDING_PIECES * EMBEDDING_PIECE_BYTES > 2 * MAX_REQUEST_BYTES


def test_what_an_operator_ended_is_a_conflict_that_clients_try_again(edge: Edge) -> None:
    await_ready(edge)
    status, _, answer = ask(edge, "POST", "/v1/embeddings", GOOD | JSON, b'{"purge": true}')
    assert (status, json.loads(answer)["error"]["code"]) == (409, "tenant_purged")


def test_stream_is_not_held_back_and_ends_when_the_client_leaves(edge: Edge) -> None:
    await_ready(edge)
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=GENEROUS_S)
    connection.request("POST", "/v1/chat/completions", body=b"{}", headers=GOOD | JSON)
    response = connection.getresponse()
    assert response.read(9) == b"data: 1\n\n"
    assert response.getheader("content-type") == "text/event-stream"
    edge.services.go_on.set_result(None)
    assert response.read() == b"data: [DONE]\n\n"
    connection.close()


def test_deadline_of_the_client_ends_the_stream(edge: Edge) -> None:
    await_ready(edge)
    with grpc.insecure_channel(edge.address) as channel:
        stub = message_pb2_grpc.ChatServiceStub(channel)
        call = stub.SendMessage(
            message_pb2.SendMessageRequest(), metadata=(("authorization", "Bearer good"),), timeout=2
        )
        with pytest.raises(grpc.RpcError) as ended:
            list(call)
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # The service knows it, so that it can refuse what can't be done in time.
    (remaining_s,) = edge.services.remaining_s
    assert remaining_s is not None
    assert 0 < remaining_s <= 2


def test_edge_fails_closed_when_the_tenant_service_is_gone(edge: Edge) -> None:
    await_ready(edge)
    edge.tenant.stop(None).wait(GENEROUS_S)
    status, headers, answer = ask(edge, "GET", "/v1/models")
    assert (status, json.loads(answer)["error"]["code"]) == (503, "unavailable")
    assert headers["retry-after"] == "1"
    assert not edge.services.seen


def test_drained_edge_lets_the_running_stream_finish_and_takes_no_new_call(edge: Edge) -> None:
    await_ready(edge)
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=GENEROUS_S)
    connection.request("POST", "/v1/chat/completions", body=b"{}", headers=GOOD | JSON)
    response = connection.getresponse()
    assert response.read(9) == b"data: 1\n\n"
    edge.admin.request("POST", "/healthcheck/fail")
    edge.admin.request("POST", "/drain_listeners")
    assert edge.admin.active_requests() == 1
    for _ in range(300):
        try:
            http.client.HTTPConnection("127.0.0.1", edge.port, timeout=GENEROUS_S).connect()
        except ConnectionRefusedError:
            break
        edge.envoy.ended(0.1)
    else:
        pytest.fail("the port stayed open")
    edge.services.go_on.set_result(None)
    assert response.read() == b"data: [DONE]\n\n"
    connection.close()


def test_access_log_holds_no_query_and_no_credential(edge: Edge) -> None:
    await_ready(edge)
    ask(edge, "GET", "/v1/models?secret=word")
    edge.envoy.send(signal.SIGTERM)
    assert edge.envoy.ended(GENEROUS_S)
    lines = [json.loads(line) for line in edge.log.read_text().splitlines() if line.startswith("{")]
    (entry,) = [line for line in lines if line["path"] == "/v1/models"]
    assert (entry["verb"], entry["status"]) == ("GET", 200)
    assert "word" not in edge.log.read_text() and "good" not in edge.log.read_text()


def test_access_log_holds_no_key_that_a_client_put_in_a_wrong_place(edge: Edge) -> None:
    key = "rdm_abcdefgh_" + "s" * 43
    await_ready(edge)
    for path in (f"/v1/models/{key}", f"/{key}", f"/v1/models/x?{key}"):
        ask(edge, "GET", path, {**GOOD, "x-request-id": key})
    edge.envoy.send(signal.SIGTERM)
    assert edge.envoy.ended(GENEROUS_S)
    assert "/v1/models/rdm_abcdefgh..." in edge.log.read_text()
    assert key[13:] not in edge.log.read_text()


def reason_of(error: grpc.RpcError) -> tuple[str, dict[str, str], float | None]:
    """Gives reason, metadata and retry delay of a status that the edge itself made."""
    assert isinstance(error, grpc.Call)
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details if isinstance(details, bytes) else details.encode())
    info, delay_s = error_details_pb2.ErrorInfo(), None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        else:
            delay_s = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToMilliseconds() / 1000
    return info.reason, dict(info.metadata), delay_s
