"""Why the tenant service refuses, and the status each refusal maps to."""

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_kit.errors import DomainError, ErrorRule, ErrorTable


class CannotStart(Exception):
    """The service can't start; the message says what to mend. Not for callers."""


class CredentialExpired(DomainError):
    """The API key has passed its expiry."""

    def __init__(self) -> None:
        super().__init__("This API key has expired; create a new one.")


class CredentialRevoked(DomainError):
    """The API key was revoked."""

    def __init__(self) -> None:
        super().__init__("This API key was revoked; create a new one.")


class TenantDisabled(DomainError):
    """The key's tenant is disabled."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"The tenant {tenant} is disabled.", {"tenant": tenant})


class OperatorKeyRefused(DomainError):
    """An operator's key was used where only a tenant's may be."""

    def __init__(self, scope: str) -> None:
        super().__init__("This is an operator key: create a tenant key with `redoma key create`.", {"scope": scope})


class EtagMismatch(DomainError):
    """The resource was changed since the caller read it."""

    def __init__(self, resource: str, etag: str) -> None:
        super().__init__(f"{resource} was changed since it was read; read it again, then change it.", {"etag": etag})


class StateConflict(DomainError):
    """The resource is not in a state that allows the call. `problem` is the rest of a sentence that begins with it."""

    def __init__(self, resource: str, state: str, problem: str) -> None:
        super().__init__(f"{resource} {problem}", {"state": state})


class ResourceInUse(DomainError):
    """Something else still uses the resource."""

    def __init__(self, resource: str, used_by: str) -> None:
        super().__init__(f"{resource} is still used by {used_by}.", {"resource": resource, "used_by": used_by})


class ServiceUnreachable(DomainError):
    """Another service that the call needs does not answer."""

    def __init__(self, service: str) -> None:
        super().__init__(f"The {service} service does not answer right now; try again.")


ERRORS: ErrorTable = {
    ServiceUnreachable: ErrorRule(grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE, 1.0),
    CredentialExpired: ErrorRule(grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_CREDENTIAL_EXPIRED),
    CredentialRevoked: ErrorRule(grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_CREDENTIAL_REVOKED),
    TenantDisabled: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_TENANT_DISABLED),
    EtagMismatch: ErrorRule(grpc.StatusCode.ABORTED, ErrorReason.ERROR_REASON_ETAG_MISMATCH),
    StateConflict: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_STATE_CONFLICT),
    ResourceInUse: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_RESOURCE_IN_USE),
    OperatorKeyRefused: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_SCOPE_MISSING),
}
