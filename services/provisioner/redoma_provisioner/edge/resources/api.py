"""What the edge offers to the world, read from the descriptors: methods, their REST paths, and who serves them."""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2

from redoma.chat.v1 import conversation_pb2, message_pb2, openai_pb2
from redoma.model.v1 import engine_pb2
from redoma.provisioner.v1 import edge_pb2, network_pb2, operation_pb2
from redoma.tenant.v1 import api_key_pb2, audit_pb2, privacy_pb2, quota_pb2, tenant_pb2, usage_pb2, user_pb2
from redoma_kit.rest import RestPath, method_path, rest_paths

CHAT, TENANT, PROVISIONER, EGRESS = "chat", "tenant", "provisioner", "egress"
# Between services only.
NEVER_ROUTED = frozenset(
    {
        "/redoma.tenant.v1.TenantService/GetContentChecks",
        "/redoma.tenant.v1.TenantService/ListContentPolicies",
        "/redoma.provisioner.v1.NetworkService/RedeemLinkGrant",
        "/redoma.provisioner.v1.NetworkService/WatchReplicas",
    }
)


@dataclass(frozen=True, slots=True)
class EdgeMethod:
    """A method that the edge lets in.

    Attributes:
        path: Full name of the gRPC method, which is its HTTP/2 path.
        cluster: Who serves it.
        rest: Its REST paths.
    """

    path: str
    cluster: str
    rest: tuple[RestPath, ...]


def routed_services() -> tuple[tuple[ServiceDescriptor, str], ...]:
    """Gives each service that has a method on the edge, with its cluster. ModelService is never one of them."""
    return (
        (conversation_pb2.DESCRIPTOR.services_by_name["ConversationService"], CHAT),
        (message_pb2.DESCRIPTOR.services_by_name["ChatService"], CHAT),
        (openai_service(), CHAT),
        (tenant_pb2.DESCRIPTOR.services_by_name["TenantService"], TENANT),
        (user_pb2.DESCRIPTOR.services_by_name["UserService"], TENANT),
        (api_key_pb2.DESCRIPTOR.services_by_name["ApiKeyService"], TENANT),
        (quota_pb2.DESCRIPTOR.services_by_name["QuotaService"], TENANT),
        (usage_pb2.DESCRIPTOR.services_by_name["UsageService"], TENANT),
        (audit_pb2.DESCRIPTOR.services_by_name["AuditService"], TENANT),
        (privacy_pb2.DESCRIPTOR.services_by_name["PrivacyService"], TENANT),
        (network_pb2.DESCRIPTOR.services_by_name["NetworkService"], PROVISIONER),
        (operation_pb2.DESCRIPTOR.services_by_name["OperationService"], PROVISIONER),
        (edge_pb2.DESCRIPTOR.services_by_name["EdgeService"], PROVISIONER),
        (engine_service(), EGRESS),
    )


def openai_service() -> ServiceDescriptor:
    """Gives the service whose REST paths the edge transcodes."""
    return openai_pb2.DESCRIPTOR.services_by_name["OpenAIService"]


def engine_service() -> ServiceDescriptor:
    """Gives the service of which an operator may name the replica."""
    return engine_pb2.DESCRIPTOR.services_by_name["EngineService"]


def edge_methods() -> tuple[EdgeMethod, ...]:
    """Gives every method that the edge lets in."""
    return tuple(
        EdgeMethod(path, cluster, tuple(rest_paths(method)))
        for service, cluster in routed_services()
        for method in service.methods
        if (path := method_path(method)) not in NEVER_ROUTED
    )


def transcoder_descriptors() -> bytes:
    """Gives a FileDescriptorSet with the transcoded service, all it needs, and the details that errors carry."""
    seen: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        for dependency in file.dependencies:
            visit(dependency)
        seen.setdefault(file.name, file)

    roots: Sequence[FileDescriptor] = (openai_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)
    for root in roots:
        visit(root)
    descriptors = descriptor_pb2.FileDescriptorSet()
    for file in seen.values():
        file.CopyToProto(descriptors.file.add())
    return descriptors.SerializeToString(deterministic=True)
