"""ConversationService on the wire."""

from redoma.chat.v1 import conversation_pb2 as pb
from redoma.chat.v1.conversation_pb2_grpc import ConversationServiceServicer
from redoma_chat.conversations import Conversations
from redoma_chat.names import parse_conversation, parse_message, parse_parent
from redoma_chat.servicers.context import Context, current_owner
from redoma_chat.servicers.translate import conversation_message, conversation_of, message_message
from redoma_kit.errors import InvalidField
from redoma_kit.pages import page_position, page_size, page_token

UPDATABLE = frozenset({"title", "system_prompt", "model", "sampling"})


class ConversationServicer(ConversationServiceServicer):
    """Keeps the caller's conversations."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: Context
    ) -> pb.CreateConversationResponse:
        """Creates an empty conversation."""
        owner = current_owner()
        parse_parent(request.parent, "parent", owner)
        wanted = conversation_of(request.conversation, "")
        created = await self._conversations.create(owner, wanted, request.request_id)
        return pb.CreateConversationResponse(conversation=conversation_message(owner, created))

    async def GetConversation(self, request: pb.GetConversationRequest, context: Context) -> pb.GetConversationResponse:
        """Gets a conversation."""
        owner = current_owner()
        found = await self._conversations.get(owner, parse_conversation(request.name, "name", owner))
        return pb.GetConversationResponse(conversation=conversation_message(owner, found))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Context
    ) -> pb.ListConversationsResponse:
        """Lists the caller's conversations."""
        owner = current_owner()
        parse_parent(request.parent, "parent", owner)
        size = page_size(request.page_size, 50, 200)
        same = ("conversations", owner.tenant, owner.principal, request.filter)
        position = page_position(request.page_token, same, (int, str))
        before = None if position is None else (int(position[0]), str(position[1]))
        found = await self._conversations.list_conversations(owner, request.filter, before, size + 1)
        page = found[:size]
        more = len(found) > size
        return pb.ListConversationsResponse(
            conversations=[conversation_message(owner, conversation) for conversation in page],
            next_page_token=page_token(same, (page[-1].update_time_us, page[-1].id)) if more else "",
        )

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Context
    ) -> pb.UpdateConversationResponse:
        """Changes the fields that the mask names."""
        owner = current_owner()
        conversation_id = parse_conversation(request.conversation.name, "conversation.name", owner)
        changed = conversation_of(request.conversation, conversation_id)
        updated = await self._conversations.update(owner, changed, _fields(request))
        return pb.UpdateConversationResponse(conversation=conversation_message(owner, updated))

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Context
    ) -> pb.DeleteConversationResponse:
        """Deletes a conversation and all its messages."""
        owner = current_owner()
        await self._conversations.delete(owner, parse_conversation(request.name, "name", owner))
        return pb.DeleteConversationResponse()

    async def GetMessage(self, request: pb.GetMessageRequest, context: Context) -> pb.GetMessageResponse:
        """Gets a message."""
        owner = current_owner()
        conversation_id, message_id = parse_message(request.name, "name", owner)
        found = await self._conversations.get_message(owner, conversation_id, message_id)
        return pb.GetMessageResponse(message=message_message(owner, found))

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        """Lists the messages of a conversation."""
        owner = current_owner()
        conversation_id = parse_conversation(request.parent, "parent", owner)
        size = page_size(request.page_size, 100, 500)
        same = ("messages", owner.tenant, owner.principal, conversation_id)
        position = page_position(request.page_token, same, (str,))
        after = "" if position is None else str(position[0])
        found = await self._conversations.list_messages(owner, conversation_id, after, size + 1)
        page = found[:size]
        return pb.ListMessagesResponse(
            messages=[message_message(owner, message) for message in page],
            next_page_token=page_token(same, (page[-1].id,)) if len(found) > size else "",
        )


def _fields(request: pb.UpdateConversationRequest) -> frozenset[str]:
    paths = frozenset(request.update_mask.paths)
    if not paths:
        return frozenset(field.name for field, _ in request.conversation.ListFields()) & UPDATABLE
    if paths == {"*"}:
        return UPDATABLE
    if paths - UPDATABLE:
        raise InvalidField(
            "update_mask", f"names a field that can't be changed; those are {', '.join(sorted(UPDATABLE))}"
        )
    return paths
