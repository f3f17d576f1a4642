"""Runs a list of interceptors around the handler of every call.

An interceptor is an asynchronous context manager around the call: it may refuse on entry by raising, and sees the
outcome on exit. One grpc.aio interceptor wraps all four handler kinds, so that none is forgotten (a unary-only one
turns streams into UNKNOWN).
"""

import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.message import DecodeError, Message

from redoma_kit.errors import Failure, InvalidField
from redoma_kit.identity import Identity

if TYPE_CHECKING:
    # grpcio's classes take type arguments in its stubs alone.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


@dataclass(slots=True)
class Call:
    """One call being handled.

    Attributes:
        method: Full name, such as `/redoma.model.v1.ModelService/Generate`.
        context: The servicer context.
        started_at: time.monotonic() on arrival, in seconds.
        request_id: Correlates logs; set by the request id interceptor.
        peer: SPIFFE id of the calling service, behind a proxy too; set by the authorization interceptor.
        identity: Verified identity, if the method's rule requires one.
        first_message_at: time.monotonic() of the first response message of a stream, in seconds; 0 before.
        messages_sent: Response messages so far.
        failure: What the caller was told, when the call failed.
        request: The request message, None if it is malformed or a stream of them.
        response: The response message of a call that has one, when the handler has ended.
    """

    method: str
    context: "Context"
    started_at: float = field(default_factory=time.monotonic)
    request_id: str = ""
    peer: str = ""
    identity: Identity | None = None
    first_message_at: float = 0.0
    messages_sent: int = 0
    failure: Failure | None = None
    request: Message | None = None
    response: Message | None = None

    def note_message(self) -> None:
        """Counts a response message."""
        if self.messages_sent == 0:
            self.first_message_at = time.monotonic()
        self.messages_sent += 1

    def metadata(self, key: str) -> str:
        """Gives the first text value of an inbound metadata key, or an empty string."""
        for name, value in self.context.invocation_metadata() or ():
            if name == key and isinstance(value, str):
                return value
        return ""

    def metadata_values(self, key: str) -> Sequence[str | bytes]:
        """Gives all values of an inbound metadata key."""
        return [value for name, value in self.context.invocation_metadata() or () if name == key]


class Interceptor(Protocol):
    """Wraps a call."""

    def __call__(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Gives the context manager to run the call in."""


class Pipeline(grpc.aio.ServerInterceptor):
    """The one interceptor that is installed in the server."""

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = tuple(interceptors)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wraps the method's handler; a method that nobody serves stays UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: "Handler", method: str) -> "Handler":
        codec = {
            "request_deserializer": _forgiving(handler.request_deserializer),
            "response_serializer": handler.response_serializer,
        }
        if not handler.request_streaming and not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(self._single(handler.unary_unary, method), **codec)
        if handler.request_streaming and not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(self._single(handler.stream_unary, method), **codec)
        if not handler.request_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler.unary_stream, method), **codec)
        return grpc.stream_stream_rpc_method_handler(self._stream(handler.stream_stream, method), **codec)

    async def _enter(self, stack: AsyncExitStack, call: Call) -> None:
        for interceptor in self._interceptors:
            await stack.enter_async_context(interceptor(call))

    def _single(self, behavior: Any, method: str) -> Any:
        async def respond(request: Any, context: "Context") -> Any:
            call = Call(method, context, request=_message(request))
            async with AsyncExitStack() as stack:
                await self._enter(stack, call)
                call.response = response = await behavior(_wellformed(request), context)
                call.note_message()
            return response

        return respond

    def _stream(self, behavior: Any, method: str) -> Any:
        writes_itself = inspect.iscoroutinefunction(behavior)

        async def respond(request: Any, context: "Context") -> None:
            call = Call(method, context, request=_message(request))
            async with AsyncExitStack() as stack:
                await self._enter(stack, call)
                request = _wellformed(request)
                if writes_itself:
                    await behavior(request, context)
                    return
                responses: AsyncIterator[Any] = behavior(request, context)
                async with aclosing(responses):  # type: ignore[type-var]
                    async for response in responses:
                        call.note_message()
                        await context.write(response)

        return respond


class _Malformed:
    """Stands for a request whose bytes are no message, so that our rules refuse it and not grpc's."""


def _forgiving(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Malformed()

    return read


def _message(request: Any) -> Message | None:
    return request if isinstance(request, Message) else None


def _wellformed(request: Any) -> Any:
    """Gives the request, or the stream of requests, that raises InvalidField where one is malformed."""
    if isinstance(request, _Malformed):
        raise InvalidField("request", "is not a valid message of this method.")
    return _wellformed_stream(request) if hasattr(request, "__aiter__") else request


async def _wellformed_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _wellformed(request)
