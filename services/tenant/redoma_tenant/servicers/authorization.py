"""Envoy's ext_authz: asks the gate about each request at the edge and answers in Envoy's words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog
from envoy.service.auth.v3 import external_auth_pb2_grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse, OkHttpResponse
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2

from redoma_kit.errors import DomainError, ErrorTable, failure_of
from redoma_kit.identity import METADATA_KEY
from redoma_kit.interceptors import request_id
from redoma_tenant.gate import Admission, Gate, Request
from redoma_tenant.servicers.refusals import header, refusal
from redoma_tenant.sources import source_of

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"
FORWARDED_FOR = "x-forwarded-for"
BEARER = "bearer"


class AuthorizationServicer(external_auth_pb2_grpc.AuthorizationServicer):
    """Turns a credential into a signed identity, or into a refusal that the client can read."""

    def __init__(self, gate: Gate, errors: ErrorTable, trusted_hops: int, log: structlog.stdlib.BoundLogger) -> None:
        self._gate = gate
        self._errors = errors
        self._trusted_hops = trusted_hops
        self._log = log

    async def Check(self, request: CheckRequest, context: "Context") -> CheckResponse:
        """Decides on one request. Every refusal is an answer; a status is a defect, and Envoy then fails closed."""
        asked = self._request(request)
        try:
            return _admitted(await self._gate.admit(asked))
        except DomainError as error:
            failure = failure_of(error, self._errors)
            self._log.info("refused", reason=failure.reason, source=asked.source)
            headers = request.attributes.request.http.headers
            return refusal(failure, is_grpc=headers.get("content-type", "").startswith("application/grpc"))

    def _request(self, request: CheckRequest) -> Request:
        http, peer = request.attributes.request.http, request.attributes.source.address.socket_address.address
        return Request(
            verb=http.method,
            path=http.path,
            credential=credential_in(http.headers),
            source=source_of(http.headers.get(FORWARDED_FOR, ""), peer, self._trusted_hops),
            request_id=_correlated(http.headers),
        )


def credential_in(headers: Mapping[str, str]) -> str | None:
    """Gives the credential of a request; None if it has none of a kind that is taken.

    `x-api-key` counts only without an `authorization`, so that the two can't contradict each other.
    """
    authorization = headers.get(AUTHORIZATION)
    if authorization is None:
        return headers.get(API_KEY)
    scheme, _, credential = authorization.partition(" ")
    return (credential.strip() or None) if scheme.lower() == BEARER else None


def _correlated(headers: Mapping[str, str]) -> str:
    """Gives the id of the request that is asked about, and has the log say it too."""
    sent = headers.get(request_id.METADATA_KEY, "")
    if not request_id.HARMLESS.fullmatch(sent):
        return request_id.current_request_id()
    structlog.contextvars.bind_contextvars(request_id=sent)
    return sent


def _admitted(admission: Admission) -> CheckResponse:
    metadata = Struct()
    metadata.update({"tenant": admission.principal.tenant, "principal": admission.principal.name})
    return CheckResponse(
        status=status_pb2.Status(),
        ok_response=OkHttpResponse(
            headers=[header(METADATA_KEY, admission.token)], headers_to_remove=[AUTHORIZATION, API_KEY]
        ),
        dynamic_metadata=metadata,
    )
