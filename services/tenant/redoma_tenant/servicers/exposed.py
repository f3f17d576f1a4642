"""What the edge may let in, read from the protos: methods, and REST paths from their google.api.http options."""

from collections.abc import Iterator, Sequence

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

from redoma.chat.v1 import conversation_pb2, message_pb2, openai_pb2
from redoma.model.v1 import engine_pb2
from redoma.provisioner.v1 import edge_pb2, network_pb2, operation_pb2
from redoma.tenant.v1 import api_key_pb2, audit_pb2, privacy_pb2, quota_pb2, tenant_pb2, usage_pb2, user_pb2
from redoma_kit.identity import PLATFORM_ADMIN
from redoma_kit.policy import EDGE, Policy
from redoma_kit.rest import RestPath, method_path, rest_paths
from redoma_tenant.api_key import CONVERSATIONS, GENERATE
from redoma_tenant.policy import PLATFORM, TENANT_ADMIN, TENANT_OWNER, TENANT_READ
from redoma_tenant.routes import Route, RouteTable

# chat passes its callers' identities on: to the model, and to this service for the content checks. Such an identity
# carries generation scopes and is made for a method of chat's, so it administers nothing.
CHAT_AUDIENCE = ("chat", "model", "tenant")
TENANT_AUDIENCE = ("tenant",)
# For operators only: what it shows and does concerns all tenants.
MODEL_AUDIENCE = ("model",)
PROVISIONER_AUDIENCE = ("provisioner",)
CHAT_SCOPES = frozenset({GENERATE, CONVERSATIONS})
CHAT_FILES = (openai_pb2.DESCRIPTOR, conversation_pb2.DESCRIPTOR, message_pb2.DESCRIPTOR)
TENANT_FILES = (
    tenant_pb2.DESCRIPTOR,
    user_pb2.DESCRIPTOR,
    api_key_pb2.DESCRIPTOR,
    quota_pb2.DESCRIPTOR,
    usage_pb2.DESCRIPTOR,
    audit_pb2.DESCRIPTOR,
    privacy_pb2.DESCRIPTOR,
)
# Services without audit trails of their own, by what their identities are for.
OPERATORS_FILES = {
    MODEL_AUDIENCE: (engine_pb2.DESCRIPTOR,),
    PROVISIONER_AUDIENCE: (network_pb2.DESCRIPTOR, operation_pb2.DESCRIPTOR, edge_pb2.DESCRIPTOR),
}
# A site that joins has no key yet, and comes to a port of its own; services follow the replicas by their certificates.
NOT_ROUTED = frozenset(
    {
        "/redoma.provisioner.v1.NetworkService/RedeemLinkGrant",
        "/redoma.provisioner.v1.NetworkService/WatchReplicas",
    }
)
OPENAI_SERVICE = "redoma.chat.v1.OpenAIService"
# The scopes from the least to the greatest: whoever is refused is told to get the least that would do.
RANKED_SCOPES = (GENERATE, CONVERSATIONS, TENANT_READ, TENANT_ADMIN, TENANT_OWNER, PLATFORM_ADMIN)


def edge_routes(policy: Policy) -> RouteTable:
    """Gives the routes to every method of chat, to those of this service that `policy` opens, and to what operators do
    with engines and with the network."""
    routes: list[Route] = []
    rest: list[tuple[RestPath, Route]] = []
    for service in _services(CHAT_FILES):
        wanted = GENERATE if service.full_name == OPENAI_SERVICE else CONVERSATIONS
        for method in service.methods:
            route = Route(method_path(method), CHAT_AUDIENCE, CHAT_SCOPES, wanted)
            routes.append(route)
            rest += ((path, route) for path in rest_paths(method))
    for service in _services(TENANT_FILES):
        for method in service.methods:
            rule = policy.get(method_path(method))
            if rule is not None and rule.peers & EDGE:
                scopes = rule.any_scope | rule.all_scopes
                routes.append(Route(method_path(method), TENANT_AUDIENCE, scopes, _least(scopes)))
    for audience, files in OPERATORS_FILES.items():
        paths = (method_path(method) for service in _services(files) for method in service.methods)
        routes += (
            Route(path, audience, PLATFORM, PLATFORM_ADMIN, is_noted=True) for path in paths if path not in NOT_ROUTED
        )
    return RouteTable(routes, rest)


def _least(scopes: frozenset[str]) -> str:
    return min(scopes, key=RANKED_SCOPES.index)


def _services(files: Sequence[FileDescriptor]) -> Iterator[ServiceDescriptor]:
    for file in files:
        yield from file.services_by_name.values()
