"""The chat service as this service sees it: what conversations hold, to be given out or erased."""

from collections.abc import AsyncGenerator, Mapping

import grpc
from google.protobuf.json_format import MessageToDict

from redoma.chat.v1 import content_pb2
from redoma.chat.v1.content_pb2_grpc import ContentServiceStub
from redoma_tenant.errors import ServiceUnreachable
from redoma_tenant.privacy.archive import Record
from redoma_tenant.privacy.eraser import NotAcknowledged
from redoma_tenant.privacy.erasures import Subject

ERASE_WAIT_S = 120.0
EXPORT_WAIT_S = 600.0


class GrpcContentChannel:
    """The chat service at the other end of a gRPC channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ContentServiceStub(channel)

    async def export(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives conversations, each followed by its messages.

        Raises:
            ServiceUnreachable: The chat service does not answer, or not to the end.
        """
        request = content_pb2.ExportContentRequest(tenant=subject.tenant, principal=subject.principal)
        call = self._stub.ExportContent(request, timeout=EXPORT_WAIT_S)
        try:
            async for response in call:
                yield MessageToDict(response, preserving_proto_field_name=True)
        except grpc.aio.AioRpcError:
            raise ServiceUnreachable("chat") from None
        finally:
            call.cancel()

    async def erase(self, tenant: str, principal: str) -> Mapping[str, int]:
        """Erases conversations; an empty principal is all of the tenant.

        Raises:
            NotAcknowledged: The chat service does not answer, or could not erase all.
        """
        request = content_pb2.EraseContentRequest(tenant=tenant, principal=principal)
        try:
            erased = await self._stub.EraseContent(request, timeout=ERASE_WAIT_S)
        except grpc.aio.AioRpcError as error:
            raise NotAcknowledged(f"The chat service did not erase: {error.code().name}.") from None
        return {
            "conversations": erased.conversations,
            "messages": erased.messages,
            "content_keys": erased.content_keys,
        }


class NoContentChannel:
    """Stands for a chat service that is not configured: nothing is given out or taken for erased without it."""

    async def export(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Raises ServiceUnreachable."""
        raise ServiceUnreachable("chat")
        # Makes it an iterator, as the other channel's is.
        yield {}

    async def erase(self, tenant: str, principal: str) -> Mapping[str, int]:
        """Raises NotAcknowledged."""
        raise NotAcknowledged("The setting `chat` does not say where the chat service is.")
