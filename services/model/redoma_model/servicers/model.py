"""ModelService: the tenants' side of the process."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from redoma.model.v1 import model_pb2, model_pb2_grpc
from redoma_kit.errors import DomainError, InvalidField
from redoma_kit.identity import current_identity
from redoma_model.admission import Admission, adapter_for
from redoma_model.errors import AdapterNotFound
from redoma_model.models import Models
from redoma_model.served import Caller, Generation, ServedModel
from redoma_model.servicers.translate import (
    AnswerWriter,
    drop_oldest_of,
    embed_inputs_of,
    embed_response,
    form_of,
    messages_of,
    model_message,
    sampling_of,
)

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

MODEL_SERVICE = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Serves the models to those whom the process may serve."""

    def __init__(self, models: Models, admission: Admission) -> None:
        self._models = models
        self._admission = admission

    async def Generate(
        self, request: model_pb2.GenerateRequest, context: "Context"
    ) -> AsyncIterator[model_pb2.GenerateResponse]:
        """Streams an answer."""
        model, caller = self._admit(request.model, context)
        with model.in_use():
            generation = await self._accept(model, request, caller, None)
            writer = AnswerWriter(model_pb2.GenerateResponse, model.card(), generation)
            try:
                await context.send_initial_metadata(())
                with generation.stream.interrupting_reader():
                    async for event in generation.stream:
                        yield writer.response(event)
            finally:
                model.cancel(generation)

    async def GenerateGranted(
        self, requests: AsyncIterator[model_pb2.GenerateGrantedRequest], context: "Context"
    ) -> AsyncIterator[model_pb2.GenerateGrantedResponse]:
        """Streams an answer within a grant that later messages raise."""
        first = await anext(aiter(requests), model_pb2.GenerateGrantedRequest())
        if not first.HasField("generate"):
            raise InvalidField("generate", "is missing in the first message.")
        if first.granted_output_tokens < 1:
            raise InvalidField("granted_output_tokens", "must be 1 or more in the first message.")
        model, caller = self._admit(first.generate.model, context)
        with model.in_use():
            generation = await self._accept(model, first.generate, caller, first.granted_output_tokens)
            writer = AnswerWriter(model_pb2.GenerateGrantedResponse, model.card(), generation)
            granting = asyncio.create_task(_grant(model, generation, requests))
            try:
                await context.send_initial_metadata(())
                with generation.stream.interrupting_reader():
                    async for event in generation.stream:
                        yield writer.response(event)
            finally:
                granting.cancel()
                model.cancel(generation)

    async def _accept(
        self, model: ServedModel, request: model_pb2.GenerateRequest, caller: Caller, granted_tokens: int | None
    ) -> Generation:
        return await model.generate(
            messages_of(request.messages),
            sampling_of(request.sampling),
            request.continue_final_message,
            drop_oldest_of(request.truncation),
            caller,
            form_of(request.sampling),
            granted_tokens,
        )

    async def CountTokens(
        self, request: model_pb2.CountTokensRequest, context: "Context"
    ) -> model_pb2.CountTokensResponse:
        """Counts the tokens of a prompt."""
        model, _ = self._admit(request.model, context)
        with model.in_use():
            count = await model.count(messages_of(request.messages), request.continue_final_message)
        return model_pb2.CountTokensResponse(input_tokens=count, context_tokens=model.card().info.context_tokens)

    async def Embed(self, request: model_pb2.EmbedRequest, context: "Context") -> model_pb2.EmbedResponse:
        """Computes embeddings."""
        model, caller = self._admit(request.model, context)
        with model.in_use():
            embedded = await model.embed(embed_inputs_of(request.inputs), caller)
        return embed_response(embedded, model.id)

    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: "Context"
    ) -> model_pb2.ListModelsResponse:
        """Lists the models that the caller may use; one that lacks the caller's adapter is none of them."""
        identity = current_identity()
        self._admission.check(identity)
        found: list[model_pb2.Model] = []
        missing: DomainError | None = None
        for model in self._models.visible(identity.models):
            card = model.card()
            try:
                adapter_for(identity, model.adapters.loaded)
                found.append(model_message(card))
            except AdapterNotFound as error:
                missing = error
        if missing is not None and not found:
            raise missing
        return model_pb2.ListModelsResponse(models=found)

    async def GetModel(self, request: model_pb2.GetModelRequest, context: "Context") -> model_pb2.GetModelResponse:
        """Gets one model."""
        model, _ = self._admit(request.id, context)
        return model_pb2.GetModelResponse(model=model_message(model.card()))

    def _admit(self, name: str, context: "Context") -> tuple[ServedModel, Caller]:
        """Finds the model that a call is for, and says for whom it is.

        Raises:
            DomainError: The caller may not be served here, or not with this model.
        """
        identity = current_identity()
        self._admission.check(identity)
        model = self._models.find(name, identity.models)
        # Until it is loaded it has no adapters, which would be another error.
        model.card()
        adapter = adapter_for(identity, model.adapters.loaded)
        remaining_s = context.time_remaining()
        deadline = None if remaining_s is None else time.monotonic() + remaining_s
        return model, Caller(identity.tenant, identity.weight, identity.token_id, adapter, deadline)


async def _grant(
    model: ServedModel, generation: Generation, requests: AsyncIterator[model_pb2.GenerateGrantedRequest]
) -> None:
    """Raises the grant of a request whenever its caller says so."""
    async for request in requests:
        model.grant(generation, request.granted_output_tokens)
