"""A chat service of which only ContentService is there, and a model process of which only PurgeTenant is."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from redoma.chat.v1 import content_pb2, content_pb2_grpc
from redoma.model.v1 import engine_pb2, engine_pb2_grpc
from redoma_kit.settings import TlsSettings
from tests.fakes.model_service import SERVER_OPTIONS
from tests.fakes.server_credentials import server_credentials


class FakeContent(content_pb2_grpc.ContentServiceServicer):
    """Holds one conversation with one message of each principal named.

    Attributes:
        principals: Whose conversations are there.
        erased: What it was asked to erase, as (tenant, principal).
        fails: Answers UNAVAILABLE.
    """

    def __init__(self, *principals: str) -> None:
        self.principals = list(principals)
        self.erased: list[tuple[str, str]] = []
        self.fails = False

    async def ExportContent(
        self, request: content_pb2.ExportContentRequest, context: Any
    ) -> AsyncIterator[content_pb2.ExportContentResponse]:
        """Streams what is held."""
        await self._check(context)
        for principal in self.principals:
            if request.principal in ("", principal):
                response = content_pb2.ExportContentResponse()
                response.conversation.principal = principal
                response.conversation.conversation.title = f"of {principal}"
                yield response
                response = content_pb2.ExportContentResponse()
                response.message.content = "Oi!"
                yield response

    async def EraseContent(
        self, request: content_pb2.EraseContentRequest, context: Any
    ) -> content_pb2.EraseContentResponse:
        """Forgets what is meant."""
        await self._check(context)
        self.erased.append((request.tenant, request.principal))
        gone = [principal for principal in self.principals if request.principal in ("", principal)]
        self.principals = [principal for principal in self.principals if principal not in gone]
        keys = 0 if request.principal else 1
        return content_pb2.EraseContentResponse(conversations=len(gone), messages=len(gone), content_keys=keys)

    async def _check(self, context: Any) -> None:
        if self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the fake is down")


class FakePurge(engine_pb2_grpc.EngineServiceServicer):
    """Notes the tenants to purge, and the metadata that came with the last of them; `fails_as` refuses instead."""

    def __init__(self) -> None:
        self.purged: list[str] = []
        self.fails_as: grpc.StatusCode | None = None
        self.metadata: dict[str, str | bytes] = {}

    async def PurgeTenant(self, request: engine_pb2.PurgeTenantRequest, context: Any) -> engine_pb2.PurgeTenantResponse:
        """Notes the tenant."""
        if self.fails_as is not None:
            await context.abort(self.fails_as, "the fake is down")
        self.metadata = dict(context.invocation_metadata())
        self.purged.append(request.tenant)
        return engine_pb2.PurgeTenantResponse(freed_cells=7)

    def _absent(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    GetEngineState = WatchEngine = ListUsageRecords = LoadModel = UnloadModel = _absent
    SetModelAlias = DeleteModelAlias = LoadAdapter = UnloadAdapter = _absent


class FakeServer:
    """Serves a fake with a service's certificate."""

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self.port = 0

    async def start(self, content: FakeContent) -> None:
        """Serves what is given."""
        content_pb2_grpc.add_ContentServiceServicer_to_server(content, self._server)
        self.port = self._server.add_secure_port("127.0.0.1:0", server_credentials(self._tls))
        await self._server.start()

    async def stop(self) -> None:
        """Drops every connection."""
        await self._server.stop(0)
