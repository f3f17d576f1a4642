"""OpenAIService on the wire: bodies in OpenAI's shapes, carried as they are."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from google.api.httpbody_pb2 import HttpBody

from redoma.chat.v1 import openai_pb2
from redoma.chat.v1.openai_pb2_grpc import OpenAIServiceServicer
from redoma_chat.deadline import Deadline
from redoma_chat.errors import CHAT_ERRORS, ModelRefusal, ModelUnreachable
from redoma_chat.guarded_model import GuardedModel
from redoma_chat.ids import IdSource
from redoma_chat.inference import NO_RATE_LIMITS, Delta, Done, Event, Prompt, Started
from redoma_chat.model_channel import ModelChannel
from redoma_chat.openai.embeddings import embedding_pieces, parse_embedding
from redoma_chat.openai.errors import error_event
from redoma_chat.openai.request import ChatCompletionRequest, parse_ask, parse_chat_completion
from redoma_chat.openai.response import CompletionObject, CompletionStream, model_list, model_object, to_json
from redoma_chat.sampling import Sampling
from redoma_chat.servicers.context import Context, Deadlines, tell_rate_limits
from redoma_kit.errors import DomainError, failure_of, internal_failure
from redoma_kit.identity import current_identity
from redoma_kit.interceptors.request_id import current_request_id

JSON = "application/json"
EVENTS = "text/event-stream"


class OpenAIServicer(OpenAIServiceServicer):
    """Answers as OpenAI's REST API does; keeps nothing."""

    def __init__(
        self,
        guarded: GuardedModel,
        model: ModelChannel,
        ids: IdSource,
        deadlines: Deadlines,
        now_s: Callable[[], float],
    ) -> None:
        self._guarded = guarded
        self._model = model
        self._ids = ids
        self._deadlines = deadlines
        self._now_s = now_s

    async def CreateChatCompletion(self, request: HttpBody, context: Context) -> AsyncIterator[HttpBody]:
        """Answers a list of messages, as one object or as events."""
        deadline = self._deadlines.of(context)
        wanted = parse_chat_completion(request.data)
        if not wanted.streams:
            completion, done = await self._collect(wanted.prompt, wanted.sampling, deadline, context)
            yield HttpBody(content_type=JSON, data=completion.completion(done.finish_reason, done.usage))
            return
        async with aclosing(self._stream(wanted, deadline, context)) as chunks:
            async for chunk in chunks:
                yield HttpBody(content_type=EVENTS, data=chunk)

    async def _stream(
        self, wanted: ChatCompletionRequest, deadline: Deadline, context: Context
    ) -> AsyncGenerator[bytes, None]:
        stream: CompletionStream | None = None
        try:
            async with aclosing(await self._events(wanted.prompt, wanted.sampling, deadline)) as events:
                async for event in events:
                    if isinstance(event, Started):
                        # Nothing goes out before the model has started: until then a failure is an HTTP status.
                        stream = CompletionStream(
                            self._completion_id(), int(self._now_s()), event.model, wanted.includes_usage
                        )
                        await tell_rate_limits(context, event.rate_limits)
                        yield stream.first()
                    elif stream is None:
                        raise ModelUnreachable()
                    elif isinstance(event, Delta):
                        if chunk := stream.delta(event):
                            yield chunk
                    else:
                        yield stream.done(event.finish_reason, event.usage)
        except DomainError as error:
            # HTTP's status went out long ago: an event has to say it, and the gRPC status after it tells the log.
            # Where the call was ended in the middle of a write, nobody takes another.
            if stream is not None and not isinstance(error.__context__, GeneratorExit):
                yield error_event(failure_of(error, CHAT_ERRORS))
            raise
        except Exception:
            if stream is not None:
                yield error_event(internal_failure(current_request_id()))
            raise

    async def Ask(self, request: HttpBody, context: Context) -> HttpBody:
        """Answers one question."""
        wanted = parse_ask(request.data)
        completion, done = await self._collect(wanted.prompt, wanted.sampling, self._deadlines.of(context), context)
        return HttpBody(content_type=JSON, data=completion.answer(done.finish_reason, done.usage))

    async def CreateEmbedding(self, request: HttpBody, context: Context) -> AsyncIterator[HttpBody]:
        """Embeds texts."""
        deadline = self._deadlines.of(context)
        wanted = parse_embedding(request.data)
        try:
            if wanted.dimensions is not None:
                model = await self._model.get_model(wanted.passages.model, deadline.remaining_s)
                wanted.check_dimensions(model.embedding_size)
            embeddings = await self._guarded.embed(current_identity().tenant, wanted.passages, deadline)
        except ModelRefusal as error:
            raise error.renamed(wanted.body_path) from None
        await tell_rate_limits(context, embeddings.rate_limits)
        for piece in embedding_pieces(embeddings, wanted.as_base64):
            yield HttpBody(content_type=JSON, data=piece)

    async def ListModels(self, request: openai_pb2.ListModelsRequest, context: Context) -> HttpBody:
        """Lists the models."""
        models = await self._model.list_models(self._deadlines.of(context).remaining_s)
        return HttpBody(content_type=JSON, data=to_json(model_list(models)).encode())

    async def GetModel(self, request: openai_pb2.GetModelRequest, context: Context) -> HttpBody:
        """Gets one model."""
        model = await self._model.get_model(request.model, self._deadlines.of(context).remaining_s)
        return HttpBody(content_type=JSON, data=to_json(model_object(model)).encode())

    async def _collect(
        self, prompt: Prompt, sampling: Sampling, deadline: Deadline, context: Context
    ) -> tuple[CompletionObject, Done]:
        completion: CompletionObject | None = None
        limits = NO_RATE_LIMITS
        async with aclosing(await self._events(prompt, sampling, deadline)) as events:
            async for event in events:
                if isinstance(event, Started):
                    completion = CompletionObject(self._completion_id(), int(self._now_s()), event.model)
                    limits = event.rate_limits
                elif completion is None:
                    break
                elif isinstance(event, Delta):
                    completion.add(event)
                else:
                    # Not before: until headers go out a failure is an HTTP status.
                    await tell_rate_limits(context, limits)
                    return completion, event
        raise ModelUnreachable()

    async def _events(self, prompt: Prompt, sampling: Sampling, deadline: Deadline) -> AsyncGenerator[Event, None]:
        checked = await self._guarded.check(current_identity().tenant, prompt, deadline)
        return self._guarded.generate(checked, sampling, deadline)

    def _completion_id(self) -> str:
        return f"chatcmpl-{self._ids.new()}"
