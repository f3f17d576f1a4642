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


ERRORS: ErrorTable = {
    CredentialExpired: ErrorRule(grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_CREDENTIAL_EXPIRED),
    CredentialRevoked: ErrorRule(grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_CREDENTIAL_REVOKED),
    TenantDisabled: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_TENANT_DISABLED),
    OperatorKeyRefused: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_SCOPE_MISSING),
}
