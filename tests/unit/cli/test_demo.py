"""The demo tenants' keys, kept while they work: also on a public site that no private one is linked to."""

from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from redoma_cli.client import read_demo
from redoma_cli.local.demo import ensure_demo, write_demo
from redoma_cli.local.home import Home
from tests.unit.cli.network_site import fail


class Edge(grpc.GenericRpcHandler):
    """Refuses each call for one reason, and notes which were made."""

    def __init__(self) -> None:
        self.reason = ""
        self.code = grpc.StatusCode.UNAVAILABLE
        self.called: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Serves any method."""
        self.called.append(handler_call_details.method.rsplit("/", 1)[1])

        def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
            fail(context, self.code, self.reason, "no")
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def refusing(home: Home) -> Iterator[tuple[Edge, str]]:
    """An edge, and its URL."""
    edge = Edge()
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[edge])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield edge, f"http://127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize("reason", ["MODEL_UNREACHABLE", "MODEL_LOADING"])
def test_keys_are_kept_while_no_model_is_linked(home: Home, refusing: tuple[Edge, str], reason: str) -> None:
    edge, url = refusing
    edge.reason = reason
    write_demo(home, url, "rdm_admin", [("acme", "rdm_a"), ("globex", "rdm_g")])
    assert ensure_demo(home, url, "rdm_admin") == []
    kept = read_demo(home)
    assert kept is not None
    assert kept.api_keys == {"acme": "rdm_a", "globex": "rdm_g"}
    assert edge.called == ["ListModels", "ListModels"]
