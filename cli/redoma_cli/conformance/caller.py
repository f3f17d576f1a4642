"""Calls the edge with one credential, or with none, over gRPC, grpc-web and REST."""

import asyncio
import json
from collections.abc import Mapping
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from redoma_cli.conformance.answer import OK, SLOWED, Answer, error_answer, grpc_answer, http_answer
from redoma_cli.conformance.check import Skipped, Unclear
from redoma_cli.conformance.edge import Edge
from redoma_cli.conformance.grpc_web import GRPC_WEB, read_grpc_web, write_grpc_web
from redoma_cli.conformance.http_client import Headers

CALL_TIMEOUT_S = 30.0
# How long a caller with a good key waits for his address to be trusted again.
SLOWED_TRIES, LONGEST_SLOWED_S = 5, 20.0
M = TypeVar("M", bound=Message)


def path_of(request: Message) -> str:
    """Gives the path of the one method that takes such a request."""
    for service in request.DESCRIPTOR.file.services_by_name.values():
        for method in service.methods:
            if method.input_type is request.DESCRIPTOR:
                return f"/{service.full_name}/{method.name}"
    raise ValueError(f"No method takes {request.DESCRIPTOR.full_name}.")


class Caller:
    """Someone who calls.

    Attributes:
        edge: Where.
        key: With which API key; empty is none.
        channel: His gRPC channel.
    """

    def __init__(self, edge: Edge, key: str) -> None:
        self.edge = edge
        self.key = key
        self.channel = edge.channel()
        self._http = edge.http()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each of his calls."""
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()

    async def close(self) -> None:
        """Closes the channel."""
        await self.channel.close()

    async def ask(self, request: Message, headers: Headers = (), *, path: str = "", patient: bool = False) -> Answer:
        """Calls the method that takes `request`, or the one at `path`, and says how it ended; it never raises.

        With `patient` a call that is refused since the address sent bad credentials is made again later.
        """
        for _ in range(SLOWED_TRIES):
            answer = await self._ask(request, headers, path or path_of(request))
            if not patient or answer.reason != SLOWED:
                break
            await asyncio.sleep(min(answer.retry_after_s or 1.0, LONGEST_SLOWED_S))
        return answer

    async def _ask(self, request: Message, headers: Headers, path: str) -> Answer:
        bodies: list[bytes] = []
        # On the wire a unary response is a stream of one.
        call: grpc.aio.UnaryStreamCall[Message, bytes] = self.channel.unary_stream(
            path, type(request).SerializeToString
        )(request, metadata=(*self.metadata, *headers), timeout=CALL_TIMEOUT_S)
        try:
            async for body in call:
                bodies.append(body)
            # A status that is not OK is raised above.
            return grpc_answer(OK, "", bodies, [*await call.initial_metadata(), *await call.trailing_metadata()])
        except grpc.aio.AioRpcError as error:
            return error_answer(error, bodies)
        finally:
            call.cancel()

    async def must(self, request: Message, response: type[M]) -> M:
        """Calls the method that takes `request` for what the check itself needs, and gives its response.

        Raises:
            Skipped: The deployment does not offer the method.
            Unclear: The call failed.
        """
        answer = await self.ask(request, patient=True)
        if answer.code == "UNIMPLEMENTED":
            raise Skipped(f"The deployment does not offer {path_of(request).lstrip('/')}.")
        if answer.code != OK:
            raise Unclear(f"{path_of(request).lstrip('/')} failed with {answer.label}: {answer.message}")
        return response.FromString(answer.bodies[0])

    async def rest(
        self, verb: str, target: str, headers: Headers = (), body: bytes | Mapping[str, object] = b""
    ) -> Answer:
        """Sends a request over HTTP/1.1 and says how it ended.

        Raises:
            NoAnswer, OSError, TimeoutError: There is no whole answer.
        """
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        typed = () if isinstance(body, bytes) else (("content-type", "application/json"),)
        own = {name: value for name, value in self.metadata if name not in {key.lower() for key, _ in headers}}
        sent = (*own.items(), *typed, *headers)
        return http_answer(await self._http.send(verb, target, sent, content, CALL_TIMEOUT_S))

    async def web(self, request: Message, headers: Headers = (), *, path: str = "", kind: str = GRPC_WEB) -> Answer:
        """Calls as a browser does, by grpc-web over HTTP/1.1, and says how it ended.

        Raises:
            NoAnswer, OSError, TimeoutError: There is no whole answer.
        """
        sent = (*self.metadata, ("content-type", kind), ("x-grpc-web", "1"), *headers)
        content = write_grpc_web(request, kind)
        answer = await self._http.send("POST", path or path_of(request), sent, content, CALL_TIMEOUT_S)
        return read_grpc_web(answer)
