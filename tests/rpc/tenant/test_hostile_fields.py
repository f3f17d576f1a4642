"""Hostile values in every field of every call that the edge lets in."""

import asyncio
import resource
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from redoma_kit.pages import page_token
from redoma_kit.policy import EDGE
from redoma_kit.rest import method_path
from redoma_tenant.errors import ERRORS
from redoma_tenant.issuers import MAX_ISSUER
from redoma_tenant.policy import POLICY
from redoma_tenant.servicers.exposed import TENANT_FILES
from tests.fakes.hostile_requests import LONG, Hostile, forged_tokens, hostile_requests, problem_of
from tests.rpc.tenant.tenant_site import TenantSite

AT_ONCE = 16
CALL_TIMEOUT_S = 60.0
ISSUER = "https://login.example.com"
MAX_LOGGED = 1_000
MAX_GROWTH_BYTES = 512 << 20
# Lists that only the use of the model fills.
WITHOUT_ROWS = {
    "QueryUsage": page_token(("tenants/acme", "0", "0", "DAY", "model"), (0, 0, 0, "tiny")),
    "ListLedgerTransactions": page_token(("tenants/acme/ledgerTransactions", ""), (0, "x")),
}


def methods() -> list[MethodDescriptor]:
    """Gives every method of this service that the edge lets in."""
    services = [service for file in TENANT_FILES for service in file.services_by_name.values()]
    everything = [method for service in services for method in service.methods]
    return [method for method in everything if (rule := POLICY.get(method_path(method))) and rule.peers & EDGE]


class Operator:
    """Calls any method of the service as an operator."""

    def __init__(self, site: TenantSite) -> None:
        self._site = site
        self._methods = {method.name: method for method in methods()}

    async def call(self, name: str, request: Message) -> Any:
        """Gives the response of a method, the last of a stream of them."""
        method = self._methods[name]
        path = method_path(method)
        metadata = self._site.pki.metadata(["tenant"], method=path, tenant="", scopes=("platform.admin",))
        read = GetMessageClass(method.output_type).FromString
        arguments: dict[str, Any] = {"metadata": metadata, "timeout": CALL_TIMEOUT_S}
        channel = self._site.channel()
        if not method.server_streaming:
            return await channel.unary_unary(path, type(request).SerializeToString, read)(request, **arguments)
        last = None
        async for response in channel.unary_stream(path, type(request).SerializeToString, read)(request, **arguments):
            last = response
        return last

    async def made(self, name: str, /, **fields: Any) -> Any:
        """Calls with a request made of fields."""
        return await self.call(name, self.request(name, **fields))

    def request(self, name: str, /, **fields: Any) -> Message:
        """Gives a request of a method."""
        return GetMessageClass(self._methods[name].input_type)(**fields)


async def sound_requests(operator: Operator) -> dict[str, dict[str, Any]]:
    """Makes what there is to list and to change, and gives the fields of a request of each method that works."""
    user = {"issuer": ISSUER, "subject": "ana", "role": "ROLE_MEMBER"}
    provider = {"issuer": ISSUER, "audience": "redoma", "tenant": "tenants/acme", "roles_claim": "roles"}
    for tenant in ("acme", "globex", "victim"):
        await operator.made("CreateTenant", tenant_id=tenant)
    for plan in ("gold", "spare"):
        await operator.made("CreatePlan", plan_id=plan)
    for number in (1, 2):
        made = await operator.made("CreateUser", parent="tenants/acme", user={**user, "subject": f"user {number}"})
        key = await operator.made("CreateApiKey", parent="tenants/acme", api_key={"user": made.user.name})
        erasure = await operator.made("EraseData", parent="tenants/acme", principal=key.api_key.name)
        found = await operator.made("CreateIdentityProvider", identity_provider={**provider, "audience": f"a{number}"})
    await operator.made("SetPrice", price={"model": "tiny"})
    acme, key_name, own = {"parent": "tenants/acme"}, key.api_key.name, {"name": "tenants/acme"}
    selection = {"selection": {**acme, "dimensions": ["DIMENSION_MODEL"]}}
    return {
        "CreateTenant": {"tenant_id": "other"},
        "GetTenant": own,
        "ListTenants": {},
        "UpdateTenant": {"tenant": own, "update_mask": {"paths": ["*"]}},
        "DisableTenant": {"name": "tenants/victim"},
        "EnableTenant": {"name": "tenants/victim"},
        "DeleteTenant": {"name": "tenants/victim"},
        "UndeleteTenant": {"name": "tenants/victim"},
        "CreateUser": {**acme, "user": user},
        "GetUser": {"name": made.user.name},
        "ListUsers": acme,
        "UpdateUser": {"user": {"name": made.user.name, "role": "ROLE_VIEWER"}, "update_mask": {"paths": ["*"]}},
        "DeleteUser": {"name": made.user.name},
        "CreateIdentityProvider": {"identity_provider": provider},
        "ListIdentityProviders": {},
        "DeleteIdentityProvider": {"name": found.identity_provider.name},
        "CreateApiKey": {**acme, "api_key": {}},
        "ListApiKeys": acme,
        "UpdateApiKey": {"api_key": {"name": key_name}, "update_mask": {"paths": ["*"]}},
        "RotateApiKey": {"name": key_name},
        "RevokeApiKey": {"name": key_name},
        "GetQuota": {"name": "tenants/acme/quota"},
        "UpdateQuota": {"quota": {"name": "tenants/acme/quota"}, "update_mask": {"paths": ["*"]}},
        "CreatePlan": {"plan_id": "other"},
        "GetPlan": {"name": "plans/gold"},
        "ListPlans": {},
        "UpdatePlan": {"plan": {"name": "plans/gold"}, "update_mask": {"paths": ["*"]}},
        "DeletePlan": {"name": "plans/spare"},
        "SetPrice": {"price": {"model": "tiny"}},
        "ListPrices": {},
        "DeletePrice": {"model": "tiny"},
        "QueryUsage": selection,
        "ExportUsage": selection,
        "ListLedgerTransactions": acme,
        "ReconcileUsage": acme,
        "ListAuditEntries": acme,
        "ExportAuditEntries": acme,
        "VerifyAuditChain": acme,
        "ExportData": {**acme, "principal": key_name},
        "EraseData": {**acme, "principal": key_name},
        "GetErasure": {"name": erasure.erasure.name},
        "ListErasures": acme,
    }


async def tokens_for(operator: Operator, name: str, fields: dict[str, Any]) -> tuple[str, ...]:
    """Gives page tokens to send: of other lists, and forged ones for this one."""
    request = operator.request(name)
    if "page_token" not in request.DESCRIPTOR.fields_by_name:
        return ()
    elsewhere = await operator.made("ListTenants", page_size=1)
    genuine = WITHOUT_ROWS.get(name) or (await operator.made(name, **fields, page_size=1)).next_page_token
    assert genuine, f"{name} has one page"
    return (elsewhere.next_page_token, *forged_tokens(genuine))


async def test_no_hostile_value_does_more_than_being_refused(
    site_on_each: TenantSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer is one of success or a documented refusal, in bounded memory, and the service lives on."""

    async def knows(_self: object, issuer: str) -> None:
        assert len(issuer) <= MAX_ISSUER

    monkeypatch.setattr("redoma_tenant.oidc.directory.OidcDirectory.check", knows)
    operator = Operator(site_on_each)
    fields = await sound_requests(operator)
    assert set(fields) == {method.name for method in methods()}
    turns, found = asyncio.Semaphore(AT_ONCE), []

    async def send(name: str, hostile: Hostile) -> None:
        async with turns:
            try:
                await operator.call(name, hostile.request)
            except grpc.aio.AioRpcError as error:
                if problem := problem_of(error, ERRORS):
                    found.append(f"{name}.{hostile.field} = {hostile.value}: {problem}")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, values in fields.items():
        sound = operator.request(name, **values)
        requests = hostile_requests(sound, await tokens_for(operator, name, values))
        async with asyncio.TaskGroup() as group:
            for hostile in requests:
                group.create_task(send(name, hostile))
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert not found, "\n".join(found)
    assert (await operator.made("GetTenant", name="tenants/acme")).tenant.name == "tenants/acme"
    for parent in ("tenants/acme", "platform"):
        assert (await operator.made("VerifyAuditChain", parent=parent)).intact
    assert grown_bytes < MAX_GROWTH_BYTES
    log = site_on_each.log_text.getvalue()
    assert '"level": "error"' not in log, [line for line in log.splitlines() if '"level": "error"' in line][:3]
    assert LONG[:MAX_LOGGED] not in log
