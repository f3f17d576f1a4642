"""Whether anyone can be taken for someone else, or get at what is not for him."""

import asyncio
from collections.abc import Iterator, Sequence

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from redoma.chat.v1 import content_pb2
from redoma.chat.v1.conversation_pb2 import GetConversationRequest, ListConversationsRequest
from redoma.model.v1 import engine_pb2, model_pb2
from redoma.model.v1.engine_pb2 import GetEngineStateRequest
from redoma.tenant.v1 import api_key_pb2, meter_pb2, quota_pb2, tenant_pb2
from redoma.tenant.v1.tenant_pb2 import ListTenantsRequest
from redoma_cli.conformance.answer import OK, SLOWED, Answer
from redoma_cli.conformance.check import Probes, Severity
from redoma_cli.conformance.forgery import Forgery, forged_headers, forged_tokens
from redoma_cli.conformance.grpc_web import GRPC_WEB, GRPC_WEB_TEXT
from redoma_cli.conformance.http_client import Headers, NoAnswer
from redoma_cli.conformance.lab import Lab, LabTenant
from redoma_cli.conformance.treasure import Treasure, bury

UNKNOWN_CALLER = ("UNAUTHENTICATED",)
# What is not offered can't be misused either.
NOT_ALLOWED = ("PERMISSION_DENIED", "UNIMPLEMENTED")
NOT_SERVED = ("UNIMPLEMENTED", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED")
OWN = "tenants/-"
# Between services only, next to all of these services.
INTERNAL_METHODS = (
    "/redoma.tenant.v1.TenantService/GetContentChecks",
    "/redoma.tenant.v1.TenantService/ListContentPolicies",
    "/grpc.health.v1.Health/Check",
    "/envoy.service.auth.v3.Authorization/Check",
)
# Of services whose other methods a tenant's own administrator may call.
OPERATORS_METHODS = (
    "/redoma.tenant.v1.QuotaService/UpdateQuota",
    "/redoma.tenant.v1.UserService/CreateIdentityProvider",
    "/redoma.tenant.v1.UserService/ListIdentityProviders",
    "/redoma.tenant.v1.UserService/DeleteIdentityProvider",
)
TENANT_CAN = ("GetTenant", "GetQuota", "GetContentChecks", "ListContentPolicies")


class ForgedIdentity:
    """Headers, tokens and paths that a stranger or a tenant makes up."""

    id = "forged-identity"
    title = "Nobody is taken for another, and nothing internal is reached from outside"
    severity = Severity.CRITICAL
    why = "Whoever can say who he is without proof is every tenant at once, and the operator."
    alone = True

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Tries them without a key and with a tenant's."""
        probes.step("making a tenant that has something")
        treasure = await bury(lab, probes)
        thief = await lab.tenant()
        forgeries = [*forged_tokens(treasure.tenant), *forged_headers(treasure.tenant)]
        probes.step("a tenant's key with forged headers")
        for forgery in forgeries:
            await self._with_key(probes, treasure, thief, forgery)
        probes.step("operators' methods with a tenant's key")
        await self._operators_methods(probes, thief)
        probes.step("internal methods and odd paths")
        await self._internal(lab, probes, thief)
        await self._odd_paths(lab, probes, thief)
        # Last, as the address is slowed down for it.
        probes.step("forged credentials without a key")
        # Side by side, as each is made to wait.
        await asyncio.gather(*(self._without_key(lab, probes, treasure, forgery) for forgery in forgeries))

    async def _with_key(self, probes: Probes, treasure: Treasure, thief: LabTenant, forgery: Forgery) -> None:
        """Whatever the headers say, the caller is who his key says."""
        caller, headers = thief.caller, forgery.headers
        taken = await caller.ask(GetConversationRequest(name=treasure.conversation), headers, patient=True)
        _expect(
            probes,
            taken,
            ("PERMISSION_DENIED", "NOT_FOUND"),
            f"a tenant's key and {forgery.name}: another's conversation",
        )
        admin = await caller.ask(ListTenantsRequest(), headers, patient=True)
        _expect(probes, admin, NOT_ALLOWED, f"a tenant's key and {forgery.name}: ListTenants")
        listing = await caller.ask(ListConversationsRequest(parent=OWN), headers, patient=True)
        found = listing.holds(treasure.traces)
        probes.expect(
            not found,
            f"a tenant's key and {forgery.name}: its own conversations",
            "nothing of others",
            f"it holds {found}",
        )
        web = await _safely(caller.web(GetConversationRequest(name=treasure.conversation), headers))
        _expect(probes, web, ("PERMISSION_DENIED", "NOT_FOUND"), f"a tenant's key and {forgery.name}, by grpc-web")

    async def _without_key(self, lab: Lab, probes: Probes, treasure: Treasure, forgery: Forgery) -> None:
        requests: Sequence[Message] = (
            ListTenantsRequest(),
            ListConversationsRequest(parent=treasure.tenant.name),
            GetEngineStateRequest(),
        )
        for headers, place in forgery.places:
            for request in requests:
                name = f"no key and {forgery.name} {place}: {type(request).__name__.removesuffix('Request')}"
                _expect(probes, await lab.anyone.ask(request, headers), UNKNOWN_CALLER, name)
            rest = await _safely(lab.anyone.rest("GET", "/v1/models", headers))
            _expect(probes, rest, UNKNOWN_CALLER, f"no key and {forgery.name} {place}: GET /v1/models")
            for kind in (GRPC_WEB, GRPC_WEB_TEXT):
                web = await _safely(lab.anyone.web(requests[1], headers, kind=kind))
                _expect(probes, web, UNKNOWN_CALLER, f"no key and {forgery.name} {place}: {kind}")

    async def _operators_methods(self, probes: Probes, thief: LabTenant) -> None:
        # Empty requests: should one be let in, it can do no harm.
        for path in operators_methods():
            _expect(
                probes, await thief.caller.ask(Empty(), path=path, patient=True), NOT_ALLOWED, f"a tenant's key: {path}"
            )
        for request in (
            api_key_pb2.ListApiKeysRequest(parent="platform"),
            api_key_pb2.CreateApiKeyRequest(parent="platform"),
            api_key_pb2.CreateApiKeyRequest(
                parent=OWN, api_key=api_key_pb2.ApiKey(display_name="taken", scopes=["platform.admin"])
            ),
        ):
            answer = await thief.caller.ask(request, patient=True)
            allowed = ("PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND")
            _expect(probes, answer, allowed, f"a tenant's key: {type(request).__name__} for an operator")

    async def _internal(self, lab: Lab, probes: Probes, thief: LabTenant) -> None:
        for path in internal_methods():
            for caller, whose in ((thief.caller, "a tenant's"), (lab.admin, "the operator's")):
                answer = await caller.ask(Empty(), path=path)
                _expect(probes, answer, NOT_SERVED, f"{whose} key: {path}, for services alone")

    async def _odd_paths(self, lab: Lab, probes: Probes, thief: LabTenant) -> None:
        for path in odd_paths("/redoma.tenant.v1.MeterService/Reserve"):
            _expect(probes, await lab.admin.ask(Empty(), path=path), NOT_SERVED, f"the operator's key: {path}")
        for path in odd_paths("/redoma.tenant.v1.TenantService/ListTenants"):
            answer = await thief.caller.ask(Empty(), path=path, patient=True)
            _expect(probes, answer, NOT_SERVED, f"a tenant's key: {path}")
            web = await _safely(thief.caller.web(Empty(), path=path))
            _expect(probes, web, (*NOT_SERVED, "INVALID_ARGUMENT"), f"a tenant's key: {path}, by grpc-web")
        for target, headers in _odd_targets():
            answer = await _safely(lab.anyone.rest("GET", target, headers))
            listed = b'"object"' in answer.everything and b'"list"' in answer.everything
            probes.expect(
                not listed,
                f"no key: GET {target} {dict(headers) or ''}",
                "no list of models",
                f"{answer.label} with the list",
            )


def operators_methods() -> Iterator[str]:
    """Gives the path of every method that needs `platform.admin`."""
    services = (
        tenant_pb2.DESCRIPTOR.services_by_name["TenantService"],
        quota_pb2.DESCRIPTOR.services_by_name["QuotaService"],
        engine_pb2.DESCRIPTOR.services_by_name["EngineService"],
    )
    listed = [path for service in services for path in _paths(service)]
    yield from (path for path in listed if path.rsplit("/", 1)[-1] not in TENANT_CAN and path not in OPERATORS_METHODS)
    yield from OPERATORS_METHODS


def internal_methods() -> Iterator[str]:
    """Gives the path of every method that services call of each other."""
    yield from _paths(meter_pb2.DESCRIPTOR.services_by_name["MeterService"])
    yield from _paths(model_pb2.DESCRIPTOR.services_by_name["ModelService"])
    yield from _paths(content_pb2.DESCRIPTOR.services_by_name["ContentService"])
    yield from INTERNAL_METHODS


def odd_paths(path: str) -> Iterator[str]:
    """Gives other ways to write a path, which must lead nowhere that it does not lead itself."""
    _, service, method = path.split("/")
    yield f"/{path}"
    yield f"{path}/"
    yield f"/{service}//{method}"
    yield f"/{service.upper()}/{method}"
    yield f"/{service}/{method.lower()}"
    yield f"/{service[:-1]}%{ord(service[-1]):02x}/{method}"
    yield f"/x/../{service}/{method}"
    yield f"/x/%2e%2e/{service}/{method}"
    yield f"/healthz/..{path}"
    yield f"/redoma.chat.v1.ConversationService/..%2f..{path}"
    yield f"{path}?x=/redoma.chat.v1.ConversationService/ListConversations"


def _odd_targets() -> Iterator[tuple[str, Headers]]:
    for target in (
        "/v1/models",
        "//v1/models",
        "/v1//models",
        "/v1/models/",
        "/V1/MODELS",
        "/v1/%6dodels",
        "/healthz/../v1/models",
        "/healthz/%2e%2e/v1/models",
        "/healthz%2f..%2fv1/models",
        "/readyz/../v1/models",
        "/healthz;/../v1/models",
        "/v1/models?path=/healthz",
        "/v1/models#/healthz",
        "http://localhost/v1/models",
    ):
        yield target, ()
    for name in ("x-original-url", "x-rewrite-url", "x-envoy-original-path", "x-forwarded-uri", "x-http-path"):
        yield "/healthz", ((name, "/v1/models"),)


def _paths(service: ServiceDescriptor) -> list[str]:
    return [f"/{service.full_name}/{method.name}" for method in service.methods]


async def _safely(call: object) -> Answer:
    try:
        return await call  # type: ignore[no-any-return, misc]
    except (NoAnswer, OSError, TimeoutError):
        # Nothing came back, so nothing was given away.
        return Answer("UNAUTHENTICATED", message="no answer")


def _expect(probes: Probes, answer: Answer, codes: Sequence[str], probe: str) -> None:
    refused = answer.code in codes or answer.reason == SLOWED
    probes.expect(refused, probe, " or ".join(codes), answer.label if answer.code != OK else "it was let in")
