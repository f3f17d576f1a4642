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
from redoma_tenant.gate import Admission, Gate
from redoma_tenant.servicers.refusals import header, refusal

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"
BEARER = "bearer"


class AuthorizationServicer(external_auth_pb2_grpc.AuthorizationServicer):
    """Turns a credential into a signed identity, or into a refusal that the client can read."""

    def __init__(self, gate: Gate, errors: ErrorTable, log: structlog.stdlib.BoundLogger) -> None:
        self._gate = gate
        self._errors = errors
        self._log = log

    async def Check(self, request: CheckRequest, context: "Context") -> CheckResponse:
        """Decides on one request. Every refusal is an answer; a status is a defect, and Envoy then fails closed."""
        http = request.attributes.request.http
        _correlate(http.headers)
        try:
            admission = await self._gate.admit(http.method, http.path, credential_in(http.headers))
        except DomainError as error:
            failure = failure_of(error, self._errors)
            self._log.info(
                "refused", reason=failure.reason, source=request.attributes.source.address.socket_address.address
            )
            return refusal(failure, is_grpc=http.headers.get("content-type", "").startswith("application/grpc"))
        return _admitted(admission)


def credential_in(headers: Mapping[str, str]) -> str | None:
    """Gives the credential of a request; None if it has none of a kind that is taken.

    `x-api-key` counts only without an `authorization`, so that the two can't contradict each other.
    """
    authorization = headers.get(AUTHORIZATION)
    if authorization is None:
        return headers.get(API_KEY)
    scheme, _, credential = authorization.partition(" ")
    return (credential.strip() or None) if scheme.lower() == BEARER else None


def _correlate(headers: Mapping[str, str]) -> None:
    sent = headers.get(request_id.METADATA_KEY, "")
    if request_id.HARMLESS.fullmatch(sent):
        structlog.contextvars.bind_contextvars(request_id=sent)


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
