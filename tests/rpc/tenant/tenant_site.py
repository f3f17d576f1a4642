"""A running tenant service with the callers that the tests play: the edge, chat, and services that may not call."""

import base64
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import structlog
from envoy.service.auth.v3 import external_auth_pb2_grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.rpc import error_details_pb2, status_pb2

from redoma.tenant.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc, user_pb2_grpc
from redoma_kit.api_key import new_key
from redoma_kit.channel import open_channel
from redoma_kit.errors import STATUS_DETAILS_KEY, Failure, failure_from_status
from redoma_kit.settings import UpstreamSettings
from redoma_tenant.server import TenantServer
from redoma_tenant.settings import TenantSettings
from tests.conftest import TestPki

CALL_TIMEOUT_S = 30
ASK = "/redoma.chat.v1.OpenAIService/Ask"
SEND = "/redoma.chat.v1.ChatService/SendMessage"
TENANTS = "/redoma.tenant.v1.TenantService/"
API_KEYS = "/redoma.tenant.v1.ApiKeyService/"
USERS = "/redoma.tenant.v1.UserService/"


@dataclass(slots=True)
class Clock:
    """The machine's time, moved ahead by what a test asks for."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass(slots=True)
class TenantSite:
    """The service, its log, and stubs by caller. Without a URL its database is a SQLite file."""

    pki: TestPki
    folder: Path
    database_url: str = ""
    clock: Clock = field(default_factory=Clock)
    bootstrap_key: str = field(default_factory=new_key)
    log_text: io.StringIO = field(default_factory=io.StringIO)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    server: TenantServer = field(init=False)

    @property
    def database_file(self) -> Path:
        """Where the database lies."""
        return self.folder / "data" / "tenant.db"

    async def start(self, **overrides: Any) -> None:
        """Starts the service; `overrides` replace settings."""
        self.database_file.parent.mkdir(exist_ok=True)
        hash_file = self.folder / "bootstrap.sha256"
        hash_file.write_text(hashlib.sha256(self.bootstrap_key.encode()).hexdigest() + "\n")
        values: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "tls": self.pki.tls("public", "tenant"),
            "jwks_file": self.pki.jwks_file,
            "drain_grace_s": 5.0,
            "database_url": self.database_url or f"sqlite+aiosqlite:///{self.database_file}",
            "signing_key_file": self.pki.authority.signing_key,
            "bootstrap_admin_key_hash_file": hash_file,
        } | overrides
        log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
            structlog.PrintLogger(self.log_text),
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
        self.server = TenantServer(TenantSettings(**values), log, self.clock)
        await self.server.start()

    async def stop(self) -> None:
        """Hangs up and stops the service."""
        for channel in self.channels.values():
            await channel.close()
        self.channels.clear()
        await self.server.grpc.stop(5.0)
        await self.server.close()

    def channel(self, service: str = "edge", site: str = "public") -> grpc.aio.Channel:
        """Gives a channel that shows the certificate of `service`."""
        if service not in self.channels:
            upstream = UpstreamSettings(target=f"127.0.0.1:{self.server.grpc.port}", server_name="tenant.public.redoma")
            self.channels[service] = open_channel(upstream, self.pki.tls(site, service), 8 << 20)
        return self.channels[service]

    def tenants(self, service: str = "edge") -> "tenant_pb2_grpc.TenantServiceAsyncStub":
        """Gives the stub of TenantService."""
        return tenant_pb2_grpc.TenantServiceStub(self.channel(service))

    def api_keys(self, service: str = "edge") -> "api_key_pb2_grpc.ApiKeyServiceAsyncStub":
        """Gives the stub of ApiKeyService."""
        return api_key_pb2_grpc.ApiKeyServiceStub(self.channel(service))

    def users(self, service: str = "edge") -> "user_pb2_grpc.UserServiceAsyncStub":
        """Gives the stub of UserService."""
        return user_pb2_grpc.UserServiceStub(self.channel(service))

    async def call(self, method: str, request: Any, service: str = "edge", /, **claims: Any) -> Any:
        """Calls a method of the services above, by default as a platform operator."""
        claims = {"method": method, "tenant": "", "scopes": ("platform.admin",)} | claims
        metadata = self.pki.metadata(claims.pop("audience", ["tenant"]), **claims)
        return await self.call_with(method, request, metadata, service)

    async def call_with(self, method: str, request: Any, metadata: Any, service: str = "edge") -> Any:
        """Calls with metadata as given."""
        stubs = {TENANTS: self.tenants, API_KEYS: self.api_keys, USERS: self.users}
        stub = stubs[method[: method.rindex("/") + 1]](service)
        return await getattr(stub, method.rpartition("/")[2])(request, metadata=metadata, timeout=CALL_TIMEOUT_S)

    async def tenant_admin(self, method: str, request: Any, tenant: str = "acme") -> Any:
        """Calls as an administrator of `tenant`."""
        return await self.call(method, request, tenant=tenant, scopes=("tenant.admin",))

    async def add_tenant(self, tenant: str = "acme", **settings: Any) -> tenant_pb2.Tenant:
        """Creates a tenant."""
        request = tenant_pb2.CreateTenantRequest(tenant_id=tenant, tenant=tenant_pb2.Tenant(**settings))
        response: tenant_pb2.CreateTenantResponse = await self.call(f"{TENANTS}CreateTenant", request)
        return response.tenant

    async def add_key(self, tenant: str = "acme", **settings: Any) -> api_key_pb2.CreateApiKeyResponse:
        """Creates a key."""
        request = api_key_pb2.CreateApiKeyRequest(parent=f"tenants/{tenant}", api_key=api_key_pb2.ApiKey(**settings))
        response: api_key_pb2.CreateApiKeyResponse = await self.call(f"{API_KEYS}CreateApiKey", request)
        return response

    async def list_keys(self, tenant: str = "acme") -> list[api_key_pb2.ApiKey]:
        """Lists a tenant's keys."""
        response = await self.call(f"{API_KEYS}ListApiKeys", api_key_pb2.ListApiKeysRequest(parent=f"tenants/{tenant}"))
        return list(response.api_keys)

    async def check(
        self,
        key: str | None,
        path: str = ASK,
        verb: str = "POST",
        headers: Mapping[str, str] | None = None,
        service: str = "edge",
    ) -> CheckResponse:
        """Asks as Envoy does whether a request may go on; gRPC unless `headers` say otherwise."""
        request = CheckRequest()
        http = request.attributes.request.http
        http.method, http.path = verb, path
        http.headers.update({"content-type": "application/grpc"} if headers is None else headers)
        if key is not None:
            http.headers["authorization"] = f"Bearer {key}"
        stub = external_auth_pb2_grpc.AuthorizationStub(self.channel(service))
        response: CheckResponse = await stub.Check(request, timeout=CALL_TIMEOUT_S)
        return response


