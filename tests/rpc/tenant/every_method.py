"""Every method of the tenant service that the edge lets in, a request of each that works, and who may send it."""

from typing import Any, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from redoma_kit.policy import EDGE
from redoma_kit.rest import method_path
from redoma_tenant.policy import POLICY
from redoma_tenant.servicers.exposed import TENANT_FILES
from tests.conftest import TestPki

CALL_TIMEOUT_S = 60.0
ISSUER = "https://login.example.com"
OPERATOR: dict[str, Any] = {"tenant": "", "scopes": ("platform.admin",)}


def methods() -> list[MethodDescriptor]:
    """Gives every method of this service that the edge lets in."""
    services = [service for file in TENANT_FILES for service in file.services_by_name.values()]
    everything = [method for service in services for method in service.methods]
    return [method for method in everything if (rule := POLICY.get(method_path(method))) and rule.peers & EDGE]


class Reached(Protocol):
    """A running service."""

    @property
    def pki(self) -> TestPki:
        """Whose identities it takes."""

    def channel(self) -> grpc.aio.Channel:
        """Gives the edge's channel to it."""


class Person:
    """Calls any method of the service, by default as an operator; `claims` are of his identities."""

    def __init__(self, site: Reached, **claims: Any) -> None:
        self._site = site
        self._claims = claims or OPERATOR
        self._methods = {method.name: method for method in methods()}

    async def call(self, name: str, request: Message) -> Any:
        """Gives the response of a method, the last of a stream of them."""
        method = self._methods[name]
        path = method_path(method)
        metadata = self._site.pki.metadata(["tenant"], method=path, **self._claims)
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


async def sound_requests(operator: Person) -> dict[str, dict[str, Any]]:
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
