"""Doubles of the services that the chat service calls: real gRPC servers over mutual TLS that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from redoma.common.v1 import sampling_pb2, usage_pb2
from redoma.model.v1 import model_pb2
from redoma.model.v1.model_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from redoma.tenant.v1 import tenant_pb2
from redoma.tenant.v1.meter_pb2_grpc import MeterServiceServicer, add_MeterServiceServicer_to_server
from redoma.tenant.v1.tenant_pb2_grpc import TenantServiceServicer, add_TenantServiceServicer_to_server
from redoma_kit.settings import TlsSettings
from tests.fakes.server_credentials import server_credentials

MODEL = "fake-model"
MODEL_HEALTH_NAME = "redoma.model.v1.ModelService"
INPUT_TOKENS = 11
CONTEXT_TOKENS = 8192
EMBEDDING_SIZE = 3
# As Redoma's own servers: clients may ping each second, also on an idle connection.
SERVER_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
]


@dataclass(frozen=True, slots=True)
class Say:
    """Sends a delta of one token."""

    text: str = ""
    reasoning: str = ""
    logprobs: tuple[sampling_pb2.TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Goes on when the event is set; never, where it never is."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Fail:
    """Ends the call with a status; one of Redoma's, if it has a reason."""

    code: grpc.StatusCode
    reason: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    retry_s: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """Sends `done`."""

    reason: str = "STOP"


Step = Say | WaitFor | Fail | Finish
GREETING: tuple[Step, ...] = (Say("Hello"), Say(" there"), Finish())


class FakeModel(ModelServiceServicer):
    """Plays `script` for each Generate; `before_start` comes before `started`.

    Attributes:
        requests: What Generate was asked.
        metadata: What came with it.
        cancelled: Set when a Generate was cancelled.
        count: What CountTokens answers.
        holds_headers: Keeps the response headers of Generate back, as a frozen peer does.
        embed_requests: What Embed was asked.
        before_embedding: What Embed does before it answers: WaitFor and Fail only.
        grants: What GenerateGranted was granted, one number after the other.
    """

    def __init__(self) -> None:
        self.script: Sequence[Step] = GREETING
        self.before_start: Sequence[Step] = ()
        self.requests: list[model_pb2.GenerateRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.count_requests: list[model_pb2.CountTokensRequest] = []
        self.cancelled = asyncio.Event()
        self.count = INPUT_TOKENS
        self.dropped = 0
        self.holds_headers = False
        self.embed_requests: list[model_pb2.EmbedRequest] = []
        self.before_embedding: Sequence[Step] = ()
        self.grants: list[int] = []

    async def Generate(
        self, request: model_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[model_pb2.GenerateResponse]:
        """Plays the script."""
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            if self.holds_headers:
                await asyncio.Event().wait()
            await context.send_initial_metadata(())
            async for response in self._play(self.before_start, context):
                yield response
            yield model_pb2.GenerateResponse(
                started=model_pb2.GenerateResponse.Started(
                    model=MODEL,
                    input_tokens=INPUT_TOKENS,
                    context_tokens=CONTEXT_TOKENS,
                    dropped_messages=self.dropped,
                )
            )
            async for response in self._play(self.script, context):
                yield response
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def GenerateGranted(
        self, requests: AsyncIterator[model_pb2.GenerateGrantedRequest], context: Any
    ) -> AsyncIterator[model_pb2.GenerateGrantedResponse]:
        """Plays the script as far as is granted, and takes what is granted on the way."""
        first = await anext(aiter(requests))
        self.grants.append(first.granted_output_tokens)

        async def take() -> None:
            async for request in requests:
                self.grants.append(request.granted_output_tokens)

        taking = asyncio.create_task(take())
        try:
            async for response in self.Generate(first.generate, context):
                granted = model_pb2.GenerateGrantedResponse.FromString(response.SerializeToString())
                yield granted
                if granted.delta.usage.output_tokens >= max(self.grants):
                    done = model_pb2.GenerateResponse.Done(
                        finish_reason=usage_pb2.FINISH_REASON_LENGTH, usage=granted.delta.usage
                    )
                    yield model_pb2.GenerateGrantedResponse(done=done)
                    return
        finally:
            taking.cancel()

    async def _play(self, script: Sequence[Step], context: Any) -> AsyncIterator[model_pb2.GenerateResponse]:
        usage = usage_pb2.Usage(input_tokens=INPUT_TOKENS, cached_input_tokens=3)
        for step in script:
            match step:
                case Say():
                    usage.output_tokens += 1
                    usage.reasoning_tokens += 1 if step.reasoning else 0
                    yield model_pb2.GenerateResponse(
                        delta=model_pb2.GenerateResponse.Delta(
                            text=step.text, reasoning=step.reasoning, usage=usage, logprobs=step.logprobs
                        )
                    )
                case WaitFor():
                    await step.event.wait()
                case Fail():
                    await abort(context, step)
                case Finish():
                    reason = usage_pb2.FinishReason.Value(f"FINISH_REASON_{step.reason}")
                    yield model_pb2.GenerateResponse(
                        done=model_pb2.GenerateResponse.Done(finish_reason=reason, usage=usage)
                    )

    async def CountTokens(self, request: model_pb2.CountTokensRequest, context: Any) -> model_pb2.CountTokensResponse:
        """Answers `count`."""
        self.count_requests.append(request)
        return model_pb2.CountTokensResponse(input_tokens=self.count, context_tokens=CONTEXT_TOKENS)

    async def Embed(self, request: model_pb2.EmbedRequest, context: Any) -> model_pb2.EmbedResponse:
        """Answers the embedding_of() each passage, which costs as many tokens as it has tokens or letters."""
        self.embed_requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            async for _ in self._play(self.before_embedding, context):
                raise AssertionError("an Embed has no events")
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        passages = [item.text or tuple(item.tokens.ids) for item in request.inputs]
        return model_pb2.EmbedResponse(
            embeddings=[model_pb2.Embedding(values=embedding_of(passage)) for passage in passages],
            usage=usage_pb2.Usage(input_tokens=sum(map(len, passages))),
            model=MODEL,
        )

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Any) -> model_pb2.ListModelsResponse:
        """Lists the one model."""
        return model_pb2.ListModelsResponse(models=[model_pb2.Model(id=MODEL, load_time_s=1_700_000_000)])

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.GetModelResponse:
        """Gets the one model."""
        if request.id not in ("", MODEL):
            unknown = (("model", request.id), ("available", MODEL))
            await abort(context, Fail(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", unknown))
        model = model_pb2.Model(id=MODEL, load_time_s=1_700_000_000, embedding_size=EMBEDDING_SIZE)
        return model_pb2.GetModelResponse(model=model)


def embedding_of(passage: str | tuple[int, ...]) -> tuple[float, float, float]:
    """Gives the vector that the fake computes: values that float32 can't all hold exactly."""
    first = ord(passage[0]) if isinstance(passage, str) else passage[0]
    return 0.1, float(first), 1 / len(passage)


async def abort(context: Any, step: Fail) -> None:
    """Ends a call as a Redoma service does, or without details where the step names no reason."""
    if not step.reason:
        await context.abort(step.code, step.message or "the fake fails")
    status = status_pb2.Status(code=step.code.value[0], message=step.message or f"the fake says {step.reason}")
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=step.reason, domain="redoma", metadata=dict(step.metadata))
    ]
    if step.retry_s:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(step.retry_s)
        details.append(retry)
    for detail in details:
        packed = PackedAny()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort(step.code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))


