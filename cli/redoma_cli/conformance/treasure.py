"""A tenant with something in every corner, for others to try to get at."""

from dataclasses import dataclass

from redoma.chat.v1.conversation_pb2 import (
    Conversation,
    CreateConversationRequest,
    CreateConversationResponse,
    ListConversationsRequest,
    ListConversationsResponse,
    ListMessagesRequest,
    ListMessagesResponse,
)
from redoma.tenant.v1.api_key_pb2 import ListApiKeysRequest, ListApiKeysResponse
from redoma.tenant.v1.user_pb2 import ROLE_MEMBER, CreateUserRequest, CreateUserResponse, User
from redoma_cli.conformance.check import Probes, Skipped, Unclear
from redoma_cli.conformance.lab import Lab, LabKey, LabTenant
from redoma_cli.conformance.prompts import marker
from redoma_cli.conformance.speech import GrpcSpeech

CONVERSATIONS = 3
ANSWER_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Treasure:
    """What one tenant has.

    Attributes:
        tenant: The tenant.
        spare: One more key of it.
        conversation: Name of the conversation that holds the message.
        message: Name of a message in it.
        user: Name of a user; empty where users are not offered.
        marker: A word that is in titles and in the message, and nowhere else.
        conversations_token: Token of the second page of its conversations; empty where there is none.
        keys_token: Token of the second page of its keys; empty where there is none.
    """

    tenant: LabTenant
    spare: LabKey
    conversation: str
    message: str
    user: str
    marker: str
    conversations_token: str
    keys_token: str

    @property
    def traces(self) -> tuple[str, ...]:
        """What must be in nothing that another tenant gets to see."""
        ids = (self.conversation, self.message, self.spare.name, self.tenant.key.name, self.user)
        return (self.marker, *(name.rsplit("/", 1)[-1] for name in ids if name))


async def bury(lab: Lab, probes: Probes) -> Treasure:
    """Makes a tenant that has all of it.

    Raises:
        Skipped, Unclear: It can't be made.
    """
    tenant = await lab.tenant()
    spare = await lab.key(tenant.name)
    word = marker(lab.rng)
    for number in range(CONVERSATIONS - 1):
        await _conversation(tenant, f"{word} {number}")
    speech = GrpcSpeech(tenant.caller, f"Remember {word}.", ANSWER_TOKENS, model=lab.settings.model).start()
    if not await speech.ended(lab.settings.answer_s) or not speech.heard.done:
        await speech.drop()
        raise Unclear(f"A message was not answered: {speech.heard.label}.")
    whole = await tenant.caller.must(ListConversationsRequest(parent="tenants/-"), ListConversationsResponse)
    conversation = next(item.name for item in whole.conversations if item.latest_message)
    messages = await tenant.caller.must(ListMessagesRequest(parent=conversation), ListMessagesResponse)
    page = await tenant.caller.must(
        ListConversationsRequest(parent="tenants/-", page_size=1), ListConversationsResponse
    )
    keys = await lab.admin.must(ListApiKeysRequest(parent=tenant.name, page_size=1), ListApiKeysResponse)
    return Treasure(
        tenant,
        spare,
        conversation,
        messages.messages[0].name,
        await _user(lab, probes, tenant, word),
        word,
        page.next_page_token,
        keys.next_page_token,
    )


async def _conversation(tenant: LabTenant, title: str) -> None:
    request = CreateConversationRequest(parent="tenants/-", conversation=Conversation(title=title))
    await tenant.caller.must(request, CreateConversationResponse)


async def _user(lab: Lab, probes: Probes, tenant: LabTenant, word: str) -> str:
    user = User(issuer="https://login.example.com", subject=word, display_name=word, role=ROLE_MEMBER)
    try:
        request = CreateUserRequest(parent=tenant.name, user=user)
        return (await lab.admin.must(request, CreateUserResponse)).user.name
    except Skipped as reason:
        probes.leave_out(f"users: {reason}")
        return ""
