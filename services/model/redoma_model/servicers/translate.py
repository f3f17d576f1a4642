"""ModelService's messages to the domain's values and back."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from redoma.common.v1 import sampling_pb2, usage_pb2
from redoma.model.v1 import model_pb2
from redoma_kit.errors import InvalidField
from redoma_model.embedding import Embedded, EmbedInput
from redoma_model.engine.backend import TokenLogprob
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.stream import Delta, Done, FinishReason, Started
from redoma_model.engine.template import Message, Role
from redoma_model.forms.structured_output import FIELD as FORM_FIELD
from redoma_model.forms.structured_output import Grammar, JsonObject, JsonSchema, ResponseForm
from redoma_model.served import Card, Generation

_ROLES = {
    model_pb2.ROLE_SYSTEM: Role.SYSTEM,
    model_pb2.ROLE_USER: Role.USER,
    model_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_FINISH_REASONS = {
    FinishReason.STOP: usage_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: usage_pb2.FINISH_REASON_LENGTH,
}
_TRUNCATIONS = {
    model_pb2.TRUNCATION_UNSPECIFIED: False,
    model_pb2.TRUNCATION_REFUSE: False,
    model_pb2.TRUNCATION_DROP_OLDEST: True,
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
ResponseT = TypeVar("ResponseT", model_pb2.GenerateResponse, model_pb2.GenerateGrantedResponse)


def messages_of(messages: Iterable[model_pb2.Message]) -> list[Message]:
    """Reads the turns of a conversation.

    Raises:
        InvalidField: One has no role.
    """
    found: list[Message] = []
    for index, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidField(f"messages[{index}].role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT.")
        found.append(Message(role, message.content))
    return found


def drop_oldest_of(truncation: "model_pb2.Truncation.ValueType") -> bool:
    """Tells whether the oldest turns are to be left out when the prompt does not fit.

    Raises:
        InvalidField: It is no Truncation.
    """
    if truncation not in _TRUNCATIONS:
        raise InvalidField("truncation", f"{truncation} is not a Truncation.")
    return _TRUNCATIONS[truncation]


def sampling_of(options: sampling_pb2.SamplingOptions) -> dict[str, Any]:
    """Gives the fields of Sampling that a request sets."""
    given: dict[str, Any] = {name: getattr(options, name) for name in _OPTIONAL if options.HasField(name)}  # type: ignore[arg-type]
    return given | {
        "stop": tuple(options.stop),
        "ignore_eos": options.ignore_eos,
        "logit_bias": dict(options.logit_bias),
        "logprobs": options.logprobs,
        "top_logprobs": options.top_logprobs,
    }


def form_of(options: sampling_pb2.SamplingOptions) -> ResponseForm | None:
    """Gives the form that the answer must have; None is any.

    Raises:
        InvalidField: It is none of the forms.
    """
    if not options.HasField("response_format"):
        return None
    given = options.response_format
    match given.WhichOneof("form"):
        case "json_schema":
            return JsonSchema(given.json_schema)
        case "grammar":
            return Grammar(given.grammar)
        case "json_object":
            if not given.json_object:
                raise InvalidField(f"{FORM_FIELD}.json_object", "must be true where it is given.")
            return JsonObject()
        case _:
            raise InvalidField(FORM_FIELD, "must be json_schema, json_object or grammar.")


def embed_inputs_of(inputs: Iterable[model_pb2.EmbedInput]) -> list[EmbedInput]:
    """Reads the texts to embed.

    Raises:
        InvalidField: One is neither a text nor tokens.
    """
    found: list[EmbedInput] = []
    for index, given in enumerate(inputs):
        match given.WhichOneof("content"):
            case "text":
                found.append(given.text)
            case "tokens":
                found.append(tuple(given.tokens.ids))
            case _:
                raise InvalidField(f"inputs[{index}]", "must be a text or tokens.")
    return found


def embed_response(embedded: Embedded, model_id: str) -> model_pb2.EmbedResponse:
    """Writes what Embed gives."""
    return model_pb2.EmbedResponse(
        embeddings=[model_pb2.Embedding(values=vector.tolist()) for vector in embedded.vectors],
        usage=usage_pb2.Usage(input_tokens=embedded.input_tokens),
        model=model_id,
    )


class AnswerWriter(Generic[ResponseT]):
    """Writes the events of one answer, as messages of one class."""

    __slots__ = ("_cached_tokens", "_card", "_generation", "_message")

    def __init__(self, message: Callable[..., ResponseT], card: Card, generation: Generation) -> None:
        self._message: Callable[..., ResponseT] = message
        self._card = card
        self._generation = generation
        self._cached_tokens = 0

    def response(self, event: Started | Delta | Done) -> ResponseT:
        """Writes the next event."""
        match event:
            case Delta():
                return self._delta(event)
            case Started():
                self._cached_tokens = event.cached_tokens
                return self._message(
                    started=model_pb2.GenerateResponse.Started(
                        model=self._card.id,
                        input_tokens=event.input_tokens,
                        context_tokens=self._card.info.context_tokens,
                        dropped_messages=self._generation.dropped_messages,
                        queue_s=event.queue_s,
                    )
                )
            case Done():
                return self._message(
                    done=model_pb2.GenerateResponse.Done(
                        finish_reason=_FINISH_REASONS[event.finish_reason],
                        usage=self._usage(event),
                        prefill_s=event.prefill_s,
                        decode_s=event.decode_s,
                    )
                )

    def _delta(self, event: Delta) -> ResponseT:
        # Field by field: constructors with keywords take four times as long, and this is done for each token.
        response = self._message()
        delta = response.delta
        delta.text = event.text
        delta.reasoning = event.reasoning
        if event.logprobs:
            delta.logprobs.extend(map(_logprob, event.logprobs))
        usage = delta.usage
        usage.input_tokens = self._generation.input_tokens
        usage.cached_input_tokens = self._cached_tokens
        usage.output_tokens = event.output_tokens
        usage.reasoning_tokens = event.reasoning_tokens
        return response

    def _usage(self, event: Delta | Done) -> usage_pb2.Usage:
        return usage_pb2.Usage(
            input_tokens=self._generation.input_tokens,
            cached_input_tokens=self._cached_tokens,
            output_tokens=event.output_tokens,
            reasoning_tokens=event.reasoning_tokens,
        )


def _logprob(entry: TokenLogprob) -> sampling_pb2.TokenLogprob:
    return sampling_pb2.TokenLogprob(
        token_id=entry.token_id,
        token=entry.token,
        logprob=entry.logprob,
        top=[_logprob(rival) for rival in entry.top],
    )


def model_message(card: Card) -> model_pb2.Model:
    """Writes a model's card."""
    info = card.info
    return model_pb2.Model(
        id=card.id,
        display_name=info.display_name,
        parameters=info.parameters,
        size_bytes=info.size_bytes,
        context_tokens=info.context_tokens,
        slots=info.slots,
        quantization=info.quantization,
        load_time_s=card.loaded_at_s,
        default_sampling=_defaults(card.default_sampling),
        reasons=card.reasons,
        embedding_size=info.embedding_size,
    )


def _defaults(sampling: Sampling) -> sampling_pb2.SamplingOptions:
    return sampling_pb2.SamplingOptions(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repeat_penalty=sampling.repeat_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )
