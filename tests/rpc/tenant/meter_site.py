"""What the tests of quotas and metering do with a running tenant service: chat's side, and the operators'."""

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redoma.common.v1.usage_pb2 import Usage
from redoma.tenant.v1 import (
    api_key_pb2,
    meter_pb2,
    meter_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    tenant_pb2,
)
from redoma.tenant.v1.quota_pb2 import Limits
from tests.rpc.tenant.tenant_site import API_KEYS, CALL_TIMEOUT_S, TENANTS, TenantSite

if TYPE_CHECKING:
    from redoma.tenant.v1.meter_pb2_grpc import MeterServiceAsyncStub
    from redoma.tenant.v1.quota_pb2_grpc import QuotaServiceAsyncStub

QUOTAS = "/redoma.tenant.v1.QuotaService/"
GENERATE = "/redoma.chat.v1.ChatService/SendMessage"


def usage(input_tokens: int = 0, output_tokens: int = 0, cached: int = 0, reasoning: int = 0) -> Usage:
    """Gives counts."""
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        reasoning_tokens=reasoning,
    )


@dataclass(slots=True)
class MeterSite:
    """A tenant service, called by chat about calls of `tenant`."""

    site: TenantSite
    tenant: str = "acme"
    principal: str = ""
    adapter: str = ""
    chat: "MeterServiceAsyncStub" = field(init=False)
    quota_stub: "QuotaServiceAsyncStub" = field(init=False)

    def __post_init__(self) -> None:
        self.chat = meter_pb2_grpc.MeterServiceStub(self.site.channel("chat"))
        self.quota_stub = quota_pb2_grpc.QuotaServiceStub(self.site.channel("edge"))

    async def reserve(
        self, token_id: str = "", input_tokens: int = 10, max_output_tokens: int = 90, model: str = "", **claims: object
    ) -> meter_pb2.ReserveResponse:
        """Holds what a call of the tenant may use."""
        identity: dict[str, object] = {
            "tenant": self.tenant,
            "sub": self.principal or f"tenants/{self.tenant}/apiKeys/{'0' * 16}",
            "method": GENERATE,
            "jti": token_id or uuid.uuid4().hex,
            "adapter": self.adapter,
        }
        identity |= self._times() | claims
        metadata = self.site.pki.metadata(["chat", "model", "tenant"], **identity)
        request = meter_pb2.ReserveRequest(model=model, input_tokens=input_tokens, max_output_tokens=max_output_tokens)
        return await self.chat.Reserve(request, metadata=metadata, timeout=CALL_TIMEOUT_S)

    async def checkpoint(self, token_id: str, counts: Usage | None = None, wanted: int = 0) -> meter_pb2.Verdict:
        """Tells of one running call."""
        call = meter_pb2.RunningCall(tenant=self.tenant, token_id=token_id, usage=counts, wanted_output_tokens=wanted)
        response = await self.chat.Checkpoint(meter_pb2.CheckpointRequest(calls=[call]), timeout=CALL_TIMEOUT_S)
        return response.verdicts[0]

    async def settle(self, token_id: str, counts: Usage | None = None, exact: bool = True, model: str = "m") -> bool:
        """Tells of one call that ended."""
        ending = meter_pb2.Settlement(tenant=self.tenant, token_id=token_id, usage=counts, exact=exact, model=model)
        response = await self.chat.Settle(meter_pb2.SettleRequest(settlements=[ending]), timeout=CALL_TIMEOUT_S)
        return response.settled[0]

    async def operate(self, name: str, request: Any, /, **claims: object) -> Any:
        """Calls a method of QuotaService, by default as an operator."""
        claims = {"method": f"{QUOTAS}{name}", "tenant": "", "scopes": ("platform.admin",)} | self._times() | claims
        metadata = self.site.pki.metadata(["tenant"], **claims)
        return await getattr(self.quota_stub, name)(request, metadata=metadata, timeout=CALL_TIMEOUT_S)

    async def limit(self, **limits: int) -> quota_pb2.Quota:
        """Sets the tenant's own limits."""
        quota = quota_pb2.Quota(name=f"tenants/{self.tenant}/quota", limits=Limits(**limits))
        response = await self.operate("UpdateQuota", quota_pb2.UpdateQuotaRequest(quota=quota))
        changed: quota_pb2.Quota = response.quota
        return changed

    async def quota(self) -> quota_pb2.Quota:
        """Gets the tenant's quota."""
        response = await self.operate("GetQuota", quota_pb2.GetQuotaRequest(name=f"tenants/{self.tenant}/quota"))
        quota: quota_pb2.Quota = response.quota
        return quota

    async def states(self) -> dict[str, tuple[int, int]]:
        """Gives what is used and held of each limit."""
        return {state.limit: (state.used, state.reserved) for state in (await self.quota()).states}

    async def set_price(self, model: str = "*", input_micros: int = 0, cached: int = 0, output: int = 0) -> None:
        """Sets what tokens of a model cost."""
        price = quota_pb2.Price(
            model=model,
            input_micros_per_million=input_micros,
            cached_input_micros_per_million=cached,
            output_micros_per_million=output,
        )
        await self.operate("SetPrice", quota_pb2.SetPriceRequest(price=price))

    def _times(self) -> dict[str, object]:
        """Claims of an identity that is made now, by the service's clock."""
        now = int(self.site.clock().timestamp())
        return {"iat": now, "exp": now + 60}

    async def disable_tenant(self) -> None:
        """Disables the tenant."""
        request = tenant_pb2.DisableTenantRequest(name=f"tenants/{self.tenant}")
        await self.site.call(f"{TENANTS}DisableTenant", request)

    async def revoke_key(self, name: str) -> None:
        """Revokes a key."""
        await self.site.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=name))
