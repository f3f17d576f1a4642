"""Who may call what: one table per service, and a method that is not in it is denied."""

from collections.abc import Mapping
from dataclasses import dataclass

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
PROBES = frozenset({HEALTH_CHECK, HEALTH_WATCH})
REFLECTION = (
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
ANY_PEER = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Rule:
    """What a call of one method needs.

    Attributes:
        peers: SPIFFE ids whose certificates may call; ANY_PEER is any that the authority signed.
        any_scope: The identity needs one of these; empty needs none.
        all_scopes: The identity needs all of these.
        identity: Whether a signed identity is required.
        bound_method: Whether the identity must have been minted for this very method. Off where another service passes
            on the identity of the call it works on.
        max_s: The longest a call may last, in seconds; None is the service's max_stream_s.
    """

    peers: frozenset[str]
    any_scope: frozenset[str] = frozenset()
    all_scopes: frozenset[str] = frozenset()
    identity: bool = True
    bound_method: bool = True
    max_s: float | None = None


Policy = Mapping[str, Rule]


def spiffe_id(site: str, service: str) -> str:
    """Gives the URI name in a service's certificate."""
    return f"spiffe://redoma/{site}/{service}"


EDGE = frozenset({spiffe_id("public", "edge")})
CHAT = frozenset({spiffe_id("public", "chat")})
TENANT = frozenset({spiffe_id("public", "tenant")})
PROVISIONER = frozenset({spiffe_id("public", "provisioner")})
EGRESS = frozenset({spiffe_id("public", "egress")})

HEALTH_POLICY: Policy = {
    HEALTH_CHECK: Rule(peers=ANY_PEER, identity=False, max_s=10.0),
    HEALTH_WATCH: Rule(peers=ANY_PEER, identity=False),
}
REFLECTION_POLICY: Policy = {method: Rule(peers=ANY_PEER, identity=False) for method in REFLECTION}
