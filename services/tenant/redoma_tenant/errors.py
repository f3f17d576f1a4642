"""Why the tenant service refuses, and the status each refusal maps to."""

from collections.abc import Sequence

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_kit.errors import DomainError, ErrorRule, ErrorTable, Violation
from redoma_tenant.meter.shortage import LimitScope, Shortage, worst


class CannotStart(Exception):
    """The service can't start; the message says what to mend. Not for callers."""


class CredentialExpired(DomainError):
    """The API key or the token has passed its expiry."""

    def __init__(self, message: str = "This API key has expired; create a new one.") -> None:
        super().__init__(message)


class CredentialRevoked(DomainError):
    """The API key was revoked, or the user may not sign in."""

    def __init__(self, message: str = "This API key was revoked; create a new one.") -> None:
        super().__init__(message)


class TenantDisabled(DomainError):
    """The key's tenant is disabled."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"The tenant {tenant} is disabled.", {"tenant": tenant})


class OperatorKeyRefused(DomainError):
    """An operator's key was used where only a tenant's may be."""

    def __init__(self, scope: str) -> None:
        super().__init__("This is an operator key: create a tenant key with `redoma key create`.", {"scope": scope})


class ModelsDenied(DomainError):
    """The key may use models alone that its tenant may not."""

    def __init__(self, scope: str) -> None:
        super().__init__(
            "Of the models that this key may use, its tenant may use none; change the key with `redoma key update`.",
            {"scope": scope},
        )


class RoleMissing(DomainError):
    """The token is good, and nothing says what its user may do."""

    def __init__(self, scope: str) -> None:
        super().__init__("This account has no role here; ask an administrator to give it one.", {"scope": scope})


class SourceDenied(DomainError):
    """The key may not be used from the caller's address."""

    def __init__(self) -> None:
        super().__init__("This API key may not be used from this address; its networks are set by `redoma key update`.")


class SignInSlowed(DomainError):
    """Too many credentials from the caller's address were refused lately."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(
            "Too many credentials from this address were refused; mend the credential, and wait before trying again.",
            retry_after_s=retry_after_s,
        )


class IdentityProviderUnavailable(DomainError):
    """The keys of an identity provider can't be fetched. `problem` is the rest of a sentence that begins with it."""

    def __init__(self, issuer: str, problem: str = "does not answer; try again.") -> None:
        super().__init__(f"The identity provider {issuer} {problem}", {"issuer": issuer})


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


class QuotaExceeded(DomainError):
    """A limit of the tenant or of the key has no room for the call."""

    def __init__(self, tenant: str, principal: str, shortages: Sequence[Shortage]) -> None:
        longest = worst(shortages)
        help_text = "try again later." if longest.retry_after_s is not None else "ask for less, or for a higher limit."
        super().__init__(
            f"{longest.sentence} {help_text.capitalize()}",
            {
                "limit": longest.limit,
                "scope": longest.scope.value,
                "limit_value": str(longest.limit_value),
                "remaining": str(longest.remaining),
            },
            longest.retry_after_s,
            [
                Violation(f"tenants/{tenant}" if one.scope is LimitScope.TENANT else principal, one.sentence)
                for one in shortages
            ],
        )


class ServiceUnreachable(DomainError):
    """Another service that the call needs does not answer."""

    def __init__(self, service: str) -> None:
        super().__init__(f"The {service} service does not answer right now; try again.")


class AuditDamaged(DomainError):
    """An entry of an audit chain can't be read any more: somebody else wrote to the database."""

    def __init__(self, entry: str) -> None:
        super().__init__(f"{entry} was changed by others and can't be read; `redoma audit verify` says more.")


ERRORS: ErrorTable = {
    AuditDamaged: ErrorRule(grpc.StatusCode.DATA_LOSS, ErrorReason.ERROR_REASON_CONTENT_UNREADABLE),
    QuotaExceeded: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_QUOTA_EXCEEDED),
    ServiceUnreachable: ErrorRule(grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE, 1.0),
    CredentialExpired: ErrorRule(grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_CREDENTIAL_EXPIRED),
    CredentialRevoked: ErrorRule(grpc.StatusCode.UNAUTHENTICATED, ErrorReason.ERROR_REASON_CREDENTIAL_REVOKED),
    TenantDisabled: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_TENANT_DISABLED),
    ModelsDenied: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_SCOPE_MISSING),
    RoleMissing: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_SCOPE_MISSING),
    SourceDenied: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_SOURCE_DENIED),
    SignInSlowed: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_SIGN_IN_SLOWED, 60.0),
    IdentityProviderUnavailable: ErrorRule(
        grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_IDENTITY_PROVIDER_UNAVAILABLE, 5.0
    ),
    EtagMismatch: ErrorRule(grpc.StatusCode.ABORTED, ErrorReason.ERROR_REASON_ETAG_MISMATCH),
    StateConflict: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_STATE_CONFLICT),
    ResourceInUse: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_RESOURCE_IN_USE),
    OperatorKeyRefused: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_SCOPE_MISSING),
}
