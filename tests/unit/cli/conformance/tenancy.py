"""The tenant service of the small deployment."""

import base64
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import grpc

from redoma.tenant.v1 import (
    api_key_pb2,
    api_key_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    tenant_pb2,
    tenant_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
    user_pb2,
    user_pb2_grpc,
)
from redoma.tenant.v1.tenant_pb2 import Tenant
from tests.unit.cli.conformance.gate import openai_error, who_calls
from tests.unit.cli.conformance.world import Defect, Key, Refused, Who, World, absent, denied

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
C = TypeVar("C", bound=type)


def telling(cls: C) -> C:
    """Turns what each method of a servicer raises into a status."""
    for name, method in list(vars(cls).items()):
        if name[0].isupper():
            setattr(cls, name, _telling_stream(method) if inspect.isasyncgenfunction(method) else _telling(method))
    return cls


def _telling(method: Any) -> Any:
    async def told(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request, context)
        except Refused as refused:
            await abort(context, refused)

    return told


def _telling_stream(method: Any) -> Any:
    async def told(self: Any, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in method(self, request, context):
                yield response
        except Refused as refused:
            await abort(context, refused)

    return told


async def abort(context: Context, refused: Refused) -> None:
    """Ends a call with a status, and with OpenAI's error for the edge."""
    failure = refused.failure
    error = quote(openai_error(failure.reason, failure.message), safe=' {}":,[]')
    trailers: tuple[tuple[str, str | bytes], ...]
    trailers = (*failure.trailing_metadata(), ("redoma-openai-error", error), *refused.headers)
    await context.abort(failure.code, failure.message, trailers)


class Servicer:
    """What all of them share."""

    def __init__(self, world: World) -> None:
        self.world = world

    def tenant(self, context: Context, name: str) -> str:
        """Gives the id of the tenant that a name belongs to, which must be the caller's."""
        return self.world.tenant_of(self.who(context), name)

    def who(self, context: Context) -> Who:
        """Gives whose call it is."""
        return who_calls(self.world, context)


@telling
class Tenants(Servicer, tenant_pb2_grpc.TenantServiceServicer):
    async def CreateTenant(
        self, request: tenant_pb2.CreateTenantRequest, context: Context
    ) -> tenant_pb2.CreateTenantResponse:
        made = Tenant()
        made.CopyFrom(request.tenant)
        made.name, made.state = f"tenants/{request.tenant_id}", Tenant.STATE_ACTIVE
        self.world.tenants[request.tenant_id] = made
        return tenant_pb2.CreateTenantResponse(tenant=made)

    async def GetTenant(self, request: tenant_pb2.GetTenantRequest, context: Context) -> tenant_pb2.GetTenantResponse:
        return tenant_pb2.GetTenantResponse(tenant=self._of(context, request.name))

    async def ListTenants(
        self, request: tenant_pb2.ListTenantsRequest, context: Context
    ) -> tenant_pb2.ListTenantsResponse:
        return tenant_pb2.ListTenantsResponse(tenants=self.world.tenants.values())

    async def UpdateTenant(
        self, request: tenant_pb2.UpdateTenantRequest, context: Context
    ) -> tenant_pb2.UpdateTenantResponse:
        tenant = self._of(context, request.tenant.name)
        tenant.isolation, tenant.adapter = request.tenant.isolation, request.tenant.adapter
        return tenant_pb2.UpdateTenantResponse(tenant=tenant)

    async def DisableTenant(
        self, request: tenant_pb2.DisableTenantRequest, context: Context
    ) -> tenant_pb2.DisableTenantResponse:
        tenant = self._of(context, request.name)
        tenant.state = Tenant.STATE_DISABLED
        self.world.take_out(tenant.name.removeprefix("tenants/"), "", "TENANT_DISABLED")
        return tenant_pb2.DisableTenantResponse(tenant=tenant)

    async def EnableTenant(
        self, request: tenant_pb2.EnableTenantRequest, context: Context
    ) -> tenant_pb2.EnableTenantResponse:
        tenant = self._of(context, request.name)
        tenant.state = Tenant.STATE_ACTIVE
        return tenant_pb2.EnableTenantResponse(tenant=tenant)

    async def DeleteTenant(
        self, request: tenant_pb2.DeleteTenantRequest, context: Context
    ) -> tenant_pb2.DeleteTenantResponse:
        tenant = self._of(context, request.name)
        tenant_id = tenant.name.removeprefix("tenants/")
        self.world.take_out(tenant_id, "", "TENANT_DISABLED")
        self.world.deleted.append(tenant_id)
        return tenant_pb2.DeleteTenantResponse(tenant=self.world.tenants.pop(tenant_id))

    def _of(self, context: Context, name: str) -> Tenant:
        return self.world.tenants[self.tenant(context, name)]


@telling
class ApiKeys(Servicer, api_key_pb2_grpc.ApiKeyServiceServicer):
    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: Context
    ) -> api_key_pb2.CreateApiKeyResponse:
        scopes = tuple(request.api_key.scopes) or ("generate", "conversations")
        if "platform.admin" in scopes and not self.who(context).operator:
            raise denied("SCOPE_MISSING")
        key = self.world.add_key(self.tenant(context, request.parent), scopes)
        return api_key_pb2.CreateApiKeyResponse(api_key=_shown(key), secret=key.secret)

    async def ListApiKeys(
        self, request: api_key_pb2.ListApiKeysRequest, context: Context
    ) -> api_key_pb2.ListApiKeysResponse:
        tenant = self.tenant(context, request.parent)
        first = read_page_token(request.page_token, tenant)
        keys = [_shown(key) for key in self.world.keys.values() if key.tenant == tenant]
        size = request.page_size or 100
        token = page_token(tenant, first + size) if len(keys) > first + size else ""
        return api_key_pb2.ListApiKeysResponse(api_keys=keys[first : first + size], next_page_token=token)

    async def RevokeApiKey(
        self, request: api_key_pb2.RevokeApiKeyRequest, context: Context
    ) -> api_key_pb2.RevokeApiKeyResponse:
        key = self._of(context, request.name)
        key.revoked = True
        self.world.take_out(key.tenant, key.name, "CREDENTIAL_REVOKED")
        return api_key_pb2.RevokeApiKeyResponse(api_key=_shown(key))

    async def UpdateApiKey(
        self, request: api_key_pb2.UpdateApiKeyRequest, context: Context
    ) -> api_key_pb2.UpdateApiKeyResponse:
        return api_key_pb2.UpdateApiKeyResponse(api_key=_shown(self._of(context, request.api_key.name)))

    async def RotateApiKey(
        self, request: api_key_pb2.RotateApiKeyRequest, context: Context
    ) -> api_key_pb2.RotateApiKeyResponse:
        former = self._of(context, request.name)
        return api_key_pb2.RotateApiKeyResponse(former=_shown(former))

    def _of(self, context: Context, name: str) -> Key:
        self.tenant(context, name)
        key = next((key for key in self.world.keys.values() if key.name == name), None)
        if key is None:
            raise absent(name)
        return key


