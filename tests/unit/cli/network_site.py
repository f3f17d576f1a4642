"""A server in the provisioner's place that keeps what it is asked for and answers as told, and networks to tell of."""

from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from typer.testing import CliRunner, Result

from redoma.provisioner.v1 import edge_pb2, network_pb2, operation_pb2
from redoma.provisioner.v1.condition_pb2 import Condition
from redoma.provisioner.v1.site_pb2 import Connector, Driver, Link, Listener, Site
from redoma_cli.__main__ import build_app
from redoma_cli.local.demo import write_demo
from redoma_cli.local.home import Home

M = TypeVar("M", bound=Message)
FILES = {
    service.full_name: file
    for file in (network_pb2, operation_pb2, edge_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}


@dataclass
class Network(grpc.GenericRpcHandler):
    """Answers each method with what `answers` has for its name: a message, or several for a stream."""

    home: Home
    port: int = 0
    answers: dict[str, Message | Sequence[Message]] = field(default_factory=dict)
    failures: dict[str, tuple[grpc.StatusCode, str, str]] = field(default_factory=dict)
    asked: list[Message] = field(default_factory=list)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Serves any method of the provisioner's that operators call."""
        _, service, name = handler_call_details.method.split("/")
        if service not in FILES:
            return None
        file: Any = FILES[service]
        method = file.DESCRIPTOR.services_by_name[service.rsplit(".", 1)[1]].methods_by_name[name]
        request_type, response_type = getattr(file, method.input_type.name), getattr(file, method.output_type.name)

        def hear(request: Message, context: grpc.ServicerContext) -> Message | Sequence[Message]:
            self.asked.append(request)
            if name in self.failures:
                fail(context, *self.failures[name])
            told: Message | Sequence[Message] = self.answers.get(name, response_type())
            return told

        def stream(request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
            told = hear(request, context)
            yield from [told] if isinstance(told, Message) else told

        make: Any = grpc.unary_stream_rpc_method_handler if method.server_streaming else None
        make = make or grpc.unary_unary_rpc_method_handler
        return make(  # type: ignore[no-any-return]
            stream if method.server_streaming else hear,
            request_deserializer=request_type.FromString,
            response_serializer=response_type.SerializeToString,
        )

    def only(self, kind: type[M]) -> M:
        """Gives the one request of a kind that was asked for."""
        (found,) = [request for request in self.asked if isinstance(request, kind)]
        return found

    def run(self, *arguments: str, columns: int = 300, is_local: bool = False, typed: str = "") -> Result:
        """Runs `redoma` with arguments, against this server unless it is to find it by itself."""
        target = [] if is_local else ["--edge", f"http://127.0.0.1:{self.port}", "--key", "rdm_x"]
        environment = {"REDOMA_HOME": str(self.home.root), "COLUMNS": str(columns), "REDOMA_EDGE": ""}
        environment |= {"REDOMA_API_KEY": "", "REDOMA_VAN_ADDRESS": "", "REDOMA_PORT": "", "REDOMA_VAN_PORT": ""}
        return CliRunner(env=environment).invoke(build_app(), [*arguments, *target], input=typed)

    def ok(self, *arguments: str, is_local: bool = False) -> str:
        """Gives what a command prints that must not fail."""
        result = self.run(*arguments, is_local=is_local)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def settle(self) -> None:
        """Makes this server the edge of the home's own public site."""
        write_demo(self.home, f"http://127.0.0.1:{self.port}", "rdm_admin", [("acme", "rdm_a")])


def fail(context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, message: str) -> None:
    """Ends a call with a reason."""
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain="redoma", reason=reason))
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Serves while a test runs."""
    home = Home(tmp_path / "home")
    home.create()
    network = Network(home)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=[network])
    network.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield network
    server.stop(None).wait()


def at(minutes_ago: float = 0) -> Timestamp:
    """Gives a time some minutes ago."""
    return Timestamp(seconds=int(datetime.now(UTC).timestamp() - minutes_ago * 60))


def said(kind: str, holds: bool, reason: str = "Fine", message: str = "", minutes_ago: float = 10) -> Condition:
    """Makes a condition."""
    status = Condition.STATUS_TRUE if holds else Condition.STATUS_FALSE
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=at(minutes_ago))


def one_site(
    name: str = "private", linked: bool = True, state: "Site.State.ValueType" = Site.STATE_JOINED, why: str = ""
) -> network_pb2.WatchNetworkResponse:
    """Gives a network of the public site and one private site with a model."""
    reason = "Fine" if linked else "NoTunnels"
    site = Site(
        name=f"sites/{name}",
        state=state,
        driver=Driver.DRIVER_EMBEDDED,
        conditions=[said("Joined", True), said("Linked", linked, reason, "" if linked else "No call gets through.")],
        last_seen_time=at(1),
    )
    link = Link(
        name=f"sites/{name}/links/tunnels",
        driver=Driver.DRIVER_EMBEDDED,
        conditions=[said("Configured", True), said("Operational", linked, reason, why)],
        tunnels=4 if linked else 0,
    )
    key = f"{name}.model-0"
    connector = Connector(name=f"sites/{name}/connectors/model-0", routing_key=key, conditions=[said("Matched", True)])
    listener = Listener(name=f"listeners/{key}", routing_key=key, site=site.name, conditions=[said("Matched", True)])
    return network_pb2.WatchNetworkResponse(
        sites=[Site(name="sites/public", state=Site.STATE_JOINED), site],
        links=[link],
        listeners=[listener],
        connectors=[connector],
    )
