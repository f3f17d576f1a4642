"""Conversations: trees of messages that belong to one principal of one tenant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import chain
from typing import Protocol

from redoma_chat.ids import IdSource
from redoma_chat.inference import FinishReason, Role, Usage
from redoma_chat.names import Owner
from redoma_chat.placement import Placement
from redoma_chat.response_format import ResponseFormat
from redoma_chat.sampling import Sampling, check_sampling
from redoma_kit.errors import InvalidField, ResourceNotFound

MAX_TITLE_CHARACTERS = 200
MAX_SYSTEM_PROMPT_BYTES = 65_536
MAX_MODEL_CHARACTERS = 200
MAX_REQUEST_ID_CHARACTERS = 64
MAX_FILTER_CHARACTERS = 256
DERIVED_TITLE_CHARACTERS = 60


class MessageState(Enum):
    """Whether a message is whole."""

    STREAMING = "STREAMING"
    COMPLETE = "COMPLETE"
    PARTIAL = "PARTIAL"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation and its settings. Times are microseconds since the epoch."""

    id: str = ""
    title: str = ""
    system_prompt: str = ""
    model: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    create_time_us: int = 0
    update_time_us: int = 0
    latest_message_id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Times are microseconds since the epoch.

    `response_format` of an answer is the form that it has; of a user's message the form that was asked for with it, for
    every answer to it. Lists come without.
    """

    id: str
    conversation_id: str
    parent_id: str
    role: Role
    content: str
    state: MessageState
    create_time_us: int
    update_time_us: int
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    response_format: ResponseFormat | None = None


class ConversationStore(Protocol):
    """What keeps conversations. Every call sees the owner's only."""

    async def create_conversation(self, owner: Owner, conversation: Conversation, request_id: str) -> Conversation:
        """Saves a conversation, or gives the one that the same request id made before."""
        ...

    async def get_conversation(self, owner: Owner, conversation_id: str) -> Conversation | None:
        """Gets a conversation."""
        ...

    async def list_conversations(
        self, owner: Owner, before: tuple[int, str] | None, limit: int, words: tuple[str, ...]
    ) -> list[Conversation]:
        """Lists conversations that hold every word, the one changed last first, from behind (time, id) on."""
        ...

    async def update_conversation(self, owner: Owner, changed: Conversation, fields: frozenset[str]) -> bool:
        """Saves the named fields and the time; says whether the conversation exists."""
        ...

    async def delete_conversation(self, owner: Owner, conversation_id: str) -> bool:
        """Deletes a conversation with its messages; says whether it existed."""
        ...

    async def get_message(self, owner: Owner, conversation_id: str, message_id: str) -> Message | None:
        """Gets a message."""
        ...

    async def list_messages(self, owner: Owner, conversation_id: str, after: str, limit: int) -> list[Message]:
        """Lists messages in the order of their ids, from behind `after` on."""
        ...