def _shown(key: Key) -> api_key_pb2.ApiKey:
    return api_key_pb2.ApiKey(name=key.name, prefix=key.secret[:12], scopes=key.scopes)


@telling
class Users(Servicer, user_pb2_grpc.UserServiceServicer):
    async def CreateUser(self, request: user_pb2.CreateUserRequest, context: Context) -> user_pb2.CreateUserResponse:
        tenant = self.tenant(context, request.parent)
        user = user_pb2.User()
        user.CopyFrom(request.user)
        user.name = f"tenants/{tenant}/users/u{len(self.world.users):011d}"
        self.world.users[user.name] = user
        return user_pb2.CreateUserResponse(user=user)

    async def GetUser(self, request: user_pb2.GetUserRequest, context: Context) -> user_pb2.GetUserResponse:
        return user_pb2.GetUserResponse(user=self._of(context, request.name))

    async def ListUsers(self, request: user_pb2.ListUsersRequest, context: Context) -> user_pb2.ListUsersResponse:
        parent = f"tenants/{self.tenant(context, request.parent)}/"
        return user_pb2.ListUsersResponse(users=[u for n, u in self.world.users.items() if n.startswith(parent)])

    async def UpdateUser(self, request: user_pb2.UpdateUserRequest, context: Context) -> user_pb2.UpdateUserResponse:
        return user_pb2.UpdateUserResponse(user=self._of(context, request.user.name))

    async def DeleteUser(self, request: user_pb2.DeleteUserRequest, context: Context) -> user_pb2.DeleteUserResponse:
        del self.world.users[self._of(context, request.name).name]
        return user_pb2.DeleteUserResponse()

    def _of(self, context: Context, name: str) -> user_pb2.User:
        self.tenant(context, name)
        if name not in self.world.users:
            raise absent(name)
        return self.world.users[name]


