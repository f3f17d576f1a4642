"""ContentService on the wire."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from redoma.chat.v1 import content_pb2 as pb
from redoma.chat.v1.content_pb2_grpc import ContentServiceServicer
from redoma_chat.content import Content
from redoma_chat.conversations import Conversation
from redoma_chat.names import check_subject
from redoma_chat.servicers.context import Context
from redoma_chat.servicers.translate import conversation_message, message_message


class ContentServicer(ContentServiceServicer):
    """Hands calls to the domain."""

    def __init__(self, content: Content) -> None:
        self._content = content

    async def ExportContent(
        self, request: pb.ExportContentRequest, context: Context
    ) -> AsyncIterator[pb.ExportContentResponse]:
        """Streams all conversations of a tenant, or of one principal of it."""
        check_subject(request.tenant, request.principal)
        async with aclosing(self._content.export(request.tenant, request.principal)) as items:
            async for owner, item in items:
                if isinstance(item, Conversation):
                    held = pb.HeldConversation(
                        conversation=conversation_message(owner, item), principal=owner.principal
                    )
                    yield pb.ExportContentResponse(conversation=held)
                else:
                    yield pb.ExportContentResponse(message=message_message(owner, item))

    async def EraseContent(self, request: pb.EraseContentRequest, context: Context) -> pb.EraseContentResponse:
        """Erases them for good."""
        check_subject(request.tenant, request.principal)
        before_us = request.before_time.ToMicroseconds() if request.HasField("before_time") else None
        erased = await self._content.erase(request.tenant, request.principal, before_us)
        return pb.EraseContentResponse(
            conversations=erased.conversations, messages=erased.messages, content_keys=erased.content_keys
        )
