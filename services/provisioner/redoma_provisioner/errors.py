"""Why the provisioner refuses, and the status each refusal maps to."""

from datetime import datetime

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma_kit.errors import DomainError, ErrorRule, ErrorTable
from redoma_provisioner.network.driver import DriverKind


class CannotStart(Exception):
    """The service can't start; the message says what to mend. Not for callers."""


class EtagMismatch(DomainError):
    """The resource was changed since it was read."""

    def __init__(self, etag: str) -> None:
        super().__init__("It was changed meanwhile; read it again, and repeat the change.", {"etag": etag})


class StateConflict(DomainError):
    """The resource is in a state in which this can't be done; the message says what can."""


class GrantUnknown(DomainError):
    """No grant has this code."""

    def __init__(self) -> None:
        super().__init__(
            "No grant has this code: it is of another Redoma, or its site was deleted. Ask for a token made by "
            "`redoma van grant`."
        )


class GrantRedeemed(DomainError):
    """A site joined with the grant already."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"The site {site} has joined with this token already; each lets in one site, once. Ask for another.",
            {"site": f"sites/{site}"},
        )


class GrantExpired(DomainError):
    """The time to redeem the grant has passed."""

    def __init__(self, expire_time: datetime) -> None:
        super().__init__(
            f"This token expired at {expire_time:%Y-%m-%d %H:%M:%S} UTC. Ask for another.",
            {"expire_time": expire_time.isoformat()},
        )


class GrantRevoked(DomainError):
    """The grant was revoked, or its site was."""

    def __init__(self) -> None:
        super().__init__("This token was revoked, perhaps by a newer one for the same site. Ask for another.")


class JoinSlowed(DomainError):
    """Too many wrong codes came from the caller's address lately."""

    def __init__(self) -> None:
        super().__init__("Too many wrong tokens came from this address; wait a minute and try again.")


class SiteUnreachable(DomainError):
    """The private site does not answer."""

    def __init__(self, site: str) -> None:
        super().__init__(
            f"The site {site} does not answer; `redoma van status` tells what is wrong with its link.",
            {"site": f"sites/{site}"},
        )


class SiteRefused(StateConflict):
    """A private site answered, and would not; the message has its words."""


class NetworkDriverRefused(DomainError):
    """What carries the network refused; the message has its words."""

    def __init__(self, driver: DriverKind, message: str) -> None:
        super().__init__(message, {"driver": driver.value})


class NetworkDriverUnavailable(DomainError):
    """What carries the network can't be reached."""

    def __init__(self, driver: DriverKind, message: str) -> None:
        super().__init__(message, {"driver": driver.value})


class NodeMismatch(DomainError):
    """An Envoy gives itself out as another one than its certificate says."""

    def __init__(self, node: str, proxy: str) -> None:
        super().__init__(
            f"The certificate is that of {proxy or 'no Envoy of this site'}, and the node's id is {node[:100]!r}; "
            "start Envoy with what `redoma-provisioner --print-bootstrap` prints."
        )


ERRORS: ErrorTable = {
    NodeMismatch: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_METHOD_DENIED),
    EtagMismatch: ErrorRule(grpc.StatusCode.ABORTED, ErrorReason.ERROR_REASON_ETAG_MISMATCH),
    StateConflict: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_STATE_CONFLICT),
    SiteRefused: ErrorRule(grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_STATE_CONFLICT),
    GrantUnknown: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_GRANT_UNKNOWN),
    GrantRedeemed: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_GRANT_REDEEMED),
    GrantExpired: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_GRANT_EXPIRED),
    GrantRevoked: ErrorRule(grpc.StatusCode.PERMISSION_DENIED, ErrorReason.ERROR_REASON_GRANT_REVOKED),
    JoinSlowed: ErrorRule(grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorReason.ERROR_REASON_SIGN_IN_SLOWED, 60.0),
    SiteUnreachable: ErrorRule(grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_SITE_UNREACHABLE, 2.0),
    NetworkDriverRefused: ErrorRule(
        grpc.StatusCode.FAILED_PRECONDITION, ErrorReason.ERROR_REASON_NETWORK_DRIVER_REFUSED
    ),
    NetworkDriverUnavailable: ErrorRule(
        grpc.StatusCode.UNAVAILABLE, ErrorReason.ERROR_REASON_NETWORK_DRIVER_UNAVAILABLE, 5.0
    ),
}