class Conversations:
    """What a caller can do with its conversations.

    Every method raises ResourceNotFound for a conversation that is not the owner's.
    """

    def __init__(
        self, store: ConversationStore, placement: Placement, ids: IdSource, now_us: Callable[[], int]
    ) -> None:
        self._store = store
        self._placement = placement
        self._ids = ids
        self._now_us = now_us

    async def create(self, owner: Owner, wanted: Conversation, request_id: str) -> Conversation:
        """Creates a conversation; the same request id gives the same one.

        Raises:
            InvalidField: A setting is out of range, or no text.
            ContentStorageOff: The tenant has conversations kept nowhere.
        """
        if len(request_id) > MAX_REQUEST_ID_CHARACTERS:
            raise InvalidField("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters")
        check_text(request_id, "request_id")
        _check(wanted)
        now_us = self._now_us()
        conversation = replace(
            wanted, id=self._ids.new(), create_time_us=now_us, update_time_us=now_us, latest_message_id=""
        )
        owner = await self._placement.to_create(owner)
        return await self._store.create_conversation(owner, conversation, request_id)

    async def get(self, owner: Owner, conversation_id: str) -> Conversation:
        """Gets a conversation."""
        return await self._found(await self._placement.to_read(owner, conversation_id), conversation_id)

    async def list_conversations(
        self, owner: Owner, words: str, before: tuple[int, str] | None, limit: int
    ) -> list[Conversation]:
        """Lists conversations that hold every one of `words`, the one changed last first.

        Raises:
            InvalidField: The words are too long, or no text.
        """
        check_text(words, "filter")
        if len(words) > MAX_FILTER_CHARACTERS:
            raise InvalidField("filter", f"at most {MAX_FILTER_CHARACTERS} characters")
        wanted = tuple(dict.fromkeys(words.split()))
        places = await self._placement.to_list(owner)
        pages = [await self._store.list_conversations(place, before, limit, wanted) for place in places]
        newest_first = sorted(chain(*pages), key=lambda found: (found.update_time_us, found.id), reverse=True)
        return newest_first[:limit]

    async def update(self, owner: Owner, changed: Conversation, fields: frozenset[str]) -> Conversation:
        """Changes the named fields.

        Raises:
            InvalidField: A setting is out of range, or no text.
            ContentStorageOff: The tenant has conversations kept nowhere, or elsewhere by now.
        """
        _check(changed)
        owner = await self._placement.to_write(owner, changed.id)
        changed = replace(changed, update_time_us=self._now_us())
        if not await self._store.update_conversation(owner, changed, fields):
            raise ResourceNotFound(owner.conversation_name(changed.id))
        return await self._found(owner, changed.id)

    async def delete(self, owner: Owner, conversation_id: str) -> None:
        """Deletes a conversation and its messages."""
        owner = await self._placement.to_read(owner, conversation_id)
        if not await self._store.delete_conversation(owner, conversation_id):
            raise ResourceNotFound(owner.conversation_name(conversation_id))

    async def get_message(self, owner: Owner, conversation_id: str, message_id: str) -> Message:
        """Gets a message."""
        owner = await self._placement.to_read(owner, conversation_id)
        found = await self._store.get_message(owner, conversation_id, message_id)
        if found is None:
            raise ResourceNotFound(owner.message_name(conversation_id, message_id))
        return found

    async def list_messages(self, owner: Owner, conversation_id: str, after: str, limit: int) -> list[Message]:
        """Lists a conversation's messages of all branches, oldest first."""
        owner = await self._placement.to_read(owner, conversation_id)
        await self._found(owner, conversation_id)
        return await self._store.list_messages(owner, conversation_id, after, limit)

    async def _found(self, owner: Owner, conversation_id: str) -> Conversation:
        found = await self._store.get_conversation(owner, conversation_id)
        if found is None:
            raise ResourceNotFound(owner.conversation_name(conversation_id))
        return found


def title_from(content: str) -> str:
    """Gives what lists show for a conversation that begins with `content`."""
    line = next((" ".join(line.split()) for line in content.splitlines() if line.strip()), "")
    if len(line) <= DERIVED_TITLE_CHARACTERS:
        return line
    return line[: DERIVED_TITLE_CHARACTERS - 1].rstrip() + "…"


def check_text(text: str, field: str) -> None:
    """Raises InvalidField for a text with U+0000, where databases end a text or refuse it."""
    if "\0" in text:
        raise InvalidField(field, "must not hold the character U+0000")


_LIMITS: Mapping[str, int] = {"title": MAX_TITLE_CHARACTERS, "model": MAX_MODEL_CHARACTERS}


def _check(conversation: Conversation) -> None:
    for name, most in _LIMITS.items():
        if len(getattr(conversation, name)) > most:
            raise InvalidField(f"conversation.{name}", f"at most {most} characters")
        check_text(getattr(conversation, name), f"conversation.{name}")
    check_text(conversation.system_prompt, "conversation.system_prompt")
    if len(conversation.system_prompt.encode()) > MAX_SYSTEM_PROMPT_BYTES:
        raise InvalidField("conversation.system_prompt", f"at most {MAX_SYSTEM_PROMPT_BYTES} bytes")
    check_sampling(conversation.sampling, "conversation.sampling.{}".format)