class FakeModelServer:
    """Serves a FakeModel, with the health that a model service has."""

    def __init__(self, tls: TlsSettings, model: FakeModel) -> None:
        self.model = model
        self.port = 0
        self._tls = tls
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serves, on the port it had before if it had one."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_ModelServiceServicer_to_server(self.model, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self.set_serving(True)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", server_credentials(self._tls))
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """Says by health whether the weights are loaded."""
        statuses = health_pb2.HealthCheckResponse
        await self._health.set(MODEL_HEALTH_NAME, statuses.SERVING if serving else statuses.NOT_SERVING)

    async def stop(self) -> None:
        """Drops every connection, as a killed process does."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None


class FakeTenant(TenantServiceServicer):
    """Answers GetContentChecks with `checks` and ListContentPolicies; every other method is not there.

    Attributes:
        content_storage: Where texts are kept.
        policies: What ListContentPolicies answers, a policy a page.
        asked: Metadata of each call.
        fails: Answers UNAVAILABLE.
    """

    def __init__(self) -> None:
        self.content_storage = tenant_pb2.Tenant.CONTENT_STORAGE_UNSPECIFIED
        self.policies: list[tenant_pb2.ContentPolicy] = []
        self.checks = tenant_pb2.ContentChecks()
        self.asked: list[dict[str, str | bytes]] = []
        self.fails = False

    async def GetContentChecks(
        self, request: tenant_pb2.GetContentChecksRequest, context: Any
    ) -> tenant_pb2.GetContentChecksResponse:
        """Answers the checks."""
        self.asked.append(dict(context.invocation_metadata()))
        if self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the fake is down")
        return tenant_pb2.GetContentChecksResponse(content_checks=self.checks, content_storage=self.content_storage)

    async def ListContentPolicies(
        self, request: tenant_pb2.ListContentPoliciesRequest, context: Any
    ) -> tenant_pb2.ListContentPoliciesResponse:
        """Answers the policies."""
        if self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the fake is down")
        index = int(request.page_token or 0)
        more = index + 1 < len(self.policies)
        return tenant_pb2.ListContentPoliciesResponse(
            content_policies=self.policies[index : index + 1], next_page_token=str(index + 1) if more else ""
        )

    def _absent(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    CreateTenant = GetTenant = ListTenants = UpdateTenant = DisableTenant = EnableTenant = _absent
    DeleteTenant = UndeleteTenant = _absent


class FakeTenantServer:
    """Serves a FakeTenant, and a meter."""

    def __init__(self, tls: TlsSettings, tenant: FakeTenant, meter: MeterServiceServicer) -> None:
        self.tenant = tenant
        self.meter = meter
        self.port = 0
        self._tls = tls
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serves, on the port it had before if it had one."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        add_TenantServiceServicer_to_server(self.tenant, self._server)
        add_MeterServiceServicer_to_server(self.meter, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", server_credentials(self._tls))
        await self._server.start()

    async def stop(self) -> None:
        """Drops every connection."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
