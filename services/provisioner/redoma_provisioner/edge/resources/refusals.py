"""What the Envoys between two sites say when a call did not get through, so that the driver can tell why."""

from collections.abc import Mapping, Sequence

from redoma_provisioner.edge.resources.names import NOT_SENT_HEADER
from redoma_provisioner.edge.resources.stream_manager import overwritten, reply
from redoma_provisioner.edge.snapshot import Config

REFUSAL_HEADER = "redoma-refusal"
NO_TUNNEL = "no-tunnel"
NO_SERVICE = "no-service"
NOT_EXPOSED = "not-exposed"
WORDS: Mapping[str, str] = {
    NO_TUNNEL: "no tunnel of the site carries calls",
    NO_SERVICE: "the service does not answer in its site",
    NOT_EXPOSED: "the site exposes nothing of that routing key",
}
# No connection could be made, or there is none: the service has seen nothing of the call.
NOT_SENT_FLAGS = ("UF", "UH", "NC")


def not_sent_replies(refusal: str) -> Sequence[Config]:
    """Marks an Envoy's own answers to calls that it could not send on."""
    return (reply(NOT_SENT_FLAGS, WORDS[refusal], _headers(refusal)),)


def refusing_route(refusal: str) -> Config:
    """Gives a route that refuses every call; gRPC callers get UNAVAILABLE."""
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 503, "body": {"inline_string": WORDS[refusal]}},
        "response_headers_to_add": [overwritten(name, value) for name, value in _headers(refusal).items()],
    }


def _headers(refusal: str) -> Mapping[str, str]:
    return {NOT_SENT_HEADER: "1", REFUSAL_HEADER: refusal}
