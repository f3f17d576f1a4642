"""EngineService: the operators' side of the process. Nothing of it tells a prompt or an answer."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from redoma.model.v1 import engine_pb2 as pb
from redoma.model.v1 import engine_pb2_grpc
from redoma_kit.errors import InvalidField, ShuttingDown
from redoma_kit.interceptors.drain import Drain
from redoma_kit.pages import page_position, page_size, page_token
from redoma_model.admission import Admission
from redoma_model.engine.state import Purged
from redoma_model.errors import ModelFileInvalid
from redoma_model.folders import PathOutside, path_within
from redoma_model.journal import UsageJournal
from redoma_model.manifest import MAX_SCALE, TENANT, is_scale
from redoma_model.models import Models
from redoma_model.served import ServedModel
from redoma_model.servicers.state import adapter_message, record_message, state_message
from redoma_model.servicers.translate import model_message
from redoma_model.settings import MODEL_ID, ModelSettings

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

ENGINE_SERVICE = pb.DESCRIPTOR.services_by_name["EngineService"].full_name
DEFAULT_INTERVAL_S, LEAST_INTERVAL_S, MOST_INTERVAL_S = 1.0, 0.1, 60.0
DEFAULT_RECORDS, MOST_RECORDS = 100, 1_000
MAX_SLOTS = 128
LEAST_CONTEXT_TOKENS = 64
# What is left of a call's time to answer in, once the running requests of an unloaded model were given the rest.
ANSWER_MARGIN_S = 2.0
_NAME = re.compile(MODEL_ID)


class EngineServicer(engine_pb2_grpc.EngineServiceServicer):
    """Shows and steers the models of the process."""

    def __init__(
        self, models: Models, journal: UsageJournal, admission: Admission, settings: ModelSettings, drain: Drain
    ) -> None:
        self._models = models
        self._journal = journal
        self._admission = admission
        self._settings = settings
        self._drain = drain

    async def GetEngineState(self, request: pb.GetEngineStateRequest, context: "Context") -> pb.GetEngineStateResponse:
        """Gets the state of every model."""
        return pb.GetEngineStateResponse(state=await self._state())

    async def WatchEngine(
        self, request: pb.WatchEngineRequest, context: "Context"
    ) -> AsyncIterator[pb.WatchEngineResponse]:
        """Streams the state. It ends when the service begins to shut down: nobody is to wait for it."""
        interval_s = DEFAULT_INTERVAL_S
        if request.HasField("interval"):
            interval_s = request.interval.ToNanoseconds() / 1e9
        if not LEAST_INTERVAL_S <= interval_s <= MOST_INTERVAL_S:
            raise InvalidField("interval", f"{interval_s:g} s is not {LEAST_INTERVAL_S:g} to {MOST_INTERVAL_S:g} s.")
        while True:
            yield pb.WatchEngineResponse(state=await self._state())
            if await self._drain.begins_within(interval_s):
                raise ShuttingDown()

    async def PurgeTenant(self, request: pb.PurgeTenantRequest, context: "Context") -> pb.PurgeTenantResponse:
        """Drops what is held of a tenant in every model."""
        if not TENANT.fullmatch(request.tenant):
            raise InvalidField("tenant", f"{request.tenant!r:.100} is no tenant's id.")
        self._ready()
        purging = (_purge(model, request.tenant) for model in self._models.holding())
        purged = await asyncio.gather(*purging)
        return pb.PurgeTenantResponse(
            ended_requests=sum(one.ended_requests for one in purged),
            freed_cells=sum(one.freed_cells for one in purged),
            freed_host_bytes=sum(one.freed_host_bytes for one in purged),
        )

    async def ListUsageRecords(
        self, request: pb.ListUsageRecordsRequest, context: "Context"
    ) -> pb.ListUsageRecordsResponse:
        """Lists what requests cost."""
        if len(request.token_ids) > MOST_RECORDS:
            raise InvalidField("token_ids", f"has {len(request.token_ids)} entries, at most {MOST_RECORDS}.")
        if request.tenant and not TENANT.fullmatch(request.tenant):
            raise InvalidField("tenant", f"{request.tenant!r:.100} is no tenant's id.")
        size = page_size(request.page_size, DEFAULT_RECORDS, MOST_RECORDS)
        same = (request.tenant, *sorted(request.token_ids))
        position = page_position(request.page_token, same, (int,))
        before = None if position is None else int(position[0])
        records = self._journal.latest(size + 1, before, request.tenant, request.token_ids)
        more = len(records) > size
        return pb.ListUsageRecordsResponse(
            records=[record_message(record) for record in records[:size]],
            next_page_token=page_token(same, (records[size - 1].place,)) if more else "",
        )

    async def LoadModel(self, request: pb.LoadModelRequest, context: "Context") -> AsyncIterator[pb.LoadModelResponse]:
        """Loads a model, with progress."""
        settings = self._model_settings(request)
        async with aclosing(self._models.load(settings)) as events:
            async for event in events:
                if isinstance(event, ServedModel):
                    yield pb.LoadModelResponse(model=model_message(event.card()))
                else:
                    yield pb.LoadModelResponse(progress=event)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: "Context") -> pb.UnloadModelResponse:
        """Takes a model out of service and frees it."""
        remaining_s = context.time_remaining()
        patience_s = self._settings.max_stream_s if remaining_s is None else remaining_s - ANSWER_MARGIN_S
        await self._models.unload(_required("id", request.id), max(0.0, patience_s))
        return pb.UnloadModelResponse()

    async def SetModelAlias(self, request: pb.SetModelAliasRequest, context: "Context") -> pb.SetModelAliasResponse:
        """Makes a name stand for a model."""
        self._models.set_alias(_name("alias", request.alias), _required("model", request.model))
        return pb.SetModelAliasResponse()

    async def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: "Context"
    ) -> pb.DeleteModelAliasResponse:
        """Takes an alias away."""
        self._models.delete_alias(_required("alias", request.alias))
        return pb.DeleteModelAliasResponse()

    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: "Context") -> pb.LoadAdapterResponse:
        """Loads an adapter."""
        scale = request.scale if request.HasField("scale") else None
        if scale is not None and not is_scale(scale):
            raise InvalidField("scale", f"{scale:g} is not above 0 and at most {MAX_SCALE:g}.")
        model = self._models.find(request.model, ())
        model.card()
        adapter = await model.adapters.load(_required("manifest", request.manifest), scale)
        return pb.LoadAdapterResponse(adapter=adapter_message(adapter, 0))

    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: "Context") -> pb.UnloadAdapterResponse:
        """Takes an adapter out of service and frees it."""
        model = self._models.find(request.model, ())
        await model.adapters.unload(_required("digest", request.digest))
        return pb.UnloadAdapterResponse()

    async def _state(self) -> pb.EngineState:
        models = self._ready()
        snapshots = await asyncio.gather(*(model.engine.snapshot() for model in models))
        paired = zip(models, snapshots, strict=True)
        return state_message(paired, self._models.aliases, self._admission.dedicated_tenant)

    def _ready(self) -> list[ServedModel]:
        models = self._models.listed()
        for model in models:
            model.card()
        return models

    def _model_settings(self, request: pb.LoadModelRequest) -> ModelSettings:
        folder = self._settings.models_dir
        if folder is None:
            raise InvalidField("file", "this service has no model folder; its setting models_dir names one.")
        if not 0 <= request.slots <= MAX_SLOTS:
            raise InvalidField("slots", f"{request.slots} is not 0 to {MAX_SLOTS}.")
        if not 0 <= request.kv_cells <= 2**31 - 1:
            raise InvalidField("kv_cells", f"{request.kv_cells} is not 0 or more.")
        if request.context_tokens and request.context_tokens < LEAST_CONTEXT_TOKENS:
            raise InvalidField("context_tokens", f"{request.context_tokens} is not {LEAST_CONTEXT_TOKENS} or more.")
        if request.id:
            _name("id", request.id)
        try:
            file = path_within(folder, _required("file", request.file))
        except PathOutside as error:
            raise InvalidField("file", str(error)) from error
        if not file.is_file():
            raise ModelFileInvalid(request.file, f"There is no file {request.file!r:.200} in the model folder.")
        settings = self._settings.for_model(file, request.id, request.slots, request.kv_cells, request.context_tokens)
        if not settings.step_holds_slots:
            raise InvalidField("slots", f"{request.slots} are too many for the service's step_tokens.")
        return settings


async def _purge(model: ServedModel, tenant: str) -> Purged:
    try:
        return await model.engine.purge(tenant)
    except ShuttingDown:
        # It was unloaded meanwhile, with all it held.
        return Purged(0, 0, 0)


def _required(field: str, value: str) -> str:
    if not value:
        raise InvalidField(field, "must be given.")
    return value


def _name(field: str, value: str) -> str:
    if not value or not _NAME.fullmatch(value):
        raise InvalidField(field, "must be 1 to 128 letters, digits and `._:/-`.")
    return value
