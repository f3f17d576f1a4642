"""A server in the tenant service's place that keeps what it is asked for and answers as told."""

from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from typer.testing import CliRunner, Result

from redoma.tenant.v1 import api_key_pb2, quota_pb2, tenant_pb2, user_pb2
from redoma_cli.__main__ import build_app

M = TypeVar("M", bound=Message)
FILES = {
    service.full_name: file
    for file in (tenant_pb2, api_key_pb2, user_pb2, quota_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}


@dataclass
class People(grpc.GenericRpcHandler):
    """Answers each method with what `answers` has for its name, else with nothing."""

    home: Path
    port: int = 0
    answers: dict[str, Message] = field(default_factory=dict)
    asked: list[Message] = field(default_factory=list)
    keys: list[str | bytes] = field(default_factory=list)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Serves any unary method of the tenant service's administration."""
        _, service, name = handler_call_details.method.split("/")
        method = FILES[service].DESCRIPTOR.services_by_name[service.rsplit(".", 1)[1]].methods_by_name[name]
        file = FILES[service]
        request_type, response_type = getattr(file, method.input_type.name), getattr(file, method.output_type.name)

        def answer(request: Message, context: grpc.ServicerContext) -> Message:
            self.asked.append(request)
            self.keys += [value for key, value in context.invocation_metadata() if key == "authorization"]
            told: Message = self.answers.get(name, response_type())
            return told

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request_type.FromString, response_serializer=response_type.SerializeToString
        )

    def only(self, kind: type[M]) -> M:
        """Gives the one request of a kind that was asked for."""
        (found,) = [request for request in self.asked if isinstance(request, kind)]
        return found

    def run(self, *arguments: str, is_local: bool = False) -> Result:
        """Runs `redoma` with arguments, against this server unless it is to find it by itself."""
        target = [] if is_local else ["--edge", f"http://127.0.0.1:{self.port}", "--key", "rdm_x"]
        environment = {"REDOMA_HOME": str(self.home), "COLUMNS": "300", "REDOMA_EDGE": "", "REDOMA_API_KEY": ""}
        return CliRunner(env=environment).invoke(build_app(), [*arguments, *target])

    def ok(self, *arguments: str, is_local: bool = False) -> str:
        """Gives what a command prints that must not fail."""
        result = self.run(*arguments, is_local=is_local)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    """Serves while a test runs."""
    people = People(tmp_path / "home")
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), handlers=[people])
    people.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield people
    server.stop(None).wait()