@telling
class Quotas(Servicer, quota_pb2_grpc.QuotaServiceServicer):
    async def GetQuota(self, request: quota_pb2.GetQuotaRequest, context: Context) -> quota_pb2.GetQuotaResponse:
        return quota_pb2.GetQuotaResponse(quota=self._quota(self.tenant(context, request.name)))

    async def UpdateQuota(
        self, request: quota_pb2.UpdateQuotaRequest, context: Context
    ) -> quota_pb2.UpdateQuotaResponse:
        tenant = self.tenant(context, request.quota.name)
        self.world.limits[tenant] = request.quota.limits
        return quota_pb2.UpdateQuotaResponse(quota=self._quota(tenant))

    def _quota(self, tenant: str) -> quota_pb2.Quota:
        limits = self.world.limits.get(tenant, quota_pb2.Limits())
        quota = quota_pb2.Quota(name=f"tenants/{tenant}/quota", limits=limits)
        if limits.HasField("tokens_per_month"):
            quota.states.add(
                limit="tokens_per_month",
                limit_value=limits.tokens_per_month,
                used=self.world.tokens_used(tenant),
                reserved=self.world.tokens_reserved(tenant),
            )
        return quota


@telling
class UsageOfTenants(Servicer, usage_pb2_grpc.UsageServiceServicer):
    async def QueryUsage(self, request: usage_pb2.QueryUsageRequest, context: Context) -> usage_pb2.QueryUsageResponse:
        tenants = [self.tenant(context, request.selection.parent)]
        if self.world.has(Defect.LEAKS_USAGE):
            tenants = list(self.world.tenants)
        rows = [usage_pb2.UsageRow(tenant=f"tenants/{tenant}") for tenant in tenants]
        return usage_pb2.QueryUsageResponse(rows=rows)

    async def ExportUsage(
        self, request: usage_pb2.ExportUsageRequest, context: Context
    ) -> AsyncIterator[usage_pb2.ExportUsageResponse]:
        yield usage_pb2.ExportUsageResponse(data=self.tenant(context, request.selection.parent).encode())

    async def ListLedgerTransactions(
        self, request: usage_pb2.ListLedgerTransactionsRequest, context: Context
    ) -> usage_pb2.ListLedgerTransactionsResponse:
        books = self.world.ledger.get(self.tenant(context, request.parent), [])
        return usage_pb2.ListLedgerTransactionsResponse(transactions=books)

    async def ReconcileUsage(
        self, request: usage_pb2.ReconcileUsageRequest, context: Context
    ) -> usage_pb2.ReconcileUsageResponse:
        tenant = self.tenant(context, request.parent)
        running = sum(run.who.tenant == tenant for run in self.world.runs)
        return usage_pb2.ReconcileUsageResponse(balanced=True, open_calls=running)


@telling
class Audit(Servicer, audit_pb2_grpc.AuditServiceServicer):
    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: Context
    ) -> audit_pb2.ListAuditEntriesResponse:
        self.tenant(context, request.parent)
        return audit_pb2.ListAuditEntriesResponse()

    async def ExportAuditEntries(
        self, request: audit_pb2.ExportAuditEntriesRequest, context: Context
    ) -> AsyncIterator[audit_pb2.ExportAuditEntriesResponse]:
        self.tenant(context, request.parent)
        yield audit_pb2.ExportAuditEntriesResponse()

    async def VerifyAuditChain(
        self, request: audit_pb2.VerifyAuditChainRequest, context: Context
    ) -> audit_pb2.VerifyAuditChainResponse:
        self.tenant(context, request.parent)
        return audit_pb2.VerifyAuditChainResponse(intact=True)


@telling
class Privacy(Servicer, privacy_pb2_grpc.PrivacyServiceServicer):
    async def ExportData(
        self, request: privacy_pb2.ExportDataRequest, context: Context
    ) -> AsyncIterator[privacy_pb2.ExportDataResponse]:
        self.tenant(context, request.parent)
        yield privacy_pb2.ExportDataResponse(data=b"PK")

    async def EraseData(self, request: privacy_pb2.EraseDataRequest, context: Context) -> privacy_pb2.EraseDataResponse:
        self.tenant(context, request.parent)
        return privacy_pb2.EraseDataResponse()

    async def ListErasures(
        self, request: privacy_pb2.ListErasuresRequest, context: Context
    ) -> privacy_pb2.ListErasuresResponse:
        self.tenant(context, request.parent)
        return privacy_pb2.ListErasuresResponse()


def page_token(owner: str, first: int) -> str:
    """Makes a token that is good for one list alone."""
    return base64.b64encode(json.dumps([owner, first]).encode()).decode()


def read_page_token(token: str, owner: str, *, foreign: bool = False) -> int:
    """Reads a token; one of another list is refused, unless `foreign`."""
    if not token:
        return 0
    try:
        whose, first = json.loads(base64.b64decode(token))
    except ValueError:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") from None
    if whose != owner and not foreign:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    return int(first)
