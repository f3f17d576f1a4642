"""ChatService on the wire. What is done for each delta here is done for each token: it stays small."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from redoma.chat.v1 import message_pb2 as pb
from redoma.chat.v1.message_pb2_grpc import ChatServiceServicer
from redoma_chat.answers import AnswerDone, Answers, AnswerStarted
from redoma_chat.inference import Delta
from redoma_chat.names import Owner, parse_conversation, parse_message
from redoma_chat.servicers.context import Context, Deadlines, current_owner, tell_rate_limits
from redoma_chat.servicers.translate import message_message, sampling_of
from redoma_kit.errors import InvalidField


class ChatServicer(ChatServiceServicer):
    """Streams answers that are saved as they stream."""

    def __init__(self, answers: Answers, deadlines: Deadlines) -> None:
        self._answers = answers
        self._deadlines = deadlines

    async def SendMessage(
        self, request: pb.SendMessageRequest, context: Context
    ) -> AsyncIterator[pb.SendMessageResponse]:
        """Saves a user's message and streams the answer to it."""
        owner = current_owner()
        conversation_id = parse_conversation(request.conversation, "conversation", owner)
        parent_id = ""
        if request.parent_message:
            parent_conversation, parent_id = parse_message(request.parent_message, "parent_message", owner)
            if parent_conversation != conversation_id:
                raise InvalidField("parent_message", "must be a message of the conversation")
        sampling = sampling_of(request.sampling, "sampling")
        deadline = self._deadlines.of(context)
        answer = self._answers.send(owner, conversation_id, parent_id, request.content, sampling, deadline)
        async with aclosing(answer) as events:
            async for event in events:
                if isinstance(event, Delta):
                    response = pb.SendMessageResponse()
                    _fill(response.delta, event)
                    yield response
                elif isinstance(event, AnswerDone):
                    yield pb.SendMessageResponse(done=_done(owner, event))
                else:
                    await tell_rate_limits(context, event.started.rate_limits)
                    yield pb.SendMessageResponse(started=_started(owner, event))

    async def ContinueMessage(
        self, request: pb.ContinueMessageRequest, context: Context
    ) -> AsyncIterator[pb.ContinueMessageResponse]:
        """Extends a saved answer that was cut."""
        owner = current_owner()
        conversation_id, message_id = parse_message(request.message, "message", owner)
        sampling = sampling_of(request.sampling, "sampling")
        deadline = self._deadlines.of(context)
        answer = self._answers.extend(owner, conversation_id, message_id, sampling, deadline)
        async with aclosing(answer) as events:
            async for event in events:
                if isinstance(event, Delta):
                    response = pb.ContinueMessageResponse()
                    _fill(response.delta, event)
                    yield response
                elif isinstance(event, AnswerDone):
                    yield pb.ContinueMessageResponse(done=_done(owner, event))
                else:
                    await tell_rate_limits(context, event.started.rate_limits)
                    yield pb.ContinueMessageResponse(started=_started(owner, event))


def _started(owner: Owner, event: AnswerStarted) -> pb.AnswerStarted:
    return pb.AnswerStarted(
        user_message=message_message(owner, event.user_message),
        answer=message_message(owner, event.answer),
        input_tokens=event.started.input_tokens,
        context_tokens=event.started.context_tokens,
        dropped_messages=event.dropped_messages,
    )


def _fill(delta: pb.AnswerDelta, event: Delta) -> None:
    # Field by field: constructors with keywords take four times as long.
    delta.text = event.text
    delta.reasoning = event.reasoning
    counts, usage = event.usage, delta.usage
    usage.input_tokens = counts.input_tokens
    usage.cached_input_tokens = counts.cached_input_tokens
    usage.output_tokens = counts.output_tokens
    usage.reasoning_tokens = counts.reasoning_tokens


def _done(owner: Owner, event: AnswerDone) -> pb.AnswerDone:
    return pb.AnswerDone(answer=message_message(owner, event.answer))
