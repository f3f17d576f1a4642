"""Answers: a message goes in, an answer streams out and is saved as it streams, also when it is cut.

A message is saved when its checks have passed and before the model is asked, so it stays when the model is down. An
answer that never started (the queue was full, the prompt too long, the model away) leaves nothing behind, and an
answer that was to be continued stays as it was.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from redoma_chat.branch import Branch, BranchStore, prompt_of, read_branch
from redoma_chat.checkpoints import Checkpoints, CheckpointStore
from redoma_chat.checks.chain import Passage
from redoma_chat.conversations import Conversation, ConversationStore, Message, MessageState, check_text, title_from
from redoma_chat.deadline import Deadline
from redoma_chat.endings import Endings
from redoma_chat.errors import StateConflict
from redoma_chat.guarded_model import CheckedPrompt, GuardedModel
from redoma_chat.ids import IdSource
from redoma_chat.inference import Delta, FinishReason, Role, Started
from redoma_chat.metering.settlements import Settlements
from redoma_chat.names import Owner
from redoma_chat.persistence import run_to_end
from redoma_chat.placement import Placement
from redoma_chat.recording import Recording, RecordingStore
from redoma_chat.response_format import ResponseFormat
from redoma_chat.sampling import Sampling, check_sampling
from redoma_kit.errors import InvalidField, ResourceNotFound, StorageUnavailable

MAX_CONTENT_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class AnswerStarted:
    """The answer begins; `answer` is what was saved of it before."""

    user_message: Message
    answer: Message
    started: Started
    dropped_messages: int


@dataclass(frozen=True, slots=True)
class AnswerDone:
    """The answer ended and is saved."""

    answer: Message


AnswerEvent = AnswerStarted | Delta | AnswerDone


class AnswerStore(ConversationStore, BranchStore, CheckpointStore, RecordingStore, Protocol):
    """What keeps answers and the branches they belong to."""

    async def begin_answer(self, owner: Owner, question: Message | None, answer: Message, title: str) -> None:
        """Saves a new user's message, if any, and a STREAMING answer; `title` fills an empty one.

        Raises:
            ResourceNotFound: The conversation was deleted meanwhile.
        """
        ...

    async def withdraw_answer(self, owner: Owner, answer: Message) -> None:
        """Deletes a STREAMING answer that never started, if it was saved."""
        ...

    async def reopen_answer(self, owner: Owner, answer: Message) -> bool:
        """Makes a PARTIAL answer STREAMING; says whether it was PARTIAL."""
        ...


@dataclass(frozen=True, slots=True)
class _Job:
    """An answer to make: what to save before and how to undo it."""

    owner: Owner
    question: Message
    answer: Message
    left_out: int
    checked: CheckedPrompt
    is_new_question: bool = False
    title: str = ""
    continued: Message | None = None


class Answers:
    """Makes and continues answers."""

    def __init__(
        self,
        store: AnswerStore,
        placement: Placement,
        model: GuardedModel,
        ids: IdSource,
        endings: Endings,
        settlements: Settlements,
        now_us: Callable[[], int],
        is_stopping: Callable[[], bool],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._store = store
        self._placement = placement
        self._model = model
        self._ids = ids
        self._endings = endings
        self._settlements = settlements
        self._checkpoints = Checkpoints(store, now_us, log)
        self._now_us = now_us
        self._is_stopping = is_stopping
        self._log = log

    async def send(
        self, owner: Owner, conversation_id: str, parent_id: str, content: str, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Saves a user's message under `parent_id` and streams the answer; without content answers `parent_id` anew.

        Raises:
            ResourceNotFound: The conversation or the parent is not there for this owner.
            InvalidField: The message can't stand under that parent, is too long, or no text.
            StateConflict: The parent is an answer that still streams.
            ContentStorageOff: The tenant has conversations kept nowhere, or elsewhere by now.
        """
        if len(content.encode()) > MAX_CONTENT_BYTES:
            raise InvalidField("content", f"at most {MAX_CONTENT_BYTES} bytes")
        check_text(content, "content")
        check_sampling(sampling, "sampling.{}".format)
        owner = await self._placement.to_write(owner, conversation_id)
        conversation = await self._conversation(owner, conversation_id)
        parent = await self._message(owner, conversation_id, parent_id) if parent_id else None
        self._check_parent(parent, content)
        branch = await read_branch(self._store, owner, conversation_id, parent_id)
        prompt = prompt_of(conversation_id, conversation.model, conversation.system_prompt, branch, content or None)
        checked = await self._model.check(owner.tenant, prompt, deadline)
        question = parent
        if question is None or content:
            # What the model sees is what is kept: a masked text is not stored either.
            said = checked.prompt.turns[-1].content
            question = self._new_message(conversation_id, parent_id, Role.USER, said, sampling.response_format)
        asked_before = Sampling(response_format=question.response_format)
        sampling = conversation.sampling.overridden_by(asked_before).overridden_by(sampling)
        answer = self._new_message(conversation_id, question.id, Role.ASSISTANT, "", sampling.response_format)
        job = _Job(
            owner,
            question,
            answer,
            branch.left_out,
            checked,
            is_new_question=bool(content),
            title="" if conversation.title else title_from(question.content),
        )
        async with aclosing(self._stream(job, sampling, deadline)) as events:
            async for event in events:
                yield event

    async def extend(
        self, owner: Owner, conversation_id: str, message_id: str, sampling: Sampling, deadline: Deadline
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Goes on with a PARTIAL answer and streams what is new.

        Raises:
            ResourceNotFound: The message is not there for this owner.
            StateConflict: It is not a PARTIAL answer, or another call goes on with it.
            ContentStorageOff: The tenant has conversations kept nowhere, or elsewhere by now.
        """
        check_sampling(sampling, "sampling.{}".format)
        owner = await self._placement.to_write(owner, conversation_id)
        conversation = await self._conversation(owner, conversation_id)
        partial = await self._message(owner, conversation_id, message_id)
        if partial.state is not MessageState.PARTIAL:
            raise StateConflict(f"STATE_{partial.state.value}")
        question = await self._message(owner, conversation_id, partial.parent_id)
        branch: Branch = await read_branch(self._store, owner, conversation_id, question.id)
        model = partial.model or conversation.model
        prompt = prompt_of(conversation_id, model, conversation.system_prompt, branch, partial=partial.content)
        checked = await self._model.check(owner.tenant, prompt, deadline)
        answer = replace(partial, state=MessageState.STREAMING, finish_reason=None, update_time_us=self._now_us())
        job = _Job(owner, question, answer, branch.left_out, checked, continued=partial)
        # What came of the answer has its own form, whatever the conversation's is by now.
        settings = replace(conversation.sampling, response_format=partial.response_format)
        async with aclosing(self._stream(job, settings.overridden_by(sampling), deadline)) as events:
            async for event in events:
                yield event

    async def _stream(self, job: _Job, sampling: Sampling, deadline: Deadline) -> AsyncGenerator[AnswerEvent, None]:
        recording = Recording(self._store, self._checkpoints, self._endings, job.owner, job.answer, self._now_us)
        already = Passage(job.answer.content, job.answer.reasoning)
        # Nothing of a conversation's answer carries log probabilities.
        sampling = replace(sampling, logprobs=False, top_logprobs=0)
        reason = FinishReason.INTERRUPTED
        is_ours = has_started = False
        saved = job.answer

        async def begin() -> None:
            nonlocal is_ours
            await self._begin(job)
            is_ours = True
            recording.begun()

        try:
            await run_to_end(begin())
            answer = self._model.generate(job.checked, sampling, deadline, already, recording.settle)
            async with aclosing(answer) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        recording.append(event)
                        yield event
                    elif isinstance(event, Started):
                        has_started = True
                        yield self._started(job, recording, event)
                    else:
                        recording.count(event.usage)
                        reason = event.finish_reason
        except (asyncio.CancelledError, GeneratorExit):
            # What ends an answer when the service stops, or at its deadline, is not the person's will.
            if not deadline.passed and not self._is_stopping():
                reason = FinishReason.CANCELLED
            raise
        finally:
            if has_started:
                try:
                    saved = await run_to_end(recording.finish(reason))
                finally:
                    self._settlements.wake()
            else:
                if recording.settlement is not None:
                    self._settlements.send(recording.settlement)
                if is_ours:
                    await run_to_end(self._undo(job, recording))
        yield AnswerDone(saved)

    def _started(self, job: _Job, recording: Recording, event: Started) -> AnswerStarted:
        answer = recording.started(event.model, event.input_tokens)
        return AnswerStarted(job.question, answer, event, job.left_out + event.dropped_messages)

    async def _begin(self, job: _Job) -> None:
        if job.continued is None:
            question = job.question if job.is_new_question else None
            await self._store.begin_answer(job.owner, question, job.answer, job.title)
        elif not await self._store.reopen_answer(job.owner, job.answer):
            raise StateConflict(f"STATE_{MessageState.STREAMING.value}")

    async def _undo(self, job: _Job, recording: Recording) -> None:
        await recording.undone()
        continued = job.continued
        try:
            if continued is None:
                await self._endings.write(lambda: self._store.withdraw_answer(job.owner, job.answer))
            else:
                await self._endings.write(lambda: self._store.save_answer(job.owner, continued))
        except StorageUnavailable:
            self._log.error("an answer that never started could not be withdrawn yet", message=job.answer.id)

    def _new_message(
        self, conversation_id: str, parent_id: str, role: Role, content: str, response_format: ResponseFormat | None
    ) -> Message:
        now_us = self._now_us()
        state = MessageState.COMPLETE if role is Role.USER else MessageState.STREAMING
        message_id = self._ids.new(after=parent_id)
        return Message(
            message_id,
            conversation_id,
            parent_id,
            role,
            content,
            state,
            now_us,
            now_us,
            response_format=response_format,
        )

    @staticmethod
    def _check_parent(parent: Message | None, content: str) -> None:
        if not content:
            if parent is None or parent.role is not Role.USER:
                raise InvalidField("content", "may be empty only where parent_message is a user's message")
        elif parent is not None and parent.role is not Role.ASSISTANT:
            raise InvalidField("parent_message", "must be an answer, or empty")
        elif parent is not None and parent.state is MessageState.STREAMING:
            raise StateConflict(f"STATE_{parent.state.value}")

    async def _conversation(self, owner: Owner, conversation_id: str) -> Conversation:
        found = await self._store.get_conversation(owner, conversation_id)
        if found is None:
            raise ResourceNotFound(owner.conversation_name(conversation_id))
        return found

    async def _message(self, owner: Owner, conversation_id: str, message_id: str) -> Message:
        found = await self._store.get_message(owner, conversation_id, message_id)
        if found is None:
            raise ResourceNotFound(owner.message_name(conversation_id, message_id))
        return found
