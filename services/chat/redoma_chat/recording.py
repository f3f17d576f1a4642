"""The saved side of a streaming answer: what has come so far, and its end."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from redoma_chat.checkpoints import Checkpoints
from redoma_chat.conversations import Message, MessageState
from redoma_chat.endings import Endings
from redoma_chat.inference import Delta, FinishReason, Usage
from redoma_chat.metering.meter import Settlement
from redoma_chat.names import Owner
from redoma_kit.errors import ResourceNotFound

WHOLE = frozenset({FinishReason.STOP, FinishReason.CONTENT_FILTER})


class RecordingStore(Protocol):
    """Where answers are kept while they stream."""

    async def save_answer(self, owner: Owner, answer: Message, settlement: Settlement | None = None) -> bool:
        """Saves content, reasoning, usage, state, model and finish reason; says whether the message exists.

        A settlement is put into the outbox with it, also where the message does not exist any more.
        """
        ...


class Recording:
    """One answer being recorded. It is kept this process's, and checkpointed, from `begun` to `finish` or `undone`."""

    def __init__(
        self,
        store: RecordingStore,
        checkpoints: Checkpoints,
        endings: Endings,
        owner: Owner,
        answer: Message,
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._endings = endings
        self._owner = owner
        self._answer = answer
        self._now_us = now_us
        self._text = [answer.content]
        self._reasoning = [answer.reasoning]
        self._before = answer.usage
        self._usage = Usage()
        self._has_grown = False
        self._settlement: Settlement | None = None

    @property
    def place(self) -> tuple[Owner, str]:
        """Whose it is, and its id."""
        return self._owner, self._answer.id

    def begun(self) -> None:
        """Notes that the answer was saved and is this process's."""
        self._checkpoints.add(self)

    async def undone(self) -> None:
        """Looks after the answer no more."""
        await self._checkpoints.remove(self)

    def settle(self, settlement: Settlement) -> None:
        """Takes what the call used in the end, to be saved with the answer."""
        self._settlement = settlement

    @property
    def settlement(self) -> Settlement | None:
        """What the call used in the end; None where it never began."""
        return self._settlement

    def append(self, delta: Delta) -> None:
        """Takes a piece."""
        self._text.append(delta.text)
        self._reasoning.append(delta.reasoning)
        self._usage = delta.usage
        self._has_grown = True

    def started(self, model: str, input_tokens: int) -> Message:
        """Notes the model that answers and the prompt's size; gives the answer as it is now."""
        self._answer = replace(self._answer, model=model)
        self._usage = Usage(input_tokens=input_tokens)
        return self._snapshot()

    def unsaved(self) -> tuple[Owner, Message] | None:
        """Gives the answer as it is if it has grown since this was last asked."""
        if not self._has_grown:
            return None
        self._has_grown = False
        return self._owner, self._snapshot()

    def count(self, usage: Usage) -> None:
        """Takes the final counts."""
        self._usage = usage

    async def finish(self, reason: FinishReason) -> Message:
        """Saves the answer with why it ended, and gives it as saved.

        Raises:
            ResourceNotFound: The conversation was deleted meanwhile.
            StorageUnavailable: It could not be saved yet; it will be when the store is back.
        """
        await self._checkpoints.remove(self)
        state = MessageState.COMPLETE if reason in WHOLE else MessageState.PARTIAL
        message = replace(self._snapshot(), state=state, finish_reason=reason)
        if not await self._endings.write(lambda: self._store.save_answer(self._owner, message, self._settlement)):
            raise ResourceNotFound(self._owner.message_name(message.conversation_id, message.id))
        return message

    def _snapshot(self) -> Message:
        # One string each from here on, so that the next snapshot does not join all pieces again.
        self._text = ["".join(self._text)]
        self._reasoning = ["".join(self._reasoning)]
        return replace(
            self._answer,
            content=self._text[0],
            reasoning=self._reasoning[0],
            usage=self._before + self._usage,
            update_time_us=self._now_us(),
        )