async def failure_of_call(call: Any) -> Failure:
    """Gives the failure that a call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    failure = failure_from_status(raised.value)
    assert failure is not None, f"no ErrorInfo in {raised.value}"
    return failure


async def failure_or_none(call: Any) -> Failure | None:
    """Gives the failure that a call ends with, if it does."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return failure_from_status(error)
    return None


def headers_of(response: CheckResponse) -> dict[str, str]:
    """Gives the headers that Envoy is told to set."""
    kind = response.denied_response if response.HasField("denied_response") else response.ok_response
    return {option.header.key: option.header.value for option in kind.headers}


def refusal_reason(response: CheckResponse) -> str:
    """Gives the ErrorInfo reason of a refusal to a gRPC client."""
    assert response.HasField("denied_response"), response
    details = headers_of(response)[STATUS_DETAILS_KEY]
    status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "redoma"
    assert response.status.code == status.code != 0
    return str(info.reason)


def identity_in(response: CheckResponse) -> str:
    """Gives the signed identity of an admitted request."""
    assert response.HasField("ok_response"), response
    return headers_of(response)["redoma-identity"]


def claims_in(response: CheckResponse) -> dict[str, Any]:
    """Gives what the identity says, its signature unchecked."""
    claims: dict[str, Any] = jwt.decode(identity_in(response), options={"verify_signature": False})
    return claims
