"""ModelService: protobuf in and out, and nothing else."""

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import grpc

from redoma.common.v1 import sampling_pb2, usage_pb2
from redoma.model.v1 import model_pb2, model_pb2_grpc
from redoma_kit.errors import InvalidField
from redoma_kit.identity import current_identity
from redoma_model.engine.backend import TokenLogprob
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.stream import Delta, Done, FinishReason, Started
from redoma_model.engine.template import Message, Role
from redoma_model.served import Card, Generation, ServedModel

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
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


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Serves one model."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model

    async def Generate(
        self, request: model_pb2.GenerateRequest, context: "Context"
    ) -> AsyncIterator[model_pb2.GenerateResponse]:
        """Streams an answer."""
        card = self._card(request.model)
        generation = await self._model.generate(
            _messages(request.messages),
            _sampling(request.sampling),
            request.continue_final_message,
            _drop_oldest(request.truncation),
        )
        try:
            await context.send_initial_metadata(())
            with generation.stream.interrupting_reader():
                async for event in generation.stream:
                    yield _response(event, card, generation)
        finally:
            self._model.cancel(generation)

    async def CountTokens(
        self, request: model_pb2.CountTokensRequest, context: "Context"
    ) -> model_pb2.CountTokensResponse:
        """Counts the tokens of a prompt."""
        card = self._card(request.model)
        count = await self._model.count(_messages(request.messages), request.continue_final_message)
        return model_pb2.CountTokensResponse(input_tokens=count, context_tokens=card.info.context_tokens)

    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: "Context"
    ) -> model_pb2.ListModelsResponse:
        """Lists the models the caller may use."""
        allowed = current_identity().models
        if allowed and self._model.id not in allowed:
            return model_pb2.ListModelsResponse()
        return model_pb2.ListModelsResponse(models=[_model(self._card(""))])

    async def GetModel(self, request: model_pb2.GetModelRequest, context: "Context") -> model_pb2.GetModelResponse:
        """Gets one model."""
        return model_pb2.GetModelResponse(model=_model(self._card(request.id)))

    def _card(self, model_id: str) -> Card:
        return self._model.card(current_identity().models, model_id)


def _messages(messages: Iterable[model_pb2.Message]) -> list[Message]:
    found: list[Message] = []
    for index, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidField(f"messages[{index}].role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT.")
        found.append(Message(role, message.content))
    return found


def _drop_oldest(truncation: "model_pb2.Truncation.ValueType") -> bool:
    if truncation not in _TRUNCATIONS:
        raise InvalidField("truncation", f"{truncation} is not a Truncation.")
    return _TRUNCATIONS[truncation]


def _sampling(options: sampling_pb2.SamplingOptions) -> dict[str, Any]:
    given: dict[str, Any] = {name: getattr(options, name) for name in _OPTIONAL if options.HasField(name)}  # type: ignore[arg-type]
    return given | {
        "stop": tuple(options.stop),
        "ignore_eos": options.ignore_eos,
        "logit_bias": dict(options.logit_bias),
        "logprobs": options.logprobs,
        "top_logprobs": options.top_logprobs,
    }


def _response(event: Started | Delta | Done, card: Card, generation: Generation) -> model_pb2.GenerateResponse:
    match event:
        case Delta():
            return model_pb2.GenerateResponse(
                delta=model_pb2.GenerateResponse.Delta(
                    text=event.text,
                    reasoning=event.reasoning,
                    logprobs=[_logprob(entry) for entry in event.logprobs],
                    usage=_usage(event, generation),
                )
            )
        case Started():
            return model_pb2.GenerateResponse(
                started=model_pb2.GenerateResponse.Started(
                    model=card.id,
                    input_tokens=event.input_tokens,
                    context_tokens=card.info.context_tokens,
                    dropped_messages=generation.dropped_messages,
                    queue_s=event.queue_s,
                )
            )
        case Done():
            return model_pb2.GenerateResponse(
                done=model_pb2.GenerateResponse.Done(
                    finish_reason=_FINISH_REASONS[event.finish_reason],
                    usage=_usage(event, generation),
                    prefill_s=event.prefill_s,
                    decode_s=event.decode_s,
                )
            )


def _usage(event: Delta | Done, generation: Generation) -> usage_pb2.Usage:
    return usage_pb2.Usage(
        input_tokens=generation.input_tokens,
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


def _model(card: Card) -> model_pb2.Model:
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
