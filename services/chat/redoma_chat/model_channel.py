"""The one seam between the chat service and the models, which it reaches through the egress.

A call fails within about a second where no model can be reached, and never hangs: the channel must be ready within
READY_WAIT_S, the response headers must come within HEADERS_WAIT_S (the model sends them before it queues a request),
and the channel's pings notice an egress that froze later, as the egress does with the models behind it.
"""

import asyncio
import re
import struct
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from redoma.common.v1 import sampling_pb2, usage_pb2
from redoma.model.v1 import model_pb2
from redoma.model.v1.model_pb2_grpc import ModelServiceStub
from redoma_chat.affinity import routing_metadata
from redoma_chat.errors import ModelRefusal, ModelUnreachable, refusal_of_model
from redoma_chat.inference import (
    Delta,
    Done,
    Embeddings,
    Event,
    FinishReason,
    ModelInfo,
    Passages,
    Prompt,
    Role,
    Started,
    TokenCount,
    TokenLogprob,
    Usage,
)
from redoma_chat.metering.grant import Grant
from redoma_chat.outgoing import call_metadata, wait_until_ready
from redoma_chat.response_format import ResponseFormat
from redoma_chat.sampling import Sampling
from redoma_kit.channel import raise_if_cancelled_here
from redoma_kit.errors import DomainError, failure_from_status
from redoma_kit.identity import current_identity
from redoma_kit.telemetry import Telemetry

HEADERS_WAIT_S = 3.0
PASSAGES_A_CALL = 128
_INPUT = re.compile(r"^inputs\[(\d+)\]", re.ASCII)
T = TypeVar("T")
if TYPE_CHECKING:
    # grpcio's classes take type arguments in its stubs alone.
    _GrantedAnswer = grpc.aio.StreamStreamCall[model_pb2.GenerateGrantedRequest, model_pb2.GenerateGrantedResponse]
    _Answer = grpc.aio.UnaryStreamCall[model_pb2.GenerateRequest, model_pb2.GenerateResponse] | _GrantedAnswer


class ModelChannel(Protocol):
    """A model that answers for the identity of the call being handled.

    Every method raises ModelUnreachable where the model does not answer, DeadlineExceeded after `timeout_s` seconds,
    and a ModelRefusal for what the model service itself refuses.
    """

    def generate(
        self, prompt: Prompt, sampling: Sampling, timeout_s: float, grant: Grant | None = None
    ) -> AsyncGenerator[Event, None]:
        """Streams one Started, then Deltas, then one Done. Closing the generator cancels the generation at once.

        `grant` is a bound that may rise while the answer streams, and that the model never passes.
        """
        ...

    async def count_tokens(self, prompt: Prompt, timeout_s: float) -> TokenCount:
        """Counts a prompt's tokens."""
        ...

    async def embed(self, passages: Passages, timeout_s: float) -> Embeddings:
        """Computes an embedding of each passage. A refusal names a passage as `inputs[i]`."""
        ...

    async def list_models(self, timeout_s: float) -> tuple[ModelInfo, ...]:
        """Lists the models served, in the order of their ids."""
        ...

    async def get_model(self, model: str, timeout_s: float) -> ModelInfo:
        """Gets one model; empty is the default one."""
        ...


