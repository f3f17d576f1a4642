"""Between the domain's values and the messages of redoma.chat.v1."""

from google.protobuf.timestamp_pb2 import Timestamp

from redoma.chat.v1 import conversation_pb2, message_pb2
from redoma.common.v1 import sampling_pb2, usage_pb2
from redoma_chat.conversations import Conversation, Message, MessageState
from redoma_chat.inference import FinishReason, Role, Usage
from redoma_chat.model_channel import sampling_message
from redoma_chat.names import Owner
from redoma_chat.response_format import ResponseFormat
from redoma_chat.sampling import Sampling
from redoma_kit.errors import InvalidField

_ROLES = {Role.USER: message_pb2.Message.ROLE_USER, Role.ASSISTANT: message_pb2.Message.ROLE_ASSISTANT}
_STATES = {
    MessageState.STREAMING: message_pb2.Message.STATE_STREAMING,
    MessageState.COMPLETE: message_pb2.Message.STATE_COMPLETE,
    MessageState.PARTIAL: message_pb2.Message.STATE_PARTIAL,
}
_REASONS = {
    None: usage_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: usage_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: usage_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: usage_pb2.FINISH_REASON_CANCELLED,
    FinishReason.INTERRUPTED: usage_pb2.FINISH_REASON_INTERRUPTED,
    FinishReason.CONTENT_FILTER: usage_pb2.FINISH_REASON_CONTENT_FILTER,
}
_OPTIONAL = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "max_output_tokens",
)


def sampling_of(options: sampling_pb2.SamplingOptions, path: str) -> Sampling:
    """Reads sampling wishes from the field `path`.

    Raises:
        InvalidField: They name a form of the answer without saying which.
    """
    return Sampling(
        **{name: getattr(options, name) for name in _OPTIONAL if options.HasField(name)},  # type: ignore[arg-type]
        stop=tuple(options.stop),
        ignore_eos=options.ignore_eos,
        logit_bias=dict(options.logit_bias),
        logprobs=options.logprobs,
        top_logprobs=options.top_logprobs,
        response_format=_response_format(options, path),
    )


def _response_format(options: sampling_pb2.SamplingOptions, path: str) -> ResponseFormat | None:
    if not options.HasField("response_format"):
        return None
    wanted = options.response_format
    kind = wanted.WhichOneof("form")
    if kind is None:
        raise InvalidField(f"{path}.response_format", "must have json_schema, json_object or grammar")
    if kind == "json_object":
        if not wanted.json_object:
            raise InvalidField(f"{path}.response_format.json_object", "must be true")
        return ResponseFormat(kind)
    return ResponseFormat(kind, wanted.json_schema if kind == "json_schema" else wanted.grammar)


def conversation_of(message: conversation_pb2.Conversation, conversation_id: str) -> Conversation:
    """Reads a conversation's settings."""
    return Conversation(
        id=conversation_id,
        title=message.title,
        system_prompt=message.system_prompt,
        model=message.model,
        sampling=sampling_of(message.sampling, "conversation.sampling"),
    )


def conversation_message(owner: Owner, conversation: Conversation) -> conversation_pb2.Conversation:
    """Gives a conversation as the wire has it."""
    return conversation_pb2.Conversation(
        name=owner.conversation_name(conversation.id),
        title=conversation.title,
        system_prompt=conversation.system_prompt,
        model=conversation.model,
        sampling=sampling_message(conversation.sampling),
        create_time=_timestamp(conversation.create_time_us),
        update_time=_timestamp(conversation.update_time_us),
        latest_message=owner.message_name(conversation.id, conversation.latest_message_id),
    )


def message_message(owner: Owner, message: Message) -> message_pb2.Message:
    """Gives a message as the wire has it."""
    return message_pb2.Message(
        name=owner.message_name(message.conversation_id, message.id),
        parent_message=owner.message_name(message.conversation_id, message.parent_id),
        role=_ROLES[message.role],
        content=message.content,
        reasoning=message.reasoning,
        state=_STATES[message.state],
        finish_reason=_REASONS[message.finish_reason],
        usage=usage_message(message.usage) if message.role is Role.ASSISTANT else None,
        model=message.model,
        create_time=_timestamp(message.create_time_us),
        update_time=_timestamp(message.update_time_us),
    )


def usage_message(usage: Usage) -> usage_pb2.Usage:
    """Gives counts as the wire has them."""
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def _timestamp(microseconds: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(microseconds)
    return timestamp