class GrpcModelChannel:
    """The models behind the egress, at the other end of a gRPC channel.

    What one of them says of a failure carries an ErrorInfo; a status without one is the egress's, or of what broke on
    the way.
    """

    def __init__(self, channel: grpc.aio.Channel, telemetry: Telemetry) -> None:
        self._channel = channel
        self._stub = ModelServiceStub(channel)
        self._telemetry = telemetry

    async def generate(
        self, prompt: Prompt, sampling: Sampling, timeout_s: float, grant: Grant | None = None
    ) -> AsyncGenerator[Event, None]:
        """Streams the answer; see ModelChannel."""
        if not await wait_until_ready(self._channel):
            raise ModelUnreachable(was_asked=False)
        request = model_pb2.GenerateRequest(
            model=prompt.model,
            messages=_messages(prompt),
            sampling=sampling_message(sampling),
            continue_final_message=prompt.continues,
            truncation=model_pb2.TRUNCATION_DROP_OLDEST if prompt.drop_oldest else model_pb2.TRUNCATION_REFUSE,
        )
        metadata = self._metadata(prompt)
        granting: asyncio.Task[None] | None = None
        call: _Answer
        if grant is None:
            call = self._stub.Generate(request, timeout=timeout_s, metadata=metadata)
        else:
            call = self._stub.GenerateGranted(timeout=timeout_s, metadata=metadata)
            granting = asyncio.create_task(_grant(call, request, grant))
        try:
            async with asyncio.timeout(HEADERS_WAIT_S):
                await call.initial_metadata()
            has_started = False
            async for response in call:
                event = _event(response)
                has_started = has_started or isinstance(event, Started)
                if event is None:
                    continue
                if not has_started:
                    break
                yield event
                if isinstance(event, Done):
                    return
            raise ModelUnreachable()
        except TimeoutError:
            raise ModelUnreachable() from None
        except asyncio.CancelledError:
            raise_if_cancelled_here()
            raise ModelUnreachable() from None
        except grpc.aio.AioRpcError as error:
            raise _refusal(error) from None
        finally:
            if granting is not None:
                granting.cancel()
            call.cancel()

    async def count_tokens(self, prompt: Prompt, timeout_s: float) -> TokenCount:
        """Counts a prompt's tokens."""
        await self._ready()
        request = model_pb2.CountTokensRequest(
            model=prompt.model, messages=_messages(prompt), continue_final_message=prompt.continues
        )
        metadata = self._metadata(prompt)
        response = await _answer(self._stub.CountTokens(request, timeout=timeout_s, metadata=metadata))
        return TokenCount(response.input_tokens, response.context_tokens)

    async def embed(self, passages: Passages, timeout_s: float) -> Embeddings:
        """Computes embeddings, PASSAGES_A_CALL in a call: those of more could be larger than a message may be."""
        await self._ready()
        now_s = asyncio.get_running_loop().time
        end_s = now_s() + timeout_s
        model, vectors, usage = passages.model, list[bytes](), Usage()
        for first in range(0, len(passages.items), PASSAGES_A_CALL):
            request = _embed_request(model, passages.items[first : first + PASSAGES_A_CALL])
            metadata = self._metadata()
            try:
                response = await _answer(self._stub.Embed(request, timeout=end_s - now_s(), metadata=metadata))
            except ModelRefusal as error:
                raise error.renamed(partial(_moved, first)) from None
            except ModelUnreachable as error:
                # What was embedded before is not to be had for nothing.
                raise ModelUnreachable(was_asked=error.was_asked or first > 0) from None
            vectors += (struct.pack(f"<{len(found.values)}f", *found.values) for found in response.embeddings)
            usage += _usage(response.usage)
            # An alias that moves meanwhile must not mix two models.
            model = response.model
        return Embeddings(model, tuple(vectors), usage)

    async def list_models(self, timeout_s: float) -> tuple[ModelInfo, ...]:
        """Lists the models served."""
        await self._ready()
        request = model_pb2.ListModelsRequest()
        metadata = self._metadata()
        response = await _answer(self._stub.ListModels(request, timeout=timeout_s, metadata=metadata))
        return tuple(_model_info(model) for model in response.models)

    async def get_model(self, model: str, timeout_s: float) -> ModelInfo:
        """Gets one model."""
        await self._ready()
        request = model_pb2.GetModelRequest(id=model)
        metadata = self._metadata()
        response = await _answer(self._stub.GetModel(request, timeout=timeout_s, metadata=metadata))
        return _model_info(response.model)

    def _metadata(self, prompt: Prompt | None = None) -> tuple[tuple[str, str], ...]:
        return (*call_metadata(self._telemetry), *routing_metadata(current_identity(), prompt))

    async def _ready(self) -> None:
        if not await wait_until_ready(self._channel):
            raise ModelUnreachable(was_asked=False)


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except asyncio.CancelledError:
        raise_if_cancelled_here()
        raise ModelUnreachable() from None
    except grpc.aio.AioRpcError as error:
        raise _refusal(error) from None


def _refusal(error: grpc.aio.AioRpcError) -> DomainError:
    return refusal_of_model(error.code(), failure_from_status(error), error.details() or "")


async def _grant(call: "_GrantedAnswer", request: model_pb2.GenerateRequest, grant: Grant) -> None:
    """Asks for an answer within a grant, and tells the model whenever that rises."""
    known = grant.tokens
    try:
        await call.write(model_pb2.GenerateGrantedRequest(generate=request, granted_output_tokens=known))
        async with aclosing(grant.raises(known)) as raises:
            async for tokens in raises:
                await call.write(model_pb2.GenerateGrantedRequest(granted_output_tokens=tokens))
    except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
        # The call has ended, which its reader is told.
        return


def _event(response: model_pb2.GenerateResponse | model_pb2.GenerateGrantedResponse) -> Event | None:
    """Reads an event; None is one that this release does not know. It is done for each token."""
    match response.WhichOneof("event"):
        case "delta":
            delta = response.delta
            logprobs = tuple(map(_logprob, delta.logprobs)) if delta.logprobs else ()
            return Delta(delta.text, delta.reasoning, _usage(delta.usage), logprobs)
        case "started":
            started = response.started
            return Started(started.model, started.input_tokens, started.context_tokens, started.dropped_messages)
        case "done":
            reason = FinishReason(
                usage_pb2.FinishReason.Name(response.done.finish_reason).removeprefix("FINISH_REASON_")
            )
            return Done(reason, _usage(response.done.usage))
        case _:
            return None


def _model_info(model: model_pb2.Model) -> ModelInfo:
    return ModelInfo(model.id, model.load_time_s, model.embedding_size)


def _embed_request(model: str, items: Sequence[str | tuple[int, ...]]) -> model_pb2.EmbedRequest:
    inputs = (
        model_pb2.EmbedInput(text=item)
        if isinstance(item, str)
        else model_pb2.EmbedInput(tokens=model_pb2.TokenIds(ids=item))
        for item in items
    )
    return model_pb2.EmbedRequest(model=model, inputs=inputs)


def _moved(first: int, field: str) -> str:
    """Gives the name of a field in all passages, of which the call that named it had those from `first` on."""
    return _INPUT.sub(lambda found: f"inputs[{first + int(found[1])}]", field)


def _messages(prompt: Prompt) -> list[model_pb2.Message]:
    roles = {
        Role.SYSTEM: model_pb2.ROLE_SYSTEM,
        Role.USER: model_pb2.ROLE_USER,
        Role.ASSISTANT: model_pb2.ROLE_ASSISTANT,
    }
    return [model_pb2.Message(role=roles[turn.role], content=turn.content) for turn in prompt.turns]


def sampling_message(sampling: Sampling) -> sampling_pb2.SamplingOptions:
    """Gives the options as the wire has them."""
    return sampling_pb2.SamplingOptions(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repeat_penalty=sampling.repeat_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        stop=sampling.stop,
        max_output_tokens=sampling.max_output_tokens,
        ignore_eos=sampling.ignore_eos,
        logit_bias=sampling.logit_bias,
        logprobs=sampling.logprobs,
        top_logprobs=sampling.top_logprobs,
        response_format=_response_format(sampling.response_format),
    )


def _response_format(wanted: ResponseFormat | None) -> sampling_pb2.ResponseFormat | None:
    if wanted is None:
        return None
    if wanted.kind == "json_schema":
        return sampling_pb2.ResponseFormat(json_schema=wanted.text)
    if wanted.kind == "grammar":
        return sampling_pb2.ResponseFormat(grammar=wanted.text)
    return sampling_pb2.ResponseFormat(json_object=True)


def _usage(usage: usage_pb2.Usage) -> Usage:
    return Usage(usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens)


def _logprob(entry: sampling_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(entry.token, entry.logprob, tuple(TokenLogprob(top.token, top.logprob) for top in entry.top))
